"""Whether what is kept apart belongs together: staged files, the lake's catalog, and the warehouse.

Each holds the same rows by day. After one of them was restored to an older time it lacks days, or has old ones, that the others have; then
no run need fail, and none mends it by itself. This names them, and what is materialized again to bring them together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from pipeline_assets.core import connections, names
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.staging.partitions import staged_rows
from pipeline_assets.processing.cleaning.models import Built, read_models
from pipeline_assets.processing.lake import tables

if TYPE_CHECKING:
    import psycopg

    from pipeline_assets.processing.lake.shrinking import Counts

Day = date | None


@dataclass(frozen=True, kw_only=True)
class Apart:
    """An asset that has other rows than the one before it: on which days (none of a table without days), and how many both have there."""

    asset: AssetName
    before: AssetName
    days: Sequence[date]
    rows: int
    rows_before: int

    def __str__(self) -> str:
        name, before = "/".join(self.asset), "/".join(self.before)
        when = f"on {len(self.days)} days from {self.days[0]} to {self.days[-1]}" if self.days else "in all"
        return f"{name} has {self.rows} rows and {before} {self.rows_before} {when}. Materialize {name} again for these days."


def apart(settings: Settings, project: Project) -> Iterator[Apart]:
    """All assets, from the lake to the lake's cleaned tables, that have other rows on some days than what they are made from.

    Counts alone are compared, by day; what was written since the restore is not told from what was lost.
    """
    for contract, by_day in project.lake_contracts:
        staged = {_day(partition): rows for partition, rows in staged_rows(settings, contract.name).items()}
        lake = tables.rows_by_day(settings, names.lake(contract.name))
        yield from _differing(names.lake(contract.name), lake, names.staged(contract.name), staged)
        # Of a prediction that was asked for twice the warehouse keeps one row.
        if contract.name != prediction_log.contract.name:
            raw = _in_warehouse(settings, names.raw(contract.name), contract.event_at if by_day else None)
            yield from _differing(names.raw(contract.name), raw, names.lake(contract.name), lake)
    for built in read_models(project).published:
        yield from _of_cleaned(settings, built)


def _of_cleaned(settings: Settings, built: Built) -> Iterator[Apart]:
    """A cleaned table in the lake beside the one in the warehouse, which it is a copy of."""
    table = names.cleaned(built.name)
    ours, theirs = tables.rows_by_day(settings, table), _in_warehouse(settings, table, built.event_at)
    yield from _differing(table, ours, ("warehouse", built.name), theirs)


def _differing(asset: AssetName, rows: "Counts", before: AssetName, rows_before: "Counts") -> Iterator[Apart]:
    days = {day for day in rows.keys() | rows_before.keys() if rows.get(day, 0) != rows_before.get(day, 0)}
    if days:
        yield Apart(
            asset=asset,
            before=before,
            days=sorted(day for day in days if day is not None),
            rows=sum(rows.get(day, 0) for day in days),
            rows_before=sum(rows_before.get(day, 0) for day in days),
        )


def _day(partition: str) -> Day:
    return None if partition == names.SNAPSHOT else date.fromisoformat(partition)


def _in_warehouse(settings: Settings, table: AssetName, event_at: str | None) -> Mapping[Day, int]:
    """The rows of a table by UTC day of a column, or all of them under None; none where there is no such table."""
    with connections.warehouse(settings) as connection:
        if connection.execute("select to_regclass(%s)", [".".join(table)]).fetchone() == (None,):
            return {}
        return _counted(connection, table, event_at)


def _counted(connection: "psycopg.Connection", table: AssetName, event_at: str | None) -> Mapping[Day, int]:
    from psycopg import sql

    day = sql.SQL("null::date") if event_at is None else sql.SQL("({} at time zone 'UTC')::date").format(sql.Identifier(event_at))
    query = sql.SQL("select {}, count(*) from {} group by 1").format(day, sql.Identifier(*table))
    return dict(connection.execute(query).fetchall())
