"""Packages on real services: written once for a version, the manifest last, and proven by loading them back."""

import json
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.errors import ArtifactCorrupt, NotTrained, PackageCorrupt, UnknownName
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.resources import key as asset_key
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger, versions
from pipeline_assets.model_lifecycle.training.contract import ModelContract
from pipeline_assets.serving.realtime import assets
from pipeline_assets.serving.realtime.package import (
    CONTRACT_FILE,
    MANIFEST,
    MODEL_FILE,
    SELFTEST_FILE,
    Package,
    build_package,
    load_package,
    read_package,
    verify_package,
    write_package,
)
from pipeline_assets.serving.realtime.selftest import matrix
from pipeline_assets.serving.realtime.service.packages import Packages
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Task
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets_tests.live_models import go_live
from pipeline_assets_tests.model_rows import MULTICLASS, REGRESSION, START, small_model
from pipeline_assets_tests.stack_env import write_stack_env

FILES = (MODEL_FILE, CONTRACT_FILE, SELFTEST_FILE)


@pytest.fixture
def settings(isolated: Settings, stack: Settings) -> Settings:
    """Services with an empty warehouse and bucket, and the model registry of the session."""
    return isolated.model_copy(update={"mlflow_url": stack.mlflow_url})


@pytest.fixture
def model() -> Model:
    """A model of its own name."""
    return small_model(f"small_{token_hex(4)}")


def key(package: Package, name: str) -> str:
    """Where a file of the package lies in the bucket."""
    return f"{'/'.join(names.package(package.model))}/{package.version}/{name}"


def read(settings: Settings, package: Package, name: str) -> bytes:
    """The bytes of a file of the package."""
    content: bytes = object_store(settings).get_object(Bucket=settings.s3_bucket, Key=key(package, name))["Body"].read()
    return content


def write(settings: Settings, package: Package, name: str, content: bytes) -> None:
    """Puts other bytes in the place of a file."""
    object_store(settings).put_object(Bucket=settings.s3_bucket, Key=key(package, name), Body=content)


def test_a_package_holds_the_live_version_and_passes(settings: Settings, model: Model) -> None:
    """The registry's own bytes and contract, golden rows with nulls, hashes of all; loaded back, every score is equal to the last bit."""
    live = go_live(settings, model, seed=1, live_from=START)
    package = build_package(settings, model)
    verdict = verify_package(settings, model, live, latency_rows=20)
    selftest = json.loads(read(settings, package, SELFTEST_FILE))

    assert (package.version, set(package.files)) == (live, set(FILES))
    assert read(settings, package, MODEL_FILE) == versions.load(settings, model, live).artifact
    assert ModelContract.from_json(read(settings, package, CONTRACT_FILE)) == versions.load(settings, model, live).contract
    assert read_package(settings, model.name, live) == verdict.package == package
    assert (verdict.problems, verdict.golden_rows) == ((), len(selftest["rows"]))
    assert 30 <= verdict.golden_rows <= 60
    assert any(value is None for row in selftest["rows"][:-1] for value in row)
    assert verdict.latency is not None


@pytest.mark.parametrize("task", [MULTICLASS, REGRESSION], ids=lambda task: type(task).__name__)
def test_a_package_of_any_task_is_loaded_by_name(settings: Settings, task: Task) -> None:
    """Contract, scorer and golden rows come from the files alone; the golden rows get their scores, one or several each."""
    named = small_model(f"small_{token_hex(4)}", task)
    live = go_live(settings, named, seed=1, live_from=START)
    build_package(settings, named)
    contract, scorer, known = load_package(settings, named, live)
    scores = scorer.score_values(matrix(contract.features, known))

    assert contract == scorer.contract == versions.load(settings, named, live).contract
    assert json.loads(json.dumps(known.scores)) == scores.tolist()
    assert verify_package(settings, named, live, latency_rows=20).problems == ()


