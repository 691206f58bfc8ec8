"""The package of a version on the object store: written once, never changed, proven by loading it back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.errors import ArtifactCorrupt, NotTrained, PackageCorrupt, UnknownName
from pipeline_assets.core.foreign import shown
from pipeline_assets.core.sealed_json import UNFIT
from pipeline_assets.core.settings import ObjectStoreSettings, Settings
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.model_lifecycle.training.blocks import HOLDOUT
from pipeline_assets.model_lifecycle.training.contract import ModelContract, read_contract
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.serving.realtime.selftest import Golden, Latency, golden, golden_from, golden_rows, measure, wrong_scores
from pipeline_assets.spec.models import Model

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
    """The manifest of a package: the files that the prediction service loads, and no others. `uri` is their folder."""

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


def build_package(settings: Settings, model: Model, version: int | None = None) -> Package:
    """Puts a version (None: the live one) into its package and returns the manifest; one that is there and whole stays as it is.

    The same version always makes the same bytes: its golden rows come from the hold-out that it was judged on. Files first, manifest last.
    Raises NotTrained if nothing is live, UnknownName if there is no such version, ArtifactCorrupt if the model or its training set are not
    the bytes of the contract.
    """
    chosen = _live(settings, model) if version is None else version
    return _intact(settings, model, chosen) or write_package(settings, model.name, chosen, _files(settings, model, chosen))


def write_package(settings: ObjectStoreSettings, model_name: str, version: int, files: Mapping[str, bytes]) -> Package:
    """Puts files into the package of a version, and its manifest last; returns the manifest."""
    package = Package(
        model=model_name,
        version=version,
        uri=f"s3://{settings.s3_bucket}/{_folder(model_name, version)}",
        files={name: PackagedFile(sha256=sha256(content).hexdigest(), bytes=len(content)) for name, content in files.items()},
    )
    for name, content in {**files, MANIFEST: _json(asdict(package))}.items():
        object_store(settings).put_object(Bucket=settings.s3_bucket, Key=f"{_folder(model_name, version)}/{name}", Body=content)
    return package


def files_of(scorer: Scorer, artifact: bytes, rows: pa.Table) -> dict[str, bytes]:
    """The files of a package but its manifest: the model, its contract, and these rows with the scores that they get."""
    known = golden(rows, scorer.score(rows))
    return {MODEL_FILE: artifact, CONTRACT_FILE: scorer.contract.to_json().encode(), SELFTEST_FILE: _json(asdict(known))}


def read_package(settings: ObjectStoreSettings, model_name: str, version: int) -> Package | None:
    """The manifest of a version's package; None where none is complete. Raises PackageCorrupt where it is none, or of another version."""
    content = _read(settings, model_name, version, MANIFEST)
    if not content:
        return None
    try:
        package = package_from(json.loads(content))
    except UNFIT as error:
        raise PackageCorrupt(model_name, version, [f"{MANIFEST} cannot be read ({type(error).__name__})"]) from error
    if (package.model, package.version) != (model_name, version):
        raise PackageCorrupt(model_name, version, [f"{MANIFEST} is of model '{package.model}' version {package.version}"])
    return package


def package_from(stored: Mapping[str, Any]) -> Package:
    """The manifest that `dataclasses.asdict` and JSON made."""
    return Package(**{**stored, "files": {name: PackagedFile(**file) for name, file in stored["files"].items()}})


def load_package(settings: Settings, model: Model, version: int) -> tuple[ModelContract, Scorer, Golden]:
    """What serves a version, from the files of its package alone, each held against its hash, and the contract against the ledger.

    Raises UnknownName if there is no complete package of the version, and PackageCorrupt with everything that is wrong with its files.
    """
    package = _existing(settings, model.name, version)
    return loaded(package, read_files(settings, package), _written(settings, model, version))


def verify_package(settings: Settings, model: Model, version: int, *, latency_rows: int = LATENCY_ROWS) -> Verdict:
    """Loads a package as the prediction service does, scores its golden rows and measures `latency_rows` rows one by one.

    The golden rows must get their known scores to the last bit. Raises UnknownName if there is no complete package of the version.
    """
    package = _existing(settings, model.name, version)
    try:
        _, scorer, known = loaded(package, read_files(settings, package), _written(settings, model, version))
    except PackageCorrupt as error:
        return Verdict(package=package, golden_rows=0, problems=error.problems, latency=None)
    problems, latency = wrong_scores(scorer, known), measure(scorer, known, latency_rows)
    return Verdict(package=package, golden_rows=len(known.rows), problems=problems, latency=latency)


