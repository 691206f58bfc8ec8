"""Monitors a range of days of one model: reads its inputs, scores and labels, measures, and keeps what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_warehouse, warehouse
from pipeline_assets.core.errors import NotTrained
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.registry import versions
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.model_lifecycle.training.inputs import end_of_vectors, read_labels
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.processing.features.request import request_feature_name
from pipeline_assets.processing.lake.tables import days
from pipeline_assets.serving.batch import predictions
from pipeline_assets.serving.batch.answers import fitting, with_scores
from pipeline_assets.serving.monitoring import drift, report, tables
from pipeline_assets.serving.monitoring.performance import Performance, performance
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.registry.versions import LoadedModel

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The drift found in a range of days, the version it was measured for, and where the report is (None: there was no day to report)."""

    version: int
    reference_rows: int
    rows: int
    found: tuple[drift.Drift, ...]
    report_url: str | None


@dataclass(frozen=True, kw_only=True)
class WatchedPerformance:
    """The performance found in a range of days, as it stood at `clock` (UTC, event time)."""

    clock: datetime
    found: Performance


def watch_drift(settings: Settings, model: Model, first: date, last: date) -> Watched:
    """Measures the drift of the days `first` to `last` (UTC, inclusive) against the training set of the live version, and keeps it.

    The newest day that has drifted is reported, or the newest where none has. Raises NotTrained if no version is live, the one that is
    answers otherwise than declared, or there are no predictions.
    """
    live = fitting(model, versions.champion(settings, model))
    contract, decided = live.contract, model.observations.decision_at
    trained_on = archive.read_path(settings, contract.training_set, contract.training_set_sha256)
    trained_on = with_scores(model.task, trained_on, live.scorer.score(trained_on))
    columns = [*(feature.name for feature in contract.features), *task_kind(model.task).score_columns()]
    weekly, categories = frozenset(_weekly(model) & {*columns}), report.category_names(contract.features)
    vectors = _scored_vectors(settings, model, (first, last), since=first - drift.WEEK + DAY if weekly else first)
    current = vectors.filter(pc.is_valid(vectors[task_kind(model.task).score_columns()[0]]))
    bins, max_psi = model.monitor.bins, model.monitor.max_psi
    against = drift.reference(trained_on, columns, decided, bins=bins, max_psi=max_psi, categories=categories, weekly=weekly)
    begins = next(iter(days(settings, names.vectors(model.name))), None)
    found = drift.measure(current, against, decided, vectors, begins)
    tables.replace_drift(settings, model, found, (first, last))
    day = _reported(model, found)
    url = None if day is None else report.keep(settings, *_report(model, live, day, found, (current, vectors, trained_on)))
    rows = {one.day: one.rows for one in found if one.column not in weekly}
    return Watched(version=live.version, reference_rows=trained_on.num_rows, rows=sum(rows.values()), found=tuple(found), report_url=url)


def _weekly(model: Model) -> set[str]:
    """The features that follow the days of the week, and so have one value on a day."""
    return {request_feature_name(feature) for feature in model.request_features if feature.transform == "weekday"}


def _reported(model: Model, found: Sequence[drift.Drift]) -> tables.DriftedDay | None:
    days = by_day(found)
    return next((day for day in reversed(days) if has_drifted(model, day)), days[-1] if days else None)


def _report(
    model: Model, live: "LoadedModel", day: tables.DriftedDay, found: Sequence[drift.Drift], rows: tuple[pa.Table, pa.Table, pa.Table]
) -> tuple[report.Sheet, bytes]:
    """The report of a day; `rows` are the scored ones of the days, all of the days and the six before, and those of the training set."""
    (current, vectors, trained_on), decided, contract = rows, model.observations.decision_at, live.contract
    sheet = report.Sheet(
        model=model.name,
        version=live.version,
        day=day.day,
        verdict=day_in_words(model, day),
        found=[one for one in found if one.day == day.day],
        weekly=frozenset(_weekly(model)),
        as_of=f"{contract.as_of:%Y-%m-%d %H:%M} UTC",
    )
    of_week, last = pc.cast(vectors[decided], pa.date32()), pa.scalar(day.day)
    week = vectors.filter(pc.and_(pc.greater(of_week, pa.scalar(day.day - drift.WEEK)), pc.less_equal(of_week, last)))
    of_day = current.filter(pc.equal(pc.cast(current[decided], pa.date32()), last))
    page = report.drift_report(
        sheet, (of_day, week, trained_on), report.category_names(contract.features), model.monitor.report_sample_rows
    )
    return sheet, page