def test_a_package_never_changes(settings: Settings, model: Model) -> None:
    """Built again it is what it was, and made anew from nothing it is the same bytes; a new live version gets a folder of its own."""
    go_live(settings, model, seed=1, live_from=START)
    first = build_package(settings, model)
    again = build_package(settings, model)
    object_store(settings).delete_object(Bucket=settings.s3_bucket, Key=key(first, MANIFEST))
    write(settings, first, MODEL_FILE, b"half of a model")
    anew = build_package(settings, model)
    second = build_package(settings, model) if go_live(settings, model, seed=2, live_from=START) else first

    assert first == again == anew
    assert verify_package(settings, model, first.version, latency_rows=5).problems == ()
    assert second.version > first.version
    assert second.files[MODEL_FILE] != first.files[MODEL_FILE]


def test_a_package_without_manifest_is_none(settings: Settings, model: Model) -> None:
    """A build that was killed before its last write left nothing that anybody would load."""
    live = go_live(settings, model, seed=1, live_from=START)
    package = build_package(settings, model)
    object_store(settings).delete_object(Bucket=settings.s3_bucket, Key=key(package, MANIFEST))

    assert read_package(settings, model.name, live) is None
    with pytest.raises(UnknownName, match=f"'{live}'"):
        verify_package(settings, model, live)


@pytest.mark.parametrize("name", FILES)
def test_changed_or_missing_files_are_found_before_they_are_used(settings: Settings, model: Model, name: str) -> None:
    """A file with other bytes, or none, is named; nothing of the package is loaded then, and built again it is whole."""
    live = go_live(settings, model, seed=1, live_from=START)
    package = build_package(settings, model)
    write(settings, package, name, read(settings, package, name) + b" ")
    changed = verify_package(settings, model, live)
    object_store(settings).delete_object(Bucket=settings.s3_bucket, Key=key(package, name))
    missing = verify_package(settings, model, live)

    with pytest.raises(PackageCorrupt, match=f"version {live}: {name} is missing"):
        load_package(settings, model, live)
    write(settings, package, MANIFEST, read(settings, package, MANIFEST)[:-20])
    with pytest.raises(PackageCorrupt, match=rf"version {live}: package\.json cannot be read"):
        load_package(settings, model, live)

    assert build_package(settings, model) == package
    assert verify_package(settings, model, live, latency_rows=5).problems == ()
    assert [problem.split(" has sha256 ")[0] for problem in changed.problems] == [name]
    assert missing.problems == (f"{name} is missing",)
    assert (changed.latency, changed.golden_rows, missing.latency) == (None, 0, None)


@pytest.mark.parametrize("name", [CONTRACT_FILE, SELFTEST_FILE, MANIFEST])
def test_files_that_are_junk_by_their_own_manifest_are_named_and_made_anew(settings: Settings, model: Model, name: str) -> None:
    """Regression: junk whose hash somebody had made to fit ended in a trace, and was not healed by building the package again."""
    live = go_live(settings, model, seed=1, live_from=START)
    package = build_package(settings, model)
    files = {one: read(settings, package, one) for one in FILES}
    for junk in (b"[]", b"{}", b'"text"', b"[" * 100_000):
        if name == MANIFEST:
            write(settings, package, MANIFEST, junk)
        else:
            write_package(settings, model.name, live, {**files, name: junk})
        with pytest.raises(PackageCorrupt, match="cannot be read"):
            load_package(settings, model, live)

    assert build_package(settings, model) == package
    assert verify_package(settings, model, live).problems == ()


def test_a_package_of_another_version_in_its_place_is_refused(settings: Settings, model: Model, tmp_path: Path) -> None:
    """All of its files agree with each other; that the ledger has noted another contract gives them away."""
    live = go_live(settings, model, seed=1, live_from=START)
    first = build_package(settings, model)
    entry = ledger.history(settings, model)[-1]
    packages = Packages(settings, tmp_path)
    assert packages.load(model, live, entry.contract_sha256) is not None
    go_live(settings, model, seed=2, live_from=START)
    other = build_package(settings, model)
    files = {name: read(settings, other, name) for name in FILES}
    write_package(settings, model.name, live, files)

    with pytest.raises(PackageCorrupt, match=f"the ledger has noted {entry.contract_sha256}"):
        load_package(settings, model, live)
    with pytest.raises(PackageCorrupt, match="the ledger has noted"):
        Packages(settings, tmp_path / "another machine").load(model, live, entry.contract_sha256)
    assert "the ledger has noted" in " ".join(verify_package(settings, model, live).problems)
    assert first.files[CONTRACT_FILE].sha256 == entry.contract_sha256


