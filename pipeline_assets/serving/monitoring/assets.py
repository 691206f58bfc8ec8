"""The assets of monitoring: drift and performance of each day, their checks, and the sensor that asks for a retraining."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import (
    Facts,
    Platform,
    asked_days,
    dagster_errors,
    days,
    days_around,
    key,
    of_run,
    pictures,
    report_days,
    use_case_tags,
)
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.serving.monitoring import sensors
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.serving.monitoring.performance import DayPerformance, Status
    from pipeline_assets.serving.monitoring.tables import DriftedDay
    from pipeline_assets.serving.monitoring.watch import Watched, WatchedPerformance

Metadata = dict[str, dg.MetadataValue | int]
NO_DRIFT, GOOD_SCORES = "no_drift", "good_scores"


class Clock(dg.Config):
    """At which time performance is judged, in event time."""

    as_of: str | None = Field(
        default=None,
        description="ISO 8601 with a zone; labels that had not matured by then do not count. Default: the end of the newest day.",
    )

    @property
    def instant(self) -> datetime | None:
        """The time that was given, in UTC; raises UserInputError if it is none or naive."""
        from pipeline_assets.model_lifecycle.training.inputs import parse_instant

        return parse_instant("as_of", self.as_of)


def defs(project: Project) -> dg.Definitions:
    """The monitoring of every model."""
    return dg.Definitions(
        assets=[asset for model in project.models for asset in (_drift(project, model), _performance(project, model))],
        sensors=[make(project, model) for model in project.models for make in (sensors.scoring, sensors.retraining)],
    )


def _drift(project: Project, model: Model) -> dg.AssetsDefinition:
    asset_key, home = key(names.drift(model.name)), project.home_of_model(model)

    @dg.asset(
        key=asset_key,
        deps=[key(names.vectors(model.name)), key(names.predictions(model.name)), key(names.champion(model.name))],
        partitions_def=days(project.span_of(home)),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.MONITORING,
        kinds={"evidently", "postgres"},
        owners=[model.owner],
        tags=use_case_tags(home),
        description="Drift of features and score per day against the live model's training set. One row per day and feature.",
        check_specs=[dg.AssetCheckSpec(NO_DRIFT, asset=asset_key, description="Few features have drifted on any day, and no score has.")],
    )
    def drift(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        from pipeline_assets.serving.monitoring.watch import by_day, watch_drift

        with dagster_errors():
            watched = watch_drift(platform.settings, model, *asked_days(context))
        found = by_day(watched.found)
        of_days = {day.day: {names.PARTITION_ROWS: day.columns, "features_drifted": len(day.drifted)} for day in found}
        report_days(context, of_days, _drift_metadata(model, watched))
        return dg.MaterializeResult(check_results=[_drift_check(model, found)])

    return drift


def _performance(project: Project, model: Model) -> dg.AssetsDefinition:
    asset_key, home = key(names.performance(model.name)), project.home_of_model(model)
    labels = dg.AssetDep(key(names.cleaned(model.label.table)), partition_mapping=days_around(after=model.label.horizon))

    @dg.asset(
        key=asset_key,
        deps=[key(names.predictions(model.name)), labels],
        partitions_def=days(project.span_of(home)),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.MONITORING,
        kinds={"python", "postgres"},
        owners=[model.owner],
        tags=use_case_tags(home),
        description="How good the scores of each day were, by the labels that have matured. One row per day.",
        check_specs=[dg.AssetCheckSpec(GOOD_SCORES, asset=asset_key, description=_rules_in_words(model))],
    )
    def performance(context: dg.AssetExecutionContext, platform: Platform, config: Clock) -> dg.MaterializeResult:
        from pipeline_assets.serving.monitoring.watch import watch_performance

        with dagster_errors():
            watched = watch_performance(platform.settings, model, *asked_days(context), config.instant)
        report_days(context, {one.day: _figures(one) for one in watched.found.days}, _performance_metadata(model, watched))
        return dg.MaterializeResult(check_results=[_performance_check(model, watched.found.days)])

    return performance


def _rules_in_words(model: Model) -> str:
    """What must hold on every day, such as "On every day whose labels are known: roc_auc is at least 0.62."."""
    return f"On every day whose labels are known: {task_kind(model.task).in_words(model.monitor.rules) or 'no rule is declared'}."


def _drift_metadata(model: Model, watched: "Watched") -> Metadata:
    from pipeline_assets.serving.monitoring.picture import draw_drift
    from pipeline_assets.serving.monitoring.watch import by_day, has_drifted

    found = by_day(watched.found)
    sums = {
        "days": len(found),
        "drifted_days": sum(has_drifted(model, day) for day in found),
        "features": max((day.columns for day in found), default=0),
        "drifted": len({column for day in found for column in day.drifted}),
        "rows": watched.rows,
        "reference_rows": watched.reference_rows,
    }
    return {
        **of_run(sums),
        "model_version": watched.version,
        **({} if watched.report_url is None else {"report": dg.MetadataValue.url(watched.report_url)}),
        "picture": pictures({"drift": draw_drift(watched.found)}),
        "drifted_features": dg.MetadataValue.md(_drift_text(found)),
    }


def _drift_text(found: "list[DriftedDay]") -> str:
    """A table of the days that had any drift."""
    rows = [f"| {day.day} | {len(day.drifted)} of {day.columns} | {', '.join(day.drifted)} |" for day in found if day.drifted]
    return "\n".join(["| day | drifted | which |", "|---|---|---|", *rows]) if rows else "Nothing has drifted."


def _drift_check(model: Model, found: "list[DriftedDay]") -> dg.AssetCheckResult:
    from pipeline_assets.serving.monitoring.watch import days_in_words, has_drifted

    failed = [str(day.day) for day in found if has_drifted(model, day)]
    return dg.AssetCheckResult(
        check_name=NO_DRIFT,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=days_in_words(model, found),
        metadata={"failed_days": failed, "max_drifted_share": model.monitor.max_drifted_share},
    )


def _performance_metadata(model: Model, watched: "WatchedPerformance") -> Metadata:
    from pipeline_assets.serving.monitoring.performance import KNOWN, NOT_YET_KNOWN, TOO_FEW

    found = watched.found
    statuses = {"days_known": KNOWN, "days_not_yet_known": NOT_YET_KNOWN, "days_with_too_few_labels": TOO_FEW}
    together = {name: round(value, 4) for name, value in found.together.items() if value is not None}
    return {
        **of_run(
            {**{label: len(_of_status(found.days, status)) for label, status in statuses.items()}, "labels": found.labels, **together}
        ),
        "as_of": dg.MetadataValue.timestamp(watched.clock),
        "days": _performance_table(model, found.days),
    }


def _figures(day: "DayPerformance") -> Facts:
    """What is known of a day, in numbers: figures that do not exist are left out."""
    known = {name: round(value, 4) for name, value in day.figures.items() if value is not None}
    return {names.PARTITION_ROWS: 1, "scores": day.scores, "labels": day.labels, **known}


def _performance_check(model: Model, found: "Sequence[DayPerformance]") -> dg.AssetCheckResult:
    """Which rules are broken, and on which days."""
    from pipeline_assets.serving.monitoring.performance import NOT_YET_KNOWN, TOO_FEW, broken_rules

    broken = {str(one.day): list(rules) for one in found if (rules := broken_rules(model, one.figures))}
    counted = Counter(rule for rules in broken.values() for rule in rules)
    unknown, too_few = _of_status(found, NOT_YET_KNOWN), _of_status(found, TOO_FEW)
    weak = "; ".join(f"{rule} on {number} days" for rule, number in counted.items()) or "No rule is broken"
    return dg.AssetCheckResult(
        check_name=GOOD_SCORES,
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{weak}. {len(unknown)} days are not yet known, {len(too_few)} have too few labels.",
        metadata={
            "failed_days": [*broken],
            "broken_rules": dg.MetadataValue.json(broken),
            "not_yet_known": unknown,
            "too_few_labels": too_few,
        },
    )


def _of_status(found: "Sequence[DayPerformance]", status: "Status") -> list[str]:
    return [str(one.day) for one in found if one.status == status]


def _performance_table(model: Model, found: "Sequence[DayPerformance]") -> dg.TableMetadataValue:
    from pipeline_assets.serving.monitoring.performance import figure_names

    rows = [
        {"day": one.day, "scores": one.scores, "labels": one.labels, **{name: one.figures[name] for name in figure_names(model)}}
        | {"status": one.status}
        for one in found
    ]
    return dg.MetadataValue.table([dg.TableRecord({name: _cell(value) for name, value in row.items()}) for row in rows])


def _cell(value: object) -> str | int | float:
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, int) else str(value) if value is not None else ""