def watch_performance(settings: Settings, model: Model, first: date, last: date, as_of: datetime | None = None) -> WatchedPerformance:
    """Measures the performance of the scores of the days `first` to `last` (UTC, inclusive) by the labels matured at `as_of`, and keeps it.

    `as_of` is event time in UTC (None: the end of the newest day that has vectors). Raises NotTrained if there are no vectors or no
    predictions, TableMismatch if a label does not fit the model's task.
    """
    clock = end_of_vectors(settings, model) if as_of is None else as_of
    if clock is None:
        raise NotTrained(model.name, "vectors", "/".join(names.vectors(model.name)))
    scores = _read_scores(settings, model, first, last)
    labels = read_labels(settings, model.label, predictions.bounds(first, last)[0], clock)
    found = performance(model, scores, labels, clock)
    tables.replace_performance(settings, model, found.days, (first, last), clock)
    return WatchedPerformance(clock=clock, found=found)


def by_day(found: Sequence[drift.Drift]) -> list[tables.DriftedDay]:
    """What was found, one row per day in the order of time."""
    days: dict[date, list[drift.Drift]] = {}
    for one in found:
        days.setdefault(one.day, []).append(one)
    return [
        tables.DriftedDay(day=day, columns=len(rows), drifted=tuple(sorted(row.column for row in rows if row.is_drifted)))
        for day, rows in sorted(days.items())
    ]


def has_drifted(model: Model, day: tables.DriftedDay) -> bool:
    """Whether a day as a whole has drifted: the scores themselves, or too many of the features."""
    scores, features = _parts(model, day)
    return bool(scores) or len(features) > model.monitor.max_drifted_share * _features(model, day)


def drift_in_words(model: Model, day: tables.DriftedDay) -> str:
    """What has drifted on a day, such as "the score and 3 of 64 features drifted"."""
    scores, features = _parts(model, day)
    own = task_kind(model.task).score_columns()
    drifted = f"the {own[0]} and " if scores and not own[1:] else f"{len(scores)} of {len(own)} scores and " if scores else ""
    return f"{drifted}{len(features)} of {_features(model, day)} features drifted"


def day_in_words(model: Model, day: tables.DriftedDay) -> str:
    """The verdict on a day with its reason, the same wherever a person reads of it."""
    verdict = "has drifted" if has_drifted(model, day) else "has not drifted"
    limit = f"a day drifts with the score, or with more than {model.monitor.max_drifted_share:.0%} of the features"
    return f"{day.day} {verdict}: {drift_in_words(model, day)} ({limit})."


def days_in_words(model: Model, found: Sequence[tables.DriftedDay]) -> str:
    """The verdict on a range of days, such as "2 of 30 days have drifted; the newest: …"."""
    drifted = [day for day in found if has_drifted(model, day)]
    if not drifted:
        return f"None of {len(found)} days has drifted."
    verb = "has" if len(drifted) == 1 else "have"
    return f"{len(drifted)} of {len(found)} days {verb} drifted; the newest: {day_in_words(model, drifted[-1])}"


def _parts(model: Model, day: tables.DriftedDay) -> tuple[list[str], list[str]]:
    """The columns that have drifted on a day: scores, and features."""
    own = task_kind(model.task).score_columns()
    return [column for column in day.drifted if column in own], [column for column in day.drifted if column not in own]


def _features(model: Model, day: tables.DriftedDay) -> int:
    return day.columns - len(task_kind(model.task).score_columns())


def _scored_vectors(settings: Settings, model: Model, days: tuple[date, date], since: date) -> pa.Table:
    """All vectors from `since` to the last of the days, with the scores that those of the days got; null where one has none."""
    first, last = days
    vectors = pl.DataFrame(offline.vectors(settings, model, since, last))
    keys, decided = model.observations.keys, model.observations.decision_at
    scores = pl.DataFrame(_read_scores(settings, model, first, last)).rename({predictions.DECISION_AT: decided})
    scores = scores.with_columns(pl.col(name).cast(vectors.schema[name]) for name in (*keys, decided))
    return vectors.join(scores, on=[*keys, decided], how="left", maintain_order="left").to_arrow()


def _read_scores(settings: Settings, model: Model, first: date, last: date) -> pa.Table:
    """Keys, decision_at and scores of the days' predictions; raises NotTrained where there is no table of them."""
    from psycopg.sql import SQL

    if not _has_predictions(settings, model):
        raise NotTrained(model.name, "predictions", "/".join(names.predictions(model.name)))
    columns = (*model.observations.keys, predictions.DECISION_AT, *task_kind(model.task).score_columns())
    query = SQL("select {} from {} where decision_at >= $1 and decision_at < $2").format(
        predictions.listed(columns), predictions.table_of(model)
    )
    with arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string(), predictions.bounds(first, last))
        return cursor.fetch_arrow_table()


def _has_predictions(settings: Settings, model: Model) -> bool:
    with warehouse(settings) as connection:
        found = connection.execute("select to_regclass(%s) is not null", (predictions.table_of(model).as_string(),)).fetchone()
    return found == (True,)