def test_what_is_live_and_whole_is_packed_and_nothing_else(settings: Settings, model: Model) -> None:
    """Without a live version, or with a training set of other bytes than the contract says, there is no package."""
    with pytest.raises(NotTrained, match="has no live version"):
        build_package(settings, model)
    live = go_live(settings, model, seed=1, live_from=START)
    path = versions.load(settings, model, live).contract.training_set
    object_store(settings).put_object(Bucket=settings.s3_bucket, Key=path.split("/", 3)[3], Body=b"other rows")
    with pytest.raises(ArtifactCorrupt, match="training_sets"):
        build_package(settings, model)

    assert read_package(settings, model.name, live) is None


def test_a_run_builds_the_package_and_checks_it(settings: Settings, model: Model, tmp_path: Path) -> None:
    """Version, files and latency in the metadata; the self-test passes, and fails in a second run if a score is not the known one."""
    live = go_live(settings, model, seed=1, live_from=START)
    write_stack_env(settings, tmp_path)
    asset = package_asset(model)
    result = dg.materialize([asset], resources={"platform": Platform(home=str(tmp_path))})
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    package = build_package(settings, model)
    stored = json.loads(read(settings, package, SELFTEST_FILE))
    _publish_anew(settings, package, {**stored, "scores": [0.5, *stored["scores"][1:]]})
    broken = dg.materialize([asset], resources={"platform": Platform(home=str(tmp_path))}, raise_on_error=False)

    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {"selftest": True, "latency": True}
    assert (metadata["model_version"].value, metadata["golden_rows"].value) == (live, len(stored["rows"]))
    assert 0 < float(str(metadata["p50_ms"].value)) <= float(str(metadata["p95_ms"].value))
    assert {check.check_name: check.passed for check in broken.get_asset_check_evaluations()}["selftest"] is False


def test_the_version_that_the_run_made_live_is_packaged(settings: Settings, model: Model, tmp_path: Path) -> None:
    """The champion of the run hands its version over, and a config names one; only without both it is what is live by now."""
    versions_live = [go_live(settings, model, seed=seed, live_from=START) for seed in (1, 2)]
    write_stack_env(settings, tmp_path)
    op = "__".join(names.package(model.name))

    @dg.asset(key=asset_key(names.champion(model.name)))
    def champion() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"version": versions_live[0]})

    def packaged(assets_of_run: list[dg.AssetsDefinition], config: dict[str, int]) -> object:
        resources, run_config = {"platform": Platform(home=str(tmp_path))}, {"ops": {op: {"config": config}}}
        result = dg.materialize(assets_of_run, resources=resources, run_config=run_config)
        (event,) = result.asset_materializations_for_node(op)
        return event.metadata["model_version"].value

    assert packaged([champion, package_asset(model)], {}) == versions_live[0]
    assert packaged([package_asset(model)], {}) == versions_live[1]
    assert packaged([package_asset(model)], {"version": versions_live[0]}) == versions_live[0]


def package_asset(model: Model) -> dg.AssetsDefinition:
    """The asset of the model's package."""
    project = Project(use_cases=(replace(nyc_flights.use_case, models=(model,)),))
    (asset,) = [asset for asset in assets.defs(project).assets or () if isinstance(asset, dg.AssetsDefinition)]
    return asset


def _publish_anew(settings: Settings, package: Package, selftest: dict[str, object]) -> None:
    """Another self-test under a manifest that fits it: only scoring can tell that it is wrong."""
    content = json.dumps(selftest).encode()
    manifest = asdict(package)
    manifest["files"][SELFTEST_FILE] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    write(settings, package, SELFTEST_FILE, content)
    write(settings, package, MANIFEST, json.dumps(manifest).encode())
