"""The warehouse tables of monitoring: one row per day and column for drift, one per day for performance; a range is replaced at once."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import date
from typing import TYPE_CHECKING

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.monitoring.drift import Drift
from pipeline_assets.serving.monitoring.performance import DayPerformance

if TYPE_CHECKING:
    from psycopg import Connection

COLUMNS = {
    Drift: "day date, feature text, psi double precision, psi_limit double precision, rows bigint, null_share double precision",
    DayPerformance: (
        "day date, scores bigint, labels bigint, label_rate double precision, mean_score double precision, "
        "roc_auc double precision, log_loss double precision, brier double precision"
    ),
}
KEYS = {Drift: "day, feature", DayPerformance: "day"}


@dataclass(frozen=True, kw_only=True)
class DriftedDay:
    """A day, how many of its columns were measured, and which had drifted."""

    day: date
    columns: int
    drifted: tuple[str, ...]


def replace_days(
    settings: Settings, table: AssetName, found: Sequence[Drift] | Sequence[DayPerformance], kind: type, days: tuple[date, date]
) -> None:
    """Replaces the rows of `days` (inclusive) in `table` by `found`, in one transaction; the table is made where it is missing."""
    from psycopg import sql

    name = sql.Identifier(*table)
    with warehouse(settings) as connection, connection.cursor() as cursor:
        _make(connection, table, kind)
        cursor.execute(sql.SQL("delete from {} where day between %s and %s").format(name), days)
        with cursor.copy(sql.SQL("copy {} from stdin").format(name)) as copy:
            for one in found:
                copy.write_row(astuple(one))


def drifted_days(settings: Settings, table: AssetName, after: date | None) -> list[DriftedDay]:
    """The measured days later than `after`, oldest first; empty where nothing was measured yet."""
    from psycopg import sql

    query = sql.SQL(
        "select day, count(*), coalesce(array_agg(feature order by feature) filter (where psi > psi_limit), '{{}}') "
        "from {} where day > coalesce(%s, '-infinity'::date) group by day order by day"
    ).format(sql.Identifier(*table))
    with warehouse(settings) as connection:
        _make(connection, table, Drift)
        rows = connection.execute(query, [after]).fetchall()
    return [DriftedDay(day=day, columns=columns, drifted=tuple(drifted)) for day, columns, drifted in rows]


def weak_days(settings: Settings, table: AssetName, after: date | None, min_roc_auc: float) -> list[date]:
    """The days later than `after` whose known performance is below `min_roc_auc`, oldest first."""
    from psycopg import sql

    query = sql.SQL("select day from {} where day > coalesce(%s, '-infinity'::date) and roc_auc < %s order by day").format(
        sql.Identifier(*table)
    )
    with warehouse(settings) as connection:
        _make(connection, table, DayPerformance)
        return [row[0] for row in connection.execute(query, [after, min_roc_auc]).fetchall()]


def _make(connection: "Connection", table: AssetName, kind: type) -> None:
    """Makes the table where it is missing; two at once wait for each other."""
    from psycopg import sql

    columns, key = sql.SQL(COLUMNS[kind]), sql.SQL(KEYS[kind])
    connection.execute("select pg_advisory_xact_lock(hashtext(%s))", [".".join(table)])
    connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(table[0])))
    connection.execute(sql.SQL("create table if not exists {} ({}, primary key ({}))").format(sql.Identifier(*table), columns, key))
