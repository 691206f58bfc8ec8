"""The package of a live version on the object store: written once, never changed, proven by loading it back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.errors import ArtifactCorrupt, UnknownName
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import versions
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.model_lifecycle.training.candidate import load_booster
from pipeline_assets.model_lifecycle.training.contract import ModelContract
from pipeline_assets.model_lifecycle.training.dataset import HOLDOUT, only
from pipeline_assets.serving.realtime.selftest import Golden, Latency, golden, golden_from, golden_rows, measure, wrong_scores
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.registry.versions import LoadedModel

MODEL_FILE = "model.ubj"
CONTRACT_FILE = "contract.json"
SELFTEST_FILE = "selftest.json"
MANIFEST = "package.json"
LATENCY_ROWS = 300


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """One file of a package."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Package:
    """The manifest of a package: what the prediction service loads, and nothing else belongs to it. `uri` is its folder."""

    model: str
    version: int
    uri: str
    files: Mapping[str, PackagedFile]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What loading a package back has shown: `problems` is empty if it may be served; `latency` is None if it could not be loaded."""

    package: Package
    golden_rows: int
    problems: tuple[str, ...]
    latency: Latency | None


def build_package(settings: Settings, model: Model) -> Package:
    """Puts the live version of the model into its package and returns the manifest; where that is written already, nothing changes.

    The same version always makes the same bytes: its golden rows come from the hold-out that it was judged on. Files first, manifest last.
    Raises NotTrained if nothing is live, ArtifactCorrupt if the model or its training set are not the bytes of the contract.
    """
    live = versions.champion(settings, model)
    published = read_package(settings, model, live.version)
    if published is not None:
        return published
    files = _files(settings, model, live)
    package = Package(
        model=model.name,
        version=live.version,
        uri=f"s3://{settings.s3_bucket}/{_folder(model, live.version)}",
        files={name: PackagedFile(sha256=sha256(content).hexdigest(), bytes=len(content)) for name, content in files.items()},
    )
    for name, content in {**files, MANIFEST: _json(asdict(package))}.items():
        object_store(settings).put_object(Bucket=settings.s3_bucket, Key=f"{_folder(model, live.version)}/{name}", Body=content)
    return package


def read_package(settings: Settings, model: Model, version: int) -> Package | None:
    """The manifest of a version's package; None where none is complete."""
    content = _read(settings, model, version, MANIFEST)
    if not content:
        return None
    stored = json.loads(content)
    return Package(**{**stored, "files": {name: PackagedFile(**file) for name, file in stored["files"].items()}})


def verify_package(settings: Settings, model: Model, version: int, *, latency_rows: int = LATENCY_ROWS) -> Verdict:
    """Loads a package as the prediction service will: from its files alone, each held against its hash before it is used.

    Scores the golden rows, which must give the known scores to the last bit, then measures `latency_rows` rows one by one.
    Raises UnknownName if there is no complete package of the version.
    """
    package = read_package(settings, model, version)
    if package is None:
        raise UnknownName(f"package of model '{model.name}', version", str(version), [])
    files = {name: _read(settings, model, version, name) for name in package.files}
    broken = broken_files(package, files)
    if broken:
        return Verdict(package=package, golden_rows=0, problems=broken, latency=None)
    contract, known = ModelContract.from_json(files[CONTRACT_FILE]), golden_from(json.loads(files[SELFTEST_FILE]))
    booster = load_booster(files[MODEL_FILE])
    problems = _contradictions(package, contract, known) or wrong_scores(booster, known)
    return Verdict(package=package, golden_rows=len(known.rows), problems=problems, latency=measure(booster, known, latency_rows))


def broken_files(package: Package, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """What is wrong with the files of a package, one sentence each: missing (or empty), or of other bytes than the manifest says."""
    missing = [f"{name} is missing" for name in (MODEL_FILE, CONTRACT_FILE, SELFTEST_FILE) if not files.get(name)]
    found = {name: sha256(files[name]).hexdigest() for name in package.files if files.get(name)}
    changed = [
        f"{name} has sha256 {found[name]}, expected {package.files[name].sha256}"
        for name in found
        if found[name] != package.files[name].sha256
    ]
    return (*missing, *changed)


def _contradictions(package: Package, contract: ModelContract, known: Golden) -> tuple[str, ...]:
    rules = {
        f"the contract is of model '{contract.model}'": contract.model == package.model,
        "the contract was written for another model file": contract.sha256 == package.files[MODEL_FILE].sha256,
        "the golden rows have other features than the contract": known.features == tuple(feature.name for feature in contract.features),
    }
    return tuple(problem for problem, holds in rules.items() if not holds)


def _files(settings: Settings, model: Model, live: "LoadedModel") -> dict[str, bytes]:
    """The files of the package but its manifest."""
    artifact = versions.artifact(settings, model, live.version)
    if sha256(artifact).hexdigest() != live.contract.sha256:
        raise ArtifactCorrupt(f"{model.name} version {live.version}", live.contract.sha256, sha256(artifact).hexdigest())
    held = only(archive.read_path(settings, live.contract.training_set, live.contract.training_set_sha256), HOLDOUT)
    rows = golden_rows(model, held, [feature.name for feature in live.contract.features])
    known = golden(rows, live.score(rows))
    return {MODEL_FILE: artifact, CONTRACT_FILE: live.contract.to_json().encode(), SELFTEST_FILE: _json(asdict(known))}


def _json(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, sort_keys=True, indent=1, allow_nan=False).encode()


def _read(settings: Settings, model: Model, version: int, name: str) -> bytes:
    """The bytes of a file; none where there is no such file."""
    client = object_store(settings)
    try:
        answer = client.get_object(Bucket=settings.s3_bucket, Key=f"{_folder(model, version)}/{name}")
    except client.exceptions.NoSuchKey:
        return b""
    return answer["Body"].read()


def _folder(model: Model, version: int) -> str:
    return "/".join((*names.package(model.name), str(version)))
