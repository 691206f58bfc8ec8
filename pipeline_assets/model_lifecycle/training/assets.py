"""The assets of training: the training set of each model, and the candidate that is learned from it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from pipeline_assets.core import names
from pipeline_assets.core.connections import tracking
from pipeline_assets.core.handover import needed
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, column_lineage, dagster_errors, key, pictures, use_case_tags
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_assets.model_lifecycle.training.archive import TrainingSet
    from pipeline_assets.model_lifecycle.training.candidate import Candidate
    from pipeline_assets.model_lifecycle.training.dataset import Leaks
    from pipeline_assets.model_lifecycle.training.evaluate import Evaluation, Quality
    from pipeline_assets.model_lifecycle.training.inputs import Inputs

LEAK_CHECKS = {
    "labels_known": "Every label was known at `as_of`.",
    "decisions_before_as_of": "Every decision was due before `as_of`, by at least the horizon of its label.",
    "labels_after_decisions": "No label was known when its decision was due.",
}
BETTER_THAN_BASELINE, WITHIN_LIMITS = "better_than_baseline", "within_limits"
# By these the training set is handed to the candidate, and the candidate to the gate.
RECORD, RUN_ID = "training_set_name", "mlflow_run_id"
NO_FIGURE = "–"

Metadata = dict[str, dg.MetadataValue | dg.TableSchema | dg.TableColumnLineage | float | int | str]
CODE_VERSION = "2"


class AsOf(dg.Config):
    """As of which moment a model is trained, in event time."""

    as_of: str | None = Field(
        default=None, description="ISO 8601 with a zone; what was not known by then is not used. Default: the end of the newest day."
    )

    @property
    def instant(self) -> datetime | None:
        """The time that was given, in UTC; raises UserInputError if it is none or naive."""
        from pipeline_assets.model_lifecycle.training.inputs import parse_instant

        return parse_instant("as_of", self.as_of)


class ChosenSet(dg.Config):
    """From which training set a candidate is learned, where it is not that of the same run."""

    training_set: str | None = Field(default=None, description="SHA-256 of a training set. Default: the training set of this run.")
    as_of: str | None = Field(default=None, description="ISO 8601 with a zone: the training set as of that time, where there is one only.")

    @property
    def is_given(self) -> bool:
        """Whether a training set is named."""
        return self.training_set is not None or self.as_of is not None

    @property
    def instant(self) -> datetime | None:
        """The time that was given, in UTC; raises UserInputError if it is none or naive."""
        from pipeline_assets.model_lifecycle.training.inputs import parse_instant

        return parse_instant("as_of", self.as_of)


def defs(project: Project) -> dg.Definitions:
    """Training set and candidate of every model."""
    homes = [(project.home_of_model(model), model) for model in project.models]
    return dg.Definitions(assets=[asset for home, model in homes for asset in (_training_set(home, model), _candidate(home, model))])


def _training_set(use_case: UseCase, model: Model) -> dg.AssetsDefinition:
    asset_key = key(names.training_set(model.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.vectors(model.name)), key(names.cleaned(model.label.table))],
        group_name=names.TRAINING,
        kinds={"polars", "parquet", "s3"},
        owners=[model.owner],
        tags=use_case_tags(use_case),
        code_version=CODE_VERSION,
        description=f"Vectors of {model.name} with the labels that had matured at `as_of`, in blocks of time. One row per decision.",
        check_specs=[
            dg.AssetCheckSpec(name, asset=asset_key, blocking=True, description=description) for name, description in LEAK_CHECKS.items()
        ],
    )
    def training_set(context: dg.AssetExecutionContext, platform: Platform, config: AsOf) -> dg.MaterializeResult:
        from pipeline_assets.model_lifecycle.training.inputs import read_inputs

        with dagster_errors():
            inputs = read_inputs(platform.settings, model, config.instant)
            context.log.info("%d vectors and %d labels as of %s", inputs.vectors.num_rows, inputs.labels.num_rows, inputs.as_of)
            return _build(platform.settings, model, inputs)

    return training_set


def _build(settings: Settings, model: Model, inputs: "Inputs") -> dg.MaterializeResult:
    """Stores the training set, and publishes it only if nothing leaks."""
    from pipeline_assets.model_lifecycle.training import archive
    from pipeline_assets.model_lifecycle.training.dataset import build_training_set, leaks

    rows = build_training_set(model, inputs.vectors, inputs.labels, inputs.as_of)
    found = leaks(model, rows, inputs.as_of)
    record = archive.store(settings, model, rows, inputs.as_of, inputs.snapshots)
    if found.rows == 0:
        archive.publish(settings, model, record)
    metadata = _set_metadata(model, record, rows.schema) | {"vectors_read": inputs.vectors.num_rows}
    return dg.MaterializeResult(metadata=metadata, check_results=_leak_checks(found))


def _candidate(use_case: UseCase, model: Model) -> dg.AssetsDefinition:
    asset_key = key(names.candidate(model.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.training_set(model.name))],
        group_name=names.TRAINING,
        kinds={"xgboost", "mlflow"},
        owners=[model.owner],
        tags=use_case_tags(use_case),
        code_version=CODE_VERSION,
        pool=names.TRAINING,
        description=f"{model.question} Learned from the training set of the same run, or the one that is given; an MLflow run.",
        check_specs=_quality_specs(asset_key, model),
    )
    def candidate(context: dg.AssetExecutionContext, platform: Platform, config: ChosenSet) -> dg.MaterializeResult:
        from pipeline_assets.model_lifecycle.training import archive
        from pipeline_assets.model_lifecycle.training.candidate import train_candidate
        from pipeline_assets.model_lifecycle.training.track import Origin, experiment_id, log_candidate, run_url

        with dagster_errors():
            settings = platform.settings
            origin = Origin(dagster_run_id=context.run.run_id, job=context.run.job_name, began_at=datetime.now(UTC))
            record = _record(context, settings, model, config)
            context.log.info("Training set %s", record.name)
            trained = train_candidate(model, record, archive.read(settings, record), context.log.info)
            run_id = log_candidate(settings, use_case.name, trained, record, origin)
            link = run_url(settings, experiment_id(tracking(settings), use_case.name, model.name), run_id)
        metadata = _candidate_metadata(model, trained) | {"mlflow_run": dg.MetadataValue.url(link), RUN_ID: run_id}
        return dg.MaterializeResult(metadata=metadata, check_results=_quality_checks(model, trained))

    return candidate


def _record(context: dg.AssetExecutionContext, settings: Settings, model: Model, config: ChosenSet) -> "TrainingSet":
    """The training set that the config names, or that of this run."""
    from pipeline_assets.model_lifecycle.training import archive

    if config.is_given:
        return archive.find(settings, model, as_of=config.instant, digest=config.training_set)
    upstream = key(names.training_set(model.name))
    return archive.named(settings, model, needed(context, upstream, RECORD, given=None, option="training_set` or `as_of"))


def _quality_specs(asset_key: dg.AssetKey, model: Model) -> list[dg.AssetCheckSpec]:
    gate = model.gate
    gain = f"On the hold-out {gate.metric} is better than the baseline's by at least {gate.min_gain_over_baseline:g}."
    specs = [dg.AssetCheckSpec(BETTER_THAN_BASELINE, asset=asset_key, description=gain)]
    if gate.limits:
        limits = task_kind(model.task).in_words(gate.limits)
        specs.append(dg.AssetCheckSpec(WITHIN_LIMITS, asset=asset_key, description=f"On the hold-out {limits}."))
    return specs


def _set_metadata(model: Model, record: "TrainingSet", schema: "pa.Schema") -> Metadata:
    """A training set: its name, where it is, its blocks and what it was read from."""
    from pipeline_assets.model_lifecycle.training.lineage import training_set_lineage

    shown = [
        dg.TableRecord(
            {"block": one.name, "from": str(one.start), "to": str(one.end), "rows": one.rows, "labels": _labels_in_words(one.labels)}
        )
        for one in record.blocks
    ]
    return {
        names.ROW_COUNT: record.rows,
        "dagster/uri": dg.MetadataValue.text(record.path),
        "dagster/column_schema": dg.TableSchema(columns=[dg.TableColumn(field.name, str(field.type)) for field in schema]),
        "dagster/column_lineage": column_lineage(training_set_lineage(model)),
        "as_of": dg.MetadataValue.timestamp(record.as_of),
        RECORD: dg.MetadataValue.text(record.name),
        "training_set_sha256": dg.MetadataValue.text(record.sha256),
        "bytes": record.size_bytes,
        "blocks": dg.MetadataValue.table(shown),
        "snapshots": dg.MetadataValue.json(dict(record.snapshots)),
    }


def _leak_checks(found: "Leaks") -> list[dg.AssetCheckResult]:
    """One result per kind of leak."""
    counts = (found.labels_from_the_future, found.decisions_from_the_future, found.labels_before_their_decision)
    return [
        dg.AssetCheckResult(check_name=name, passed=rows == 0, metadata={"leaking_rows": rows})
        for name, rows in zip(LEAK_CHECKS, counts, strict=True)
    ]


def _candidate_metadata(model: Model, trained: "Candidate") -> Metadata:
    """A candidate: its figures on the hold-out, its size, its training set, its plots."""
    contract = trained.contract
    held = trained.evaluation.overall
    figures = {name: value for name, value in contract.metrics.items() if name != "rows" and name not in held.labels}
    return {
        **figures,
        "training_rows": contract.rows,
        "holdout_rows": held.rows,
        "rounds": contract.rounds,
        "model_bytes": contract.size_bytes,
        "model_sha256": contract.sha256,
        "code": contract.code_version,
        "local_edits": contract.local_edits,
        "as_of": dg.MetadataValue.timestamp(contract.as_of),
        "training_set": contract.training_set,
        "slices": _slices(model, trained.evaluation, trained.baseline),
        "plots": pictures(trained.plots),
    }


def _quality_checks(model: Model, trained: "Candidate") -> list[dg.AssetCheckResult]:
    """Whether the candidate beats its baseline and keeps the limits of its gate; only the gate decides what goes live."""
    least = model.gate.min_gain_over_baseline
    checks = [_warning(BETTER_THAN_BASELINE, trained.gain is not None and trained.gain >= least, {"gain": trained.gain, "at_least": least})]
    if model.gate.limits:
        kind, figures = task_kind(model.task), trained.evaluation.overall.figures
        kept = all(kind.keeps(rule, figures[rule.metric]) for rule in model.gate.limits)
        checks.append(_warning(WITHIN_LIMITS, kept, {rule.metric: figures[rule.metric] for rule in model.gate.limits}))
    return checks


def _labels_in_words(labels: Mapping[str, float]) -> str:
    """What sums up the labels of a block, such as "positives 145"."""
    return ", ".join(f"{name} {value:g}" for name, value in labels.items())


def _warning(name: str, passed: bool, figures: Mapping[str, float | None]) -> dg.AssetCheckResult:  # noqa: FBT001 - the second thing that a result is
    shown = {figure: NO_FIGURE if value is None else value for figure, value in figures.items()}
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=shown)


def _slices(model: Model, ours: "Evaluation", theirs: "Evaluation") -> dg.TableMetadataValue:
    """Quality by slice and by month beside the baseline's."""
    groups = {**ours.slices, "month": ours.months}
    rivals = {**theirs.slices, "month": theirs.months}
    records = [
        _slice(model.gate.metric, f"{column} {value}", quality, rivals[column][value])
        for column, values in groups.items()
        for value, quality in values.items()
    ]
    return dg.MetadataValue.table(records)


def _slice(metric: str, name: str, ours: "Quality", theirs: "Quality") -> dg.TableRecord:
    figures = {
        metric: ours.figures[metric],
        f"baseline_{metric}": theirs.figures[metric],
        "calibration_error": ours.figures["calibration_error"],
    }
    shown = {figure: NO_FIGURE if value is None else f"{value:.4f}" for figure, value in figures.items()}
    return dg.TableRecord({"slice": name, "rows": ours.rows, "labels": _labels_in_words(ours.labels), **shown})