def read_files(settings: ObjectStoreSettings, package: Package) -> dict[str, bytes]:
    """The files of a package as they are on the object store; a missing one is empty."""
    return {name: _read(settings, package.model, package.version, name) for name in package.files}


def loaded(package: Package, files: Mapping[str, bytes], contract_sha256: str | None = None) -> tuple[ModelContract, Scorer, Golden]:
    """What serves a version, from the files of its package; raises PackageCorrupt with everything that is wrong with them.

    contract_sha256: what the ledger says that its contract has (None: nothing). Files and manifest lie side by side, so that whoever can
    change one can change all; the ledger is elsewhere.
    """
    broken = broken_files(package, files)
    if broken:
        raise PackageCorrupt(package.model, package.version, broken)
    try:
        contract = read_contract(files[CONTRACT_FILE], f"contract in the package of {package.model} version {package.version}")
        known = golden_from(json.loads(files[SELFTEST_FILE]))
    except (ArtifactCorrupt, *UNFIT) as error:
        raise PackageCorrupt(package.model, package.version, [f"contract or golden rows cannot be read ({shown(error)})"]) from error
    problems = _contradictions(package, contract, known, contract_sha256)
    if problems:
        raise PackageCorrupt(package.model, package.version, problems)
    return contract, Scorer.load(files[MODEL_FILE], contract), known


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


def _contradictions(package: Package, contract: ModelContract, known: Golden, written: str | None) -> tuple[str, ...]:
    stored = package.files[CONTRACT_FILE].sha256
    rules = {
        f"its contract has sha256 {stored}, and the ledger has noted {written}": written in {None, stored},
        f"the contract is of model '{contract.model}'": contract.model == package.model,
        "the contract was written for another model file": contract.sha256 == package.files[MODEL_FILE].sha256,
        "the golden rows have other features than the contract": known.features == tuple(feature.name for feature in contract.features),
    }
    return tuple(problem for problem, holds in rules.items() if not holds)


def _live(settings: Settings, model: Model) -> int:
    version = ledger.live_version(settings, model)
    if version is None:
        raise NotTrained(model.name, "live version", "/".join(names.champion(model.name)))
    return version


def _written(settings: Settings, model: Model, version: int) -> str | None:
    """The SHA-256 of the contract of a version that the ledger has noted."""
    return ledger.contract_of(ledger.history(settings, model), version)


def _files(settings: Settings, model: Model, version: int) -> dict[str, bytes]:
    """The files of the package but its manifest."""
    # What packs has registry, training sets and frames in memory, and who loads a package has none of it.
    from pipeline_assets.model_lifecycle.registry import versions
    from pipeline_assets.model_lifecycle.training import archive
    from pipeline_assets.model_lifecycle.training.dataset import only

    loaded = versions.load(settings, model, version)
    held = only(archive.read_path(settings, loaded.contract.training_set, loaded.contract.training_set_sha256), HOLDOUT)
    rows = golden_rows(model, held, [feature.name for feature in loaded.contract.features])
    return {**files_of(loaded.scorer, loaded.artifact, rows), CONTRACT_FILE: loaded.stored_contract}


def _intact(settings: Settings, model: Model, version: int) -> Package | None:
    """The manifest of a package that is whole; None where there is none, or its files are not what was written."""
    try:
        package = read_package(settings, model.name, version)
        if package is not None:
            loaded(package, read_files(settings, package), _written(settings, model, version))
    except PackageCorrupt:
        return None
    return package


def _existing(settings: ObjectStoreSettings, model_name: str, version: int) -> Package:
    package = read_package(settings, model_name, version)
    if package is None:
        raise UnknownName(f"package of model '{model_name}', version", str(version), [])
    return package


def _json(stored: Mapping[str, Any]) -> bytes:
    return json.dumps(stored, sort_keys=True, indent=1, allow_nan=False).encode()


def _read(settings: ObjectStoreSettings, model_name: str, version: int, name: str) -> bytes:
    """The bytes of a file; none where there is no such file."""
    client = object_store(settings)
    try:
        answer = client.get_object(Bucket=settings.s3_bucket, Key=f"{_folder(model_name, version)}/{name}")
    except client.exceptions.NoSuchKey:
        return b""
    return answer["Body"].read()


def _folder(model_name: str, version: int) -> str:
    return "/".join((*names.package(model_name), str(version)))
