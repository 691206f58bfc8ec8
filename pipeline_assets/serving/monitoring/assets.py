"""The assets of monitoring: drift and performance of each day, their checks, and the sensor that asks for a retraining."""

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, asked_days, dagster_errors, days, key, pictures
from pipeline_assets.serving.monitoring import sensors
from pipeline_assets.serving.monitoring.performance import KNOWN, DayPerformance
from pipeline_assets.serving.monitoring.picture import draw_drift
from pipeline_assets.serving.monitoring.tables import DriftedDay
from pipeline_assets.serving.monitoring.watch import Watched, by_day, has_drifted, watch_drift, watch_performance
from pipeline_assets.spec.monitors import Monitor
from pipeline_assets.spec.use_case import UseCase

Metadata = dict[str, dg.MetadataValue | int]
NO_DRIFT, GOOD_SCORES = "no_drift", "good_scores"


def defs(use_case: UseCase) -> dg.Definitions:
    """The monitoring of the use case's model."""
    return dg.Definitions(assets=[_drift(use_case), _performance(use_case)], sensors=[sensors.retraining(use_case)])


def _drift(use_case: UseCase) -> dg.AssetsDefinition:
    monitor = use_case.monitor
    model = monitor.model

    @dg.asset(
        key=key(names.drift(model.name)),
        deps=[key(names.vectors(model.name)), key(names.predictions(model.name)), key(names.champion(model.name))],
        partitions_def=days(use_case),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.MONITORING,
        kinds={"evidently", "postgres"},
        owners=[model.owner],
        description="Drift of features and score per day against the live model's training set. One row per day and feature.",
        check_specs=[
            dg.AssetCheckSpec(
                NO_DRIFT, asset=key(names.drift(model.name)), description="Few features have drifted on any day, and the score has not."
            )
        ],
    )
    def drift(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        with dagster_errors():
            watched = watch_drift(platform.settings, monitor, *asked_days(context))
        return dg.MaterializeResult(metadata=_drift_metadata(watched), check_results=[_drift_check(monitor, by_day(watched.found))])

    return drift


def _performance(use_case: UseCase) -> dg.AssetsDefinition:
    monitor = use_case.monitor
    model = monitor.model

    @dg.asset(
        key=key(names.performance(model.name)),
        deps=[key(names.predictions(model.name)), key(names.cleaned(model.label.table))],
        partitions_def=days(use_case),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.MONITORING,
        kinds={"python", "postgres"},
        owners=[model.owner],
        description="How good the scores of each day were, as far as the labels are known. One row per day.",
        check_specs=[
            dg.AssetCheckSpec(
                GOOD_SCORES,
                asset=key(names.performance(model.name)),
                description=f"ROC AUC is at least {monitor.min_roc_auc} on every day whose labels are known.",
            )
        ],
    )
    def performance(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        with dagster_errors():
            found = watch_performance(platform.settings, monitor, *asked_days(context))
        known = sum(one.status == KNOWN for one in found)
        metadata: Metadata = {
            "dagster/row_count": len(found),
            "days_known": known,
            "days_not_yet_known": len(found) - known,
            "days": _performance_table(found),
        }
        return dg.MaterializeResult(metadata=metadata, check_results=[_performance_check(monitor, found)])

    return performance


def _drift_metadata(watched: Watched) -> Metadata:
    found = by_day(watched.found)
    return {
        "dagster/row_count": len(watched.found),
        "days": len(found),
        "features": max((day.columns for day in found), default=0),
        "drifted": len({column for day in found for column in day.drifted}),
        "rows": watched.rows,
        "reference_rows": watched.reference_rows,
        "model_version": watched.version,
        "report": dg.MetadataValue.url(watched.report_url),
        "picture": pictures({"drift": draw_drift(watched.found)}),
        "drifted_features": dg.MetadataValue.md(_drift_text(found)),
    }


def _drift_text(found: list[DriftedDay]) -> str:
    """A table of the days that had any drift."""
    rows = [f"| {day.day} | {len(day.drifted)} of {day.columns} | {', '.join(day.drifted)} |" for day in found if day.drifted]
    return "\n".join(["| day | drifted | which |", "|---|---|---|", *rows]) if rows else "Nothing has drifted."


def _drift_check(monitor: Monitor, found: list[DriftedDay]) -> dg.AssetCheckResult:
    failed = [str(day.day) for day in found if has_drifted(monitor, day)]
    return dg.AssetCheckResult(
        check_name=NO_DRIFT,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(failed)} of {len(found)} days have drifted." if failed else "No day has drifted.",
        metadata={"failed_days": failed, "max_drifted_share": monitor.max_drifted_share},
    )


def _performance_check(monitor: Monitor, found: list[DayPerformance]) -> dg.AssetCheckResult:
    weak = [str(one.day) for one in found if one.roc_auc is not None and one.roc_auc < monitor.min_roc_auc]
    unknown = [str(one.day) for one in found if one.roc_auc is None]
    return dg.AssetCheckResult(
        check_name=GOOD_SCORES,
        passed=not weak,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(weak)} days below {monitor.min_roc_auc}; {len(unknown)} days not yet known.",
        metadata={"failed_days": weak, "not_yet_known": unknown},
    )


def _performance_table(found: list[DayPerformance]) -> dg.TableMetadataValue:
    columns = ("day", "scores", "labels", "label_rate", "mean_score", "roc_auc", "log_loss", "brier", "status")
    return dg.MetadataValue.table([dg.TableRecord({name: _cell(getattr(one, name)) for name in columns}) for one in found])


def _cell(value: object) -> str | int | float:
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, int) else str(value) if value is not None else ""
