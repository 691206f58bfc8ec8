"""Versions of a model in MLflow's registry: made from candidates, loaded natively, and aliases that mirror the ledger.

A version is loaded from its file in XGBoost's own format, whose hash is held against the contract first. Nothing is unpickled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.connections import tracking
from pipeline_assets.core.errors import NotTrained, UnknownName, UserInputError
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger, tracked_aliases
from pipeline_assets.model_lifecycle.registry.ledger import Entry
from pipeline_assets.model_lifecycle.training.candidate import BASELINE
from pipeline_assets.model_lifecycle.training.contract import ModelContract, read_contract
from pipeline_assets.model_lifecycle.training.logged_model import MODEL_FILE
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.model_lifecycle.training.track import (
    AS_OF_TAG,
    CANDIDATE_ROLE,
    CONTRACT_FILE,
    CONTRACT_SHA256_TAG,
    MODEL_TAG,
    ROLE_TAG,
    SHA256_TAG,
    figures,
)
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION_ALIAS = "champion"
ALIASES = (CHAMPION_ALIAS, "previous")
FINISHED = "FINISHED"
# What MLflow answers for an id that no run has, and for a text that can be none.
NO_SUCH_RUN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in memory, ready to score, with the bytes of its file and of its contract; `version` 0: not registered yet."""

    version: int
    scorer: Scorer
    artifact: bytes
    stored_contract: bytes

    @property
    def contract(self) -> ModelContract:
        """The contract of the version."""
        return self.scorer.contract

    @property
    def contract_sha256(self) -> str:
        """What the ledger notes of the version: the digest of its contract as it is stored, which stays when contracts get more fields."""
        return sha256(self.stored_contract).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version as the registry lists it; `run_id` is the MLflow run that it was learned in, `metrics` are those of its whole hold-out.

    `sha256` and `as_of` are None where somebody registered in MLflow what no training of the platform made; `run_id` may be empty there.
    """

    version: int
    run_id: str
    sha256: str | None
    as_of: str | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Known:
    """The versions of a model in the registry, and the one that its alias calls the champion; None where none is."""

    versions: frozenset[int]
    champion: int | None


def champion(settings: Settings, model: Model) -> LoadedModel:
    """The version that the ledger says is live, loaded; raises NotTrained if none is, ArtifactCorrupt if its file was changed."""
    version = ledger.live_version(settings, model)
    if version is None:
        raise NotTrained(model.name, "live version", "/".join(names.champion(model.name)))
    return load(settings, model, version)


def load(settings: Settings, model: Model, version: int) -> LoadedModel:
    """One version, loaded.

    Raises UnknownName if there is no such version, ArtifactCorrupt if its file is not what its contract says, or its contract not the one
    that the ledger has noted.
    """
    noted = ledger.contract_of(ledger.history(settings, model), version)
    name = f"contract of {model.name} version {version}"
    return load_run(settings, str(_version(settings, model, version).run_id), version=version, name=name, contract_sha256=noted)


def load_run(
    settings: Settings, run_id: str, *, version: int = 0, name: str | None = None, contract_sha256: str | None = None
) -> LoadedModel:
    """The model of a finished candidate run, loaded.

    name: what its contract is called in an error; contract_sha256: what the ledger has noted of it (None: nothing, then the run's own tag
    counts). Raises ArtifactCorrupt if the contract is another one, or the file not what it says.
    """
    client = tracking(settings)
    expected = contract_sha256 or client.get_run(run_id).data.tags.get(CONTRACT_SHA256_TAG)
    stored = _download(client, run_id, CONTRACT_FILE)
    contract = read_contract(stored, name or f"contract of run {run_id}", expected)
    artifact = _download(client, run_id, MODEL_FILE)
    return LoadedModel(version=version, scorer=Scorer.load(artifact, contract), artifact=artifact, stored_contract=stored)


def candidate(settings: Settings, model: Model, run_id: str) -> LoadedModel:
    """The candidate of an MLflow run, loaded.

    Raises UserInputError if there is no such run, or it is no finished training of this model; ArtifactCorrupt if its file was changed.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = tracking(settings).get_run(run_id)
    except MlflowException as error:
        if error.error_code not in NO_SUCH_RUN:
            raise
        raise UserInputError(f"There is no candidate run '{run_id}' of model '{model.name}': {error.message}") from error
    wanted = {ROLE_TAG: CANDIDATE_ROLE, MODEL_TAG: model.name}
    found = {name: run.data.tags.get(name) for name in wanted}
    if found != wanted or run.info.status != FINISHED:
        raise UserInputError(
            f"Run '{run_id}' is no finished candidate of model '{model.name}': it is {run.info.status}, of the model {found[MODEL_TAG]}. "
            f"Give a run that {'/'.join(names.candidate(model.name))} names in its metadata."
        )
    return load_run(settings, run_id)


def version_url(settings: Settings, model: Model, version: int) -> str:
    """The page of a version."""
    return f"{settings.mlflow_url}/#/models/{model.name}/versions/{version}{names.MLFLOW_VIEW}"


def register(settings: Settings, model: Model, run_id: str, contract: ModelContract) -> int:
    """The version of a candidate's run. A run that has one keeps it, and a model file that has one is that version again."""
    client = tracking(settings)
    _create_registered_model(client, model)
    for each in _versions(client, model):
        if each.run_id == run_id or _facts(client, each).get(SHA256_TAG) == contract.sha256:
            return int(each.version)
    outputs = client.get_run(run_id).outputs
    if outputs is None or not outputs.model_outputs:
        raise UserInputError(f"Run '{run_id}' was logged by an earlier version of the platform, without a model of MLflow. Train again.")
    model_id = outputs.model_outputs[0].model_id
    made = client.create_model_version(
        model.name, f"models:/{model_id}", run_id, tags=_version_tags(model, contract), description=_described(model, contract),
        await_creation_for=0, model_id=model_id,
    )  # fmt: skip
    return int(made.version)


