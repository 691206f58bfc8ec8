"""Watches a range of days of one model: reads what it saw and said, measures, and keeps what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_warehouse
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.registry import versions
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.serving.batch import predictions
from pipeline_assets.serving.monitoring import drift, report, tables
from pipeline_assets.serving.monitoring.performance import DayPerformance, performance
from pipeline_assets.spec.monitors import Monitor

if TYPE_CHECKING:
    from psycopg.sql import Composed

    from pipeline_assets.model_lifecycle.registry.versions import LoadedModel

SCORE = predictions.SCORE


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The drift found in a range of days, the model it was measured for, and where the report is."""

    version: int
    reference_rows: int
    rows: int
    found: tuple[drift.Drift, ...]
    report_url: str


def watch_drift(settings: Settings, monitor: Monitor, first: date, last: date) -> Watched:
    """Measures the drift of the days `first` to `last` (UTC, inclusive) against the training set of the live model, and keeps it.

    Raises NoLiveVersion if no version is live.
    """
    model = monitor.model
    live = versions.champion(settings, model)
    columns = [*(column.name for column in feature_columns(model)), SCORE]
    trained_on = _with_scores(live, archive.read_path(settings, live.contract.training_set, live.contract.training_set_sha256))
    current = _seen(settings, monitor, first, last)
    against = drift.reference(trained_on, columns, model.observations.decision_at, bins=monitor.bins, max_psi=monitor.max_psi)
    found = drift.measure(current, against, model.observations.decision_at)
    tables.replace_days(settings, names.drift(model.name), found, drift.Drift, (first, last))
    page = report.drift_report(current, trained_on, columns, monitor.report_sample_rows)
    url = report.keep(settings, f"reports/{model.name}/{first}_{last}.html", page)
    return Watched(version=live.version, reference_rows=trained_on.num_rows, rows=current.num_rows, found=tuple(found), report_url=url)


def watch_performance(settings: Settings, monitor: Monitor, first: date, last: date) -> list[DayPerformance]:
    """Measures the performance of the scores of the days `first` to `last` (UTC, inclusive) as far as labels are known, and keeps it."""
    model = monitor.model
    scores = _scores(settings, monitor, first, last)
    found = performance(
        scores,
        _labels(settings, monitor),
        key=model.observations.key,
        decision_at=model.observations.decision_at,
        label=model.label.column,
        min_labels=monitor.min_labels,
    )
    tables.replace_days(settings, names.performance(model.name), found, DayPerformance, (first, last))
    return found


def by_day(found: Sequence[drift.Drift]) -> list[tables.DriftedDay]:
    """What was found, one row a day in the order of time."""
    days: dict[date, list[drift.Drift]] = {}
    for one in found:
        days.setdefault(one.day, []).append(one)
    return [
        tables.DriftedDay(day=day, columns=len(rows), drifted=tuple(sorted(row.column for row in rows if row.is_drifted)))
        for day, rows in sorted(days.items())
    ]


def has_drifted(monitor: Monitor, day: tables.DriftedDay) -> bool:
    """Whether a day as a whole has drifted: too many of its features, or the score itself."""
    return SCORE in day.drifted or len(day.drifted) > monitor.max_drifted_share * day.columns


def _with_scores(live: "LoadedModel", rows: pa.Table) -> pa.Table:
    return rows.append_column(SCORE, pa.array(live.score(rows), pa.float64()))


def _seen(settings: Settings, monitor: Monitor, first: date, last: date) -> pa.Table:
    """The vectors of the days with the score that each was given."""
    key = monitor.model.observations.key
    scores = _scores(settings, monitor, first, last).select([key, SCORE])
    return offline.vectors(settings, monitor.model, first, last).join(scores, keys=key, join_type="inner")


def _scores(settings: Settings, monitor: Monitor, first: date, last: date) -> pa.Table:
    """Key, decision_at and score of the days' predictions."""
    from psycopg import sql

    columns = [sql.Identifier(column) for column in (monitor.model.observations.key, predictions.DECISION_AT, predictions.SCORE)]
    query = sql.SQL("select {} from {} where {} >= $1 and {} < $2").format(
        sql.SQL(", ").join(columns), sql.Identifier(*names.predictions(monitor.model.name)), columns[1], columns[1]
    )
    return _read(settings, query, [datetime.combine(day, time(), UTC) for day in (first, last + timedelta(days=1))])


def _labels(settings: Settings, monitor: Monitor) -> pa.Table:
    """Key and label of everything that is known."""
    from psycopg import sql

    label = monitor.model.label
    columns = sql.SQL(", ").join(sql.Identifier(column) for column in (label.key, label.column))
    return _read(settings, sql.SQL("select {} from {}").format(columns, sql.Identifier(*names.cleaned(label.table))), [])


def _read(settings: Settings, query: "Composed", values: Sequence[datetime]) -> pa.Table:
    with arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string(), values)
        return cursor.fetch_arrow_table()
