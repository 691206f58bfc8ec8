"""One MLflow run per candidate: parameters, metrics, learning curve, data set, model, contract and plots.

A run becomes FINISHED when everything is in it; only finished runs count as candidates. Its metrics are those of the whole hold-out, the
rest in groups after them (`baseline/…`, `holdout/…`); figures by slice and month are a table.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time_ns
from typing import TYPE_CHECKING, Any

from pipeline_assets.core import names
from pipeline_assets.core.accounts import account_name
from pipeline_assets.core.connections import tracking
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.archive import TrainingSet
from pipeline_assets.model_lifecycle.training.candidate import BASELINE, GAIN, Candidate
from pipeline_assets.model_lifecycle.training.code_state import ROOT, commit_of
from pipeline_assets.model_lifecycle.training.logged_model import MODEL_FILE, log_model, signature

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric

CONTRACT_FILE = "contract.json"
PLOTS_FOLDER = "plots"
# In the form that MLflow shows as a table.
GROUPS_FILE = "figures_by_group.json"
ROLE_TAG = "pipeline.role"
CANDIDATE_ROLE = "candidate"
MODEL_TAG = "pipeline.model"
DAGSTER_RUN_TAG = "pipeline.dagster_run_id"
AS_OF_TAG = "pipeline.as_of"
SHA256_TAG = "pipeline.sha256"
CONTRACT_SHA256_TAG = "pipeline.contract_sha256"
CURVE_METRIC = "validation_loss"
OF_BASELINE, OF_HOLDOUT = "baseline/", "holdout/"
# Without it MLflow guesses, or asks, which of its views an experiment opens in.
KIND_TAG, CLASSIC = "mlflow.experimentKind", "custom_model_development"
NOTE_TAG = "mlflow.note.content"
# MLflow takes at most a thousand metrics in one request.
METRICS_AT_ONCE = 1000
LONGEST_METRIC = 250


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a candidate comes from: the run of Dagster and its job, and when learning began (UTC)."""

    dagster_run_id: str
    job: str
    began_at: datetime


def log_candidate(settings: Settings, use_case: str, candidate: Candidate, record: TrainingSet, origin: Origin) -> str:
    """Writes the candidate to a new run of its experiment and returns the run's id; a run that cannot be completed ends as FAILED.

    The run began when learning did, and ends now.
    """
    client = tracking(settings)
    experiment = experiment_id(client, use_case, candidate.contract.model)
    run_name = f"{candidate.contract.model} as of {record.as_of:%Y-%m-%d %H:%M}"
    began_ms = int(origin.began_at.timestamp() * 1000)
    made = client.create_run(experiment, start_time=began_ms, tags=_tags(candidate, record, origin), run_name=run_name)
    run_id = str(made.info.run_id)
    try:
        model_id = log_model(client, experiment, run_id, candidate)
        _log_facts(client, run_id, candidate, record, model_id)
        _log_files(client, run_id, candidate)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _tags(candidate: Candidate, record: TrainingSet, origin: Origin) -> dict[str, str]:
    contract, commit = candidate.contract, commit_of(ROOT)
    by_commit = {} if commit is None else {"mlflow.source.git.commit": commit}
    return {
        ROLE_TAG: CANDIDATE_ROLE,
        MODEL_TAG: contract.model,
        DAGSTER_RUN_TAG: origin.dagster_run_id,
        AS_OF_TAG: record.as_of.isoformat(),
        SHA256_TAG: contract.sha256,
        CONTRACT_SHA256_TAG: contract.digest,
        NOTE_TAG: f"Learned by the run {origin.dagster_run_id} of the Dagster job {origin.job} from the training set {record.name}.",
        "mlflow.user": account_name(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": f"Dagster job {origin.job}",
        **by_commit,
    }


def experiment_id(client: "MlflowClient", use_case: str, model: str) -> str:
    """The experiment of a model, made where there is none; it opens in MLflow's view for models that learn from tables."""
    from mlflow.exceptions import MlflowException

    name = names.experiment(use_case, model)
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, tags={KIND_TAG: CLASSIC}))
        except MlflowException:
            # Another run made it in between; any other problem shows again here.
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if KIND_TAG not in known.tags:
        client.set_experiment_tag(known.experiment_id, KIND_TAG, CLASSIC)
    return str(known.experiment_id)