def _version_tags(model: Model, contract: ModelContract) -> dict[str, str]:
    return {
        SHA256_TAG: contract.sha256,
        AS_OF_TAG: contract.as_of.isoformat(),
        "pipeline.training_set": contract.training_set_sha256,
        "pipeline.task": contract.task,
        "pipeline.owner": model.owner,
        "pipeline.code_version": contract.code_version,
    }


def _described(model: Model, contract: ModelContract) -> str:
    """What a person who opens the version wants to know of it, and where it says whether it is live."""
    metric, found = model.gate.metric, contract.metrics
    figures = [f"{name} {found[name]:.4g}" for name in (metric, f"{BASELINE}{metric}") if name in found]
    return (
        f"{model.question} Learned from {contract.rows:,} rows as of {contract.as_of:%Y-%m-%d %H:%M} UTC; on the hold-out "
        f"{', '.join(figures) or 'without figures'}. Which version was live when, and why, says the ledger: `pipeline models history "
        f"{model.name}`. Inputs are 64-bit floats in the order of the signature; null is NaN, a category its position in "
        "`metadata.categories` of the file MLmodel."
    )


def mirror(settings: Settings, model: Model) -> None:
    """Sets MLflow's aliases `champion` and `previous` to what the ledger says. Where nothing was ever registered there are none."""
    wanted, found = wanted_aliases(settings, model), aliases(settings, model)
    for alias in ALIASES:
        if alias in wanted and found.get(alias) != wanted[alias]:
            tracked_aliases.put(settings, model.name, alias, wanted[alias])
        elif alias in found and alias not in wanted:
            tracked_aliases.remove(settings, model.name, alias)


def catch_up(settings: Settings, model: Model) -> None:
    """Sets the aliases where a decision was not mirrored, as its process ended before; what somebody changed in MLflow stays."""
    if are_behind(ledger.history(settings, model), aliases(settings, model)):
        mirror(settings, model)


def are_behind(entries: Sequence[Entry], found: Mapping[str, int]) -> bool:
    """Whether MLflow's aliases `found` are those from before the newest decision on what is live, or there are none of ours.

    entries: those of the ledger, oldest first. False where nothing is live.
    """
    last, ours = ledger.made_live(entries), {alias: found[alias] for alias in ALIASES if alias in found}
    return last is not None and ours in ({}, _aliases_by([entry for entry in entries if entry.sequence < last.sequence]))


def wanted_aliases(settings: Settings, model: Model) -> dict[str, int]:
    """The version of each alias by the ledger; an alias that has none is absent."""
    return _aliases_by(ledger.history(settings, model))


def _aliases_by(entries: Sequence[Entry]) -> dict[str, int]:
    return dict(zip(ALIASES, reversed(ledger.ancestry(entries)), strict=False))


def aliases(settings: Settings, model: Model) -> dict[str, int]:
    """The version of each alias in MLflow; none where nothing was registered. Raises TrackingUnavailable."""
    return tracked_aliases.read(settings, model.name)


def registered(settings: Settings, model: Model) -> tuple[Registered, ...]:
    """All versions of a model, oldest first; none where nothing was registered."""
    client = tracking(settings)
    return tuple(_registered(client, each) for each in _versions(client, model))


def known(settings: Settings, model: Model) -> Known:
    """What the registry has of a model; nothing where it was never registered."""
    client = tracking(settings)
    found = frozenset(int(each.version) for each in _versions(client, model))
    return Known(versions=found, champion=aliases(settings, model).get(CHAMPION_ALIAS))


def trained_on(settings: Settings, model: Model) -> dict[int, str]:
    """The SHA-256 of the training set of each version that the platform trained; none where nothing was registered."""
    client = tracking(settings)
    trained = [each for each in _versions(client, model) if SHA256_TAG in _facts(client, each)]
    contracts = {int(each.version): _download(client, str(each.run_id), CONTRACT_FILE) for each in trained}
    return {version: ModelContract.from_json(text).training_set_sha256 for version, text in contracts.items()}


def _registered(client: "MlflowClient", found: "ModelVersion") -> Registered:
    run, facts = _run(client, found), _facts(client, found)
    return Registered(
        version=int(found.version),
        run_id=found.run_id or "",
        sha256=facts.get(SHA256_TAG),
        as_of=facts.get(AS_OF_TAG),
        metrics={} if run is None else figures(run.data.metrics),
    )


def _facts(client: "MlflowClient", found: "ModelVersion") -> Mapping[str, str]:
    """The tags of a version; one that somebody registered in MLflow has none, so those of its run, where it has one."""
    run = None if SHA256_TAG in found.tags else _run(client, found)
    return found.tags if run is None else run.data.tags


def _run(client: "MlflowClient", found: "ModelVersion") -> "Run | None":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(found.run_id or "")
    except MlflowException as error:
        if error.error_code not in NO_SUCH_RUN:
            raise
        return None


def _version(settings: Settings, model: Model, version: int) -> "ModelVersion":
    found = _versions(tracking(settings), model)
    for each in found:
        if int(each.version) == version:
            return each
    raise UnknownName(f"version of model '{model.name}'", str(version), [str(each.version) for each in found])


def _versions(client: "MlflowClient", model: Model) -> "list[ModelVersion]":
    """All versions of a model, oldest first."""
    return sorted(client.search_model_versions(f"name = '{model.name}'"), key=lambda each: int(each.version))


def _create_registered_model(client: "MlflowClient", model: Model) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    try:
        client.create_registered_model(model.name, description=model.question)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _download(client: "MlflowClient", run_id: str, path: str) -> bytes:
    with TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
