"""Versions of a model in MLflow's registry: made from candidates, loaded natively, and aliases that mirror the ledger.

A version is loaded from its file in XGBoost's own format, whose hash is held against the contract first. Nothing is unpickled.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import tracking
from pipeline_assets.core.errors import ArtifactCorrupt, NotTrained, UnknownName
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.model_lifecycle.training.candidate import BASELINE, load_booster
from pipeline_assets.model_lifecycle.training.contract import ModelContract
from pipeline_assets.model_lifecycle.training.evaluate import Values
from pipeline_assets.model_lifecycle.training.matrix import feature_matrix
from pipeline_assets.model_lifecycle.training.track import AS_OF_TAG, CANDIDATE_ROLE, CONTRACT_FILE, MODEL_FILE, ROLE_TAG, SHA256_TAG
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    import xgboost
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION_ALIAS, PREVIOUS_ALIAS = "champion", "previous"
FINISHED_CANDIDATES = f"tags.`{ROLE_TAG}` = '{CANDIDATE_ROLE}' and attributes.status = 'FINISHED'"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in memory, ready to score, with the contract that its file was checked against; `version` 0: not registered yet."""

    version: int
    booster: "xgboost.Booster"
    contract: ModelContract

    def score(self, features: pa.Table) -> Values:
        """Probabilities of a true label as 64-bit floats, one per row of `features`, in their order; the same rows give the same bits.

        `features` needs the columns of the contract, in any order; others are ignored. Raises TableMismatch if one is missing or unfit.
        """
        scores: Values = self.booster.predict(feature_matrix(features, self.contract.features)).astype(np.float64)
        return scores


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version as the registry lists it; `run_id` is the MLflow run that it was learned in, the figures are those of its hold-out."""

    version: int
    run_id: str
    sha256: str
    as_of: str
    roc_auc: float
    baseline_roc_auc: float
    calibration_error: float


def champion(settings: Settings, model: Model) -> LoadedModel:
    """The version that the ledger says is live, loaded; raises NotTrained if none is, ArtifactCorrupt if its file was changed."""
    version = ledger.live_version(settings, model)
    if version is None:
        raise NotTrained(model.name, "live version", "/".join(names.champion(model.name)))
    return load(settings, model, version)


def load(settings: Settings, model: Model, version: int) -> LoadedModel:
    """One version, loaded; raises UnknownName if there is no such version, ArtifactCorrupt if its file is not what its contract says."""
    return load_run(settings, str(_version(settings, model, version).run_id), version=version)


def load_run(settings: Settings, run_id: str, *, version: int = 0) -> LoadedModel:
    """The model of a finished candidate run, loaded; raises ArtifactCorrupt if its file is not what its contract says."""
    client = tracking(settings)
    contract = ModelContract.from_json(_download(client, run_id, CONTRACT_FILE))
    content = _download(client, run_id, MODEL_FILE)
    found = sha256(content).hexdigest()
    if found != contract.sha256:
        raise ArtifactCorrupt(f"{contract.model}/{MODEL_FILE} of run {run_id}", contract.sha256, found)
    return LoadedModel(version=version, booster=load_booster(content), contract=contract)


def artifact(settings: Settings, model: Model, version: int) -> bytes:
    """The bytes of a version's model file, unchecked; raises UnknownName if there is no such version."""
    return _download(tracking(settings), str(_version(settings, model, version).run_id), MODEL_FILE)


def newest_candidate(settings: Settings, use_case: str, model: Model) -> str:
    """The run of the candidate that was finished last; raises NotTrained if there is none."""
    client = tracking(settings)
    experiment = client.get_experiment_by_name(names.experiment(use_case, model.name))
    runs = (
        client.search_runs([experiment.experiment_id], FINISHED_CANDIDATES, max_results=1, order_by=["attributes.start_time DESC"])
        if experiment is not None
        else []
    )
    if not runs:
        raise NotTrained(model.name, "finished candidate", "/".join(names.candidate(model.name)))
    return str(runs[0].info.run_id)


def version_url(settings: Settings, model: Model, version: int) -> str:
    """The page of a version."""
    return f"{settings.mlflow_url}/#/models/{model.name}/versions/{version}"


def register(settings: Settings, model: Model, run_id: str, contract: ModelContract) -> int:
    """The version of a candidate's run. A run that has one keeps it, and a model file that has one is that version again."""
    client = tracking(settings)
    _create_registered_model(client, model)
    for each in _versions(client, model):
        if each.run_id == run_id or each.tags[SHA256_TAG] == contract.sha256:
            return int(each.version)
    source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL_FILE}"
    tags = {SHA256_TAG: contract.sha256, AS_OF_TAG: contract.as_of.isoformat()}
    made = client.create_model_version(model.name, source, run_id, tags=tags, await_creation_for=0)
    return int(made.version)


def mirror(settings: Settings, model: Model) -> None:
    """Sets MLflow's aliases `champion` and `previous` to what the ledger says; also after a crash between a decision and its mirror."""
    line = ledger.ancestry(ledger.history(settings, model))
    wanted = dict(zip((CHAMPION_ALIAS, PREVIOUS_ALIAS), reversed(line), strict=False))
    if not wanted:
        return
    client = tracking(settings)
    found = {alias: int(version) for alias, version in client.get_registered_model(model.name).aliases.items()}
    for alias in (CHAMPION_ALIAS, PREVIOUS_ALIAS):
        if alias in wanted and found.get(alias) != wanted[alias]:
            client.set_registered_model_alias(model.name, alias, str(wanted[alias]))
        elif alias in found and alias not in wanted:
            client.delete_registered_model_alias(model.name, alias)


def registered(settings: Settings, model: Model) -> tuple[Registered, ...]:
    """All versions of a model, oldest first; none where nothing was registered."""
    client = tracking(settings)
    return tuple(_registered(client, each) for each in _versions(client, model))


def _registered(client: "MlflowClient", found: "ModelVersion") -> Registered:
    metrics = client.get_run(str(found.run_id)).data.metrics
    return Registered(
        version=int(found.version),
        run_id=str(found.run_id),
        sha256=found.tags[SHA256_TAG],
        as_of=found.tags[AS_OF_TAG],
        roc_auc=metrics["roc_auc"],
        baseline_roc_auc=metrics[f"{BASELINE}roc_auc"],
        calibration_error=metrics["calibration_error"],
    )


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
