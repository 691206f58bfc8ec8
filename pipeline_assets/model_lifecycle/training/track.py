"""One MLflow run per candidate: parameters, metrics, learning curve, data set, model file, contract and plots.

A run becomes FINISHED when everything is in it; only finished runs count as candidates.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time_ns
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.connections import tracking
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.archive import TrainingSet
from pipeline_assets.model_lifecycle.training.candidate import BASELINE, Candidate

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric

MODEL_FILE = "model.ubj"
CONTRACT_FILE = "contract.json"
PLOTS_FOLDER = "plots"
ROLE_TAG = "pipeline.role"
CANDIDATE_ROLE = "candidate"
MODEL_TAG = "pipeline.model"
DAGSTER_RUN_TAG = "pipeline.dagster_run_id"
AS_OF_TAG = "pipeline.as_of"
SHA256_TAG = "pipeline.sha256"
CONTRACT_SHA256_TAG = "pipeline.contract_sha256"
CURVE_METRIC = "validation_loss"
# MLflow takes at most a thousand metrics in one request.
METRICS_AT_ONCE = 1000
LONGEST_METRIC = 250


def log_candidate(settings: Settings, use_case: str, candidate: Candidate, record: TrainingSet, *, dagster_run_id: str) -> str:
    """Writes the candidate to a new run of its experiment and returns the run's id; a run that cannot be completed ends as FAILED."""
    client = tracking(settings)
    experiment = experiment_id(client, use_case, candidate.contract.model)
    tags = {
        ROLE_TAG: CANDIDATE_ROLE,
        MODEL_TAG: candidate.contract.model,
        DAGSTER_RUN_TAG: dagster_run_id,
        AS_OF_TAG: record.as_of.isoformat(),
        SHA256_TAG: candidate.contract.sha256,
        CONTRACT_SHA256_TAG: candidate.contract.digest,
    }
    run_name = f"{candidate.contract.model} as of {record.as_of:%Y-%m-%d %H:%M}"
    run_id = str(client.create_run(experiment, tags=tags, run_name=run_name).info.run_id)
    try:
        _log_facts(client, run_id, candidate, record)
        _log_files(client, run_id, candidate)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return run_id


def experiment_id(client: "MlflowClient", use_case: str, model: str) -> str:
    """The experiment of a model, made where there is none."""
    from mlflow.exceptions import MlflowException

    name = names.experiment(use_case, model)
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            # Another run made it in between; any other problem shows again here.
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    return str(known.experiment_id)


def run_url(settings: Settings, experiment: str, run_id: str) -> str:
    """The page of a run."""
    return f"{settings.mlflow_url}/#/experiments/{experiment}/runs/{run_id}"


def _log_facts(client: "MlflowClient", run_id: str, candidate: Candidate, record: TrainingSet) -> None:
    from mlflow.entities import Param

    params = _params(candidate)
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
    metrics = _metrics(candidate)
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])
    client.log_inputs(run_id, datasets=[_dataset(record)])


def _params(candidate: Candidate) -> Mapping[str, object]:
    contract = candidate.contract
    spans = {f"{block.name}_from": block.start.isoformat() for block in contract.blocks}
    return {
        **contract.parameters,
        **spans,
        "as_of": contract.as_of.isoformat(),
        "max_rounds": contract.max_rounds,
        "early_stopping_rounds": contract.early_stopping_rounds,
        "rounds": contract.rounds,
        "features": len(contract.features),
        "definition": contract.definition,
        "code_version": contract.code_version,
        "local_edits": contract.local_edits,
        **{f"library_{name}": version for name, version in contract.libraries.items()},
    }


def _metrics(candidate: Candidate) -> "list[Metric]":
    from mlflow.entities import Metric

    now = time_ns() // 1_000_000
    figures = candidate.evaluation.metrics() | dict(candidate.contract.metrics)
    figures |= {BASELINE + name: value for name, value in candidate.baseline.metrics().items()}
    curve = [Metric(CURVE_METRIC, loss, now, step) for step, loss in enumerate(candidate.fitted.losses)]
    return [Metric(_metric_name(name), float(value), now, 0) for name, value in figures.items()] + curve


def _metric_name(name: str) -> str:
    """The name in the letters that MLflow allows; each part between slashes has at least one."""
    return "/".join(re.sub(r"[^\w.\- ]", "_", part).strip(". ") or "_" for part in name.split("/"))[:LONGEST_METRIC]


def _dataset(record: TrainingSet) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {"rows": record.rows, "bytes": record.size_bytes, "snapshots": record.snapshots, "as_of": record.as_of.isoformat()}
    dataset = Dataset(
        name="/".join(names.training_set(record.model)),
        digest=record.sha256[:36],
        source_type="s3",
        source=json.dumps({"uri": record.path}),
        profile=json.dumps(profile, sort_keys=True),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _log_files(client: "MlflowClient", run_id: str, candidate: Candidate) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / MODEL_FILE).write_bytes(candidate.fitted.artifact)
        (root / CONTRACT_FILE).write_text(candidate.contract.to_json())
        (root / PLOTS_FOLDER).mkdir()
        for name, image in candidate.plots.items():
            (root / PLOTS_FOLDER / f"{name}.png").write_bytes(image)
        client.log_artifacts(run_id, folder)
