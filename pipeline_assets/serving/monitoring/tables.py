"""The warehouse tables of monitoring: one row per day and column for drift, one per day for performance; a range is replaced at once.

A table that was made before, with fewer columns, is extended; the columns of a model's performance are those of its task and its rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.monitoring.drift import Drift
from pipeline_assets.serving.monitoring.performance import DayPerformance, figure_names
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from psycopg import Connection

DAY, FEATURE, AS_OF = "day", "feature", "labels_as_of"
NUMBER = "double precision"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The columns of a table with their types of Postgres, and those that are its key."""

    columns: Mapping[str, str]
    keys: tuple[str, ...]


DRIFT = Shape(
    columns={DAY: "date", FEATURE: "text", "psi": NUMBER, "psi_limit": NUMBER, "rows": "bigint", "null_share": NUMBER}, keys=(DAY, FEATURE)
)


@dataclass(frozen=True, kw_only=True)
class DriftedDay:
    """A day, how many of its columns were measured, and which had drifted."""

    day: date
    columns: int
    drifted: tuple[str, ...]


def replace_drift(settings: Settings, model: Model, found: Sequence[Drift], days: tuple[date, date]) -> None:
    """Replaces what was measured of the drift of `days` (inclusive), in one transaction; the table is made where it is missing."""
    rows = ((one.day, one.column, one.psi, one.limit, one.rows, one.null_share) for one in found)
    _replace(settings, names.drift(model.name), DRIFT, rows, days)


def replace_performance(
    settings: Settings, model: Model, found: Sequence[DayPerformance], days: tuple[date, date], as_of: datetime
) -> None:
    """Replaces what was measured of the performance of `days` (inclusive), in one transaction; the table is made where it is missing.

    `as_of` says which versions of labels were judged by: those that were known then.
    """
    rows = ((one.day, one.scores, one.labels, as_of, *(one.figures[name] for name in figure_names(model))) for one in found)
    _replace(settings, names.performance(model.name), _performance(model), rows, days)


def drifted_days(settings: Settings, model: Model, after: date | None) -> list[DriftedDay]:
    """The measured days later than `after`, oldest first; empty where nothing was measured yet."""
    from psycopg import sql

    table = names.drift(model.name)
    query = sql.SQL(
        "select day, count(*), coalesce(array_agg(feature order by feature) filter (where psi > psi_limit), '{{}}') "
        "from {} where day > coalesce(%s, '-infinity'::date) group by day order by day"
    ).format(sql.Identifier(*table))
    with warehouse(settings) as connection:
        _make(connection, table, DRIFT)
        rows = connection.execute(query, [after]).fetchall()
    return [DriftedDay(day=day, columns=columns, drifted=tuple(drifted)) for day, columns, drifted in rows]


def measured_days(settings: Settings, model: Model, after: date | None) -> list[tuple[date, dict[str, float | None]]]:
    """The days later than `after` with their figures of performance, oldest first; empty where nothing was measured yet."""
    from psycopg import sql

    table, figures = names.performance(model.name), figure_names(model)
    query = sql.SQL("select {} from {} where day > coalesce(%s, '-infinity'::date) order by day").format(
        sql.SQL(", ").join(map(sql.Identifier, (DAY, *figures))), sql.Identifier(*table)
    )
    with warehouse(settings) as connection:
        _make(connection, table, _performance(model))
        rows = connection.execute(query, [after]).fetchall()
    return [(day, dict(zip(figures, values, strict=True))) for day, *values in rows]


def judged_days(settings: Settings, model: Model) -> dict[date, datetime]:
    """What the labels of each measured day were judged as of (UTC); days of which an earlier version did not note it are left out."""
    from psycopg import sql

    table = names.performance(model.name)
    query = sql.SQL("select {}, {} from {} where {} is not null").format(
        *map(sql.Identifier, (DAY, AS_OF)), sql.Identifier(*table), sql.Identifier(AS_OF)
    )
    with warehouse(settings) as connection:
        _make(connection, table, _performance(model))
        return {day: as_of.astimezone(UTC) for day, as_of in connection.execute(query)}


def _performance(model: Model) -> Shape:
    counted = {DAY: "date", "scores": "bigint", "labels": "bigint", AS_OF: "timestamptz"}
    return Shape(columns={**counted, **dict.fromkeys(figure_names(model), NUMBER)}, keys=(DAY,))


def _replace(settings: Settings, table: AssetName, shape: Shape, rows: Iterable[tuple[object, ...]], days: tuple[date, date]) -> None:
    """Replaces the rows of `days` (inclusive); `rows` have the columns of the shape in its order."""
    from psycopg import sql

    name, columns = sql.Identifier(*table), sql.SQL(", ").join(map(sql.Identifier, shape.columns))
    with warehouse(settings) as connection, connection.cursor() as cursor:
        _make(connection, table, shape)
        cursor.execute(sql.SQL("delete from {} where day between %s and %s").format(name), days)
        with cursor.copy(sql.SQL("copy {} ({}) from stdin").format(name, columns)) as copy:
            for row in rows:
                copy.write_row(row)


def _make(connection: "Connection", table: AssetName, shape: Shape) -> None:
    """Makes the table where it is missing, and the columns that it lacks; two at once wait for each other."""
    from psycopg import sql

    connection.execute("select pg_advisory_xact_lock(hashtext(%s))", [".".join(table)])
    query = "select column_name from information_schema.columns where table_schema = %s and table_name = %s"
    found = {name for (name,) in connection.execute(query, table).fetchall()}
    typed = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in shape.columns.items() if name not in found]
    if not found:
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(table[0])))
        keys = sql.SQL(", ").join(map(sql.Identifier, shape.keys))
        made = sql.SQL("create table {} ({}, primary key ({}))").format(sql.Identifier(*table), sql.SQL(", ").join(typed), keys)
        connection.execute(made)
    elif typed:
        added = sql.SQL(", ").join(sql.SQL("add column {}").format(column) for column in typed)
        connection.execute(sql.SQL("alter table {} {}").format(sql.Identifier(*table), added))
