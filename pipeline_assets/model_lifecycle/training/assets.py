"""The assets of training: the training set, and the candidate that is learned from it."""

from datetime import datetime

import dagster as dg
from pydantic import Field

from pipeline_assets.core import names
from pipeline_assets.core.connections import tracking
from pipeline_assets.core.resources import Platform, dagster_errors, key, pictures
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.model_lifecycle.training.archive import TrainingSet
from pipeline_assets.model_lifecycle.training.candidate import Candidate, train_candidate
from pipeline_assets.model_lifecycle.training.dataset import Leaks, build_training_set, leaks
from pipeline_assets.model_lifecycle.training.evaluate import Evaluation, Scores
from pipeline_assets.model_lifecycle.training.inputs import Inputs, parse_instant, read_inputs
from pipeline_assets.model_lifecycle.training.track import experiment_id, log_candidate, run_url
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase

LEAK_CHECKS = {
    "labels_known": "Every label was known at `as_of`.",
    "decisions_before_as_of": "Every decision was asked for before `as_of`.",
    "labels_after_decisions": "No label was known when its decision was asked for.",
}
BETTER_THAN_BASELINE, CALIBRATED = "better_than_baseline", "calibrated"
CODE_VERSION = "1"


class AsOf(dg.Config):
    """When training is asked for, in event time."""

    as_of: str | None = Field(
        default=None, description="ISO 8601 with a zone; what was not known by then is not used. Default: the end of the newest day."
    )

    @property
    def instant(self) -> datetime | None:
        """The time that was given, in UTC; raises UserInputError if it is none or naive."""
        return None if self.as_of is None else parse_instant("as_of", self.as_of)


def defs(use_case: UseCase) -> dg.Definitions:
    """Training set and candidate of the use case's model."""
    return dg.Definitions(assets=[_training_set(use_case), _candidate(use_case)])


def _training_set(use_case: UseCase) -> dg.AssetsDefinition:
    model = use_case.model
    asset_key = key(names.training_set(model.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.vectors(model.name)), key(names.cleaned(model.label.table))],
        group_name=names.TRAINING,
        kinds={"polars", "parquet", "s3"},
        owners=[model.owner],
        code_version=CODE_VERSION,
        description=f"Vectors of {model.name} with the labels known at `as_of`, in blocks of time. One row per decision.",
        check_specs=[
            dg.AssetCheckSpec(name, asset=asset_key, blocking=True, description=description) for name, description in LEAK_CHECKS.items()
        ],
    )
    def training_set(context: dg.AssetExecutionContext, platform: Platform, config: AsOf) -> dg.MaterializeResult:
        with dagster_errors():
            inputs = read_inputs(platform.settings, model, config.instant)
            context.log.info("%d vectors and %d labels as of %s", inputs.vectors.num_rows, inputs.labels.num_rows, inputs.as_of)
            return _build(platform.settings, model, inputs)

    return training_set


def _build(settings: Settings, model: Model, inputs: Inputs) -> dg.MaterializeResult:
    """Stores the training set, and publishes it only if nothing leaks."""
    rows = build_training_set(model, inputs.vectors, inputs.labels, inputs.as_of)
    found = leaks(model, rows, inputs.as_of)
    record = archive.store(settings, model, rows, inputs.as_of, inputs.snapshots)
    if found.rows == 0:
        archive.publish(settings, model, record)
    schema = dg.TableSchema(columns=[dg.TableColumn(field.name, str(field.type)) for field in rows.schema])
    metadata = _set_metadata(record) | {"dagster/column_schema": schema, "vectors_read": inputs.vectors.num_rows}
    return dg.MaterializeResult(metadata=metadata, check_results=_leak_checks(found))