def run_url(settings: Settings, experiment: str, run_id: str) -> str:
    """The page of a run."""
    return f"{settings.mlflow_url}/#/experiments/{experiment}/runs/{run_id}{names.MLFLOW_VIEW}"


def figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """The figures of a run on its whole hold-out by the names of its contract, out of the run's metrics."""
    named = {_contract_name(name): value for name, value in metrics.items() if name != CURVE_METRIC}
    return {name: value for name, value in named.items() if "/" not in name}


def _contract_name(metric: str) -> str:
    return metric.replace(OF_BASELINE, BASELINE).removeprefix(OF_HOLDOUT)


def _log_facts(client: "MlflowClient", run_id: str, candidate: Candidate, record: TrainingSet, model_id: str) -> None:
    from mlflow.entities import Param

    params = _params(candidate)
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
    client.log_inputs(run_id, datasets=[_dataset(record, candidate)])
    metrics = _metrics(candidate, model_id)
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])


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


def _metrics(candidate: Candidate, model_id: str) -> "list[Metric]":
    """The figures of the hold-out, then the learning curve."""
    from mlflow.entities import Metric

    now = time_ns() // 1_000_000
    found = [Metric(_metric_name(name), value, now, 0, model_id=model_id) for name, value in _named(candidate)]
    return [*found, *(Metric(CURVE_METRIC, loss, now, step) for step, loss in enumerate(candidate.fitted.losses))]


def _named(candidate: Candidate) -> Iterator[tuple[str, float]]:
    """The figures that exist: without a slash those that a person looks at first."""
    ours, theirs = candidate.evaluation.overall, candidate.baseline.overall
    yield from ((name, value) for name, value in ours.figures.items() if value is not None)
    if candidate.gain is not None:
        yield GAIN, candidate.gain
    yield from ((OF_BASELINE + name, value) for name, value in theirs.figures.items() if value is not None)
    yield OF_HOLDOUT + "rows", float(ours.rows)
    yield from ((OF_HOLDOUT + name, float(value)) for name, value in ours.labels.items())


def _metric_name(name: str) -> str:
    """The name in the letters that MLflow allows; each part between slashes has at least one."""
    return "/".join(re.sub(r"[^\w.\- ]", "_", part).strip(". ") or "_" for part in name.split("/"))[:LONGEST_METRIC]


def _dataset(record: TrainingSet, candidate: Candidate) -> "DatasetInput":
    """The training set by the hash of its bytes, with the columns that the model is fed."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {"rows": record.rows, "bytes": record.size_bytes, "snapshots": record.snapshots, "as_of": record.as_of.isoformat()}
    dataset = Dataset(
        name="/".join(names.training_set(record.model)),
        digest=record.sha256[:36],
        source_type="s3",
        source=json.dumps({"uri": record.path}),
        schema=json.dumps({"mlflow_colspec": signature(candidate.contract).inputs.to_dict()}),
        profile=json.dumps(profile, sort_keys=True),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _log_files(client: "MlflowClient", run_id: str, candidate: Candidate) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / MODEL_FILE).write_bytes(candidate.fitted.artifact)
        (root / CONTRACT_FILE).write_text(candidate.contract.to_json())
        (root / GROUPS_FILE).write_text(json.dumps(_groups(candidate)))
        (root / PLOTS_FOLDER).mkdir()
        for name, image in candidate.plots.items():
            (root / PLOTS_FOLDER / f"{name}.png").write_bytes(image)
        client.log_artifacts(run_id, folder)
    client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": GROUPS_FILE, "type": "table"}]))


def _groups(candidate: Candidate) -> dict[str, list[Any]]:
    """The figures of each slice and month beside those of the baseline, as columns and rows."""
    theirs = {(column, value): quality for column, value, quality in candidate.baseline.groups()}
    rows = [
        {"column": column, "value": value, **ours.metrics(), **_of_baseline(theirs[column, value].figures)}
        for column, value, ours in candidate.evaluation.groups()
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}


def _of_baseline(found: Mapping[str, float | None]) -> dict[str, float | None]:
    return {BASELINE + name: value for name, value in found.items()}