def _candidate(use_case: UseCase) -> dg.AssetsDefinition:
    model = use_case.model
    asset_key = key(names.candidate(model.name))
    gain = f"ROC AUC on the hold-out is at least {model.gate.min_gain_over_baseline} above the baseline's."
    error = f"The expected calibration error on the hold-out is at most {model.gate.max_calibration_error}."

    @dg.asset(
        key=asset_key,
        deps=[key(names.training_set(model.name))],
        group_name=names.TRAINING,
        kinds={"xgboost", "mlflow"},
        owners=[model.owner],
        code_version=CODE_VERSION,
        pool=names.TRAINING,
        description=f"{model.question} Learned from the training set of `as_of`, or else the newest; an MLflow run.",
        check_specs=[
            dg.AssetCheckSpec(BETTER_THAN_BASELINE, asset=asset_key, description=gain),
            dg.AssetCheckSpec(CALIBRATED, asset=asset_key, description=error),
        ],
    )
    def candidate(context: dg.AssetExecutionContext, platform: Platform, config: AsOf) -> dg.MaterializeResult:
        with dagster_errors():
            settings = platform.settings
            record = archive.find(settings, model, config.instant)
            trained = train_candidate(model, record, archive.read(settings, record), context.log.info)
            run_id = log_candidate(settings, use_case.name, trained, record, dagster_run_id=context.run.run_id)
            link = run_url(settings, experiment_id(tracking(settings), use_case.name, model.name), run_id)
        metadata = _candidate_metadata(trained) | {"mlflow_run": dg.MetadataValue.url(link), "mlflow_run_id": run_id}
        return dg.MaterializeResult(metadata=metadata, check_results=_quality_checks(model, trained))

    return candidate


def _set_metadata(record: TrainingSet) -> dict[str, dg.MetadataValue | int]:
    shown = [
        dg.TableRecord({"block": one.name, "from": str(one.start), "to": str(one.end), "rows": one.rows, "positives": one.positives})
        for one in record.blocks
    ]
    return {
        "dagster/row_count": record.rows,
        "dagster/uri": dg.MetadataValue.text(record.path),
        "as_of": dg.MetadataValue.timestamp(record.as_of),
        "sha256": dg.MetadataValue.text(record.sha256),
        "bytes": record.size_bytes,
        "blocks": dg.MetadataValue.table(shown),
        "snapshots": dg.MetadataValue.json(dict(record.snapshots)),
    }


def _leak_checks(found: Leaks) -> list[dg.AssetCheckResult]:
    counts = (found.labels_from_the_future, found.decisions_from_the_future, found.labels_before_their_decision)
    return [
        dg.AssetCheckResult(check_name=name, passed=rows == 0, metadata={"leaking_rows": rows})
        for name, rows in zip(LEAK_CHECKS, counts, strict=True)
    ]


def _candidate_metadata(trained: Candidate) -> dict[str, dg.MetadataValue | float | int | str]:
    contract = trained.contract
    figures = {name: float(value) for name, value in contract.metrics.items() if name not in {"rows", "positives"}}
    return {
        **figures,
        "training_rows": contract.rows,
        "holdout_rows": int(contract.metrics["rows"]),
        "rounds": contract.rounds,
        "model_bytes": contract.size_bytes,
        "model_sha256": contract.sha256,
        "code": contract.code_version,
        "as_of": dg.MetadataValue.timestamp(contract.as_of),
        "training_set": contract.training_set,
        "slices": _slices(trained.evaluation, trained.baseline),
        "plots": pictures(trained.plots),
    }


def _slices(ours: Evaluation, theirs: Evaluation) -> dg.TableMetadataValue:
    """Quality by slice and by month beside the baseline's."""
    groups = {**ours.slices, "month": ours.months}
    rivals = {**theirs.slices, "month": theirs.months}
    return dg.MetadataValue.table(
        [_slice(column, value, scores, rivals[column][value]) for column, values in groups.items() for value, scores in values.items()]
    )


def _slice(column: str, value: str, ours: Scores, theirs: Scores) -> dg.TableRecord:
    told = {"roc_auc": ours.roc_auc, "baseline_roc_auc": theirs.roc_auc, "calibration_error": ours.calibration_error}
    shown = {name: "–" if number is None else f"{number:.4f}" for name, number in told.items()}
    return dg.TableRecord({"slice": f"{column} {value}", "rows": ours.rows, "positives": ours.positives, **shown})


def _quality_checks(model: Model, trained: Candidate) -> list[dg.AssetCheckResult]:
    error = trained.evaluation.overall.calibration_error
    least, most = model.gate.min_gain_over_baseline, model.gate.max_calibration_error
    return [
        dg.AssetCheckResult(
            check_name=BETTER_THAN_BASELINE,
            passed=trained.gain >= least,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"gain": trained.gain, "at_least": least},
        ),
        dg.AssetCheckResult(
            check_name=CALIBRATED,
            passed=error <= most,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"calibration_error": error, "at_most": most},
        ),
    ]
