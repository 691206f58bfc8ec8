"""The state of the warehouse's tables: how many rows of some days they hold, and when they were loaded last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from pipeline_assets.core import connections, names
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning.raw_schema import LOADED_AT
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """When rows of a raw table were loaded last, by the wall clock (None: never), and how long ago they may have been."""

    contract: Contract
    loaded_at: datetime | None
    age: timedelta | None

    @property
    def is_fresh(self) -> bool:
        """Whether the newest load is not older than the contract's freshness."""
        return self.age is not None and self.age <= self.contract.freshness


def count_rows(settings: Settings, table: AssetName, event_at: str, days: tuple[date, date]) -> dict[date | None, int]:
    """How many rows of a table have their `event_at` on each of `days` (UTC, inclusive); a day without rows is left out."""
    from psycopg import sql

    day = sql.SQL("({} at time zone 'UTC')::date").format(sql.Identifier(event_at))
    statement = sql.SQL("select {day}, count(*) from {table} where {event_at} >= %s and {event_at} < %s group by 1").format(
        day=day, table=sql.Identifier(*table), event_at=sql.Identifier(event_at)
    )
    start, end = (datetime.combine(on, time(), UTC) for on in (days[0], days[1] + timedelta(days=1)))
    with connections.warehouse(settings) as connection:
        return {on: int(rows) for on, rows in connection.execute(statement, (start, end))}


def freshness_of(settings: Settings, contracts: Sequence[Contract]) -> list[Freshness]:
    """The freshness of the raw tables of `contracts`, in their order; it is also what `dbt source freshness` judges by."""
    with connections.warehouse(settings) as connection:
        return [_freshness(connection, contract) for contract in contracts]


def _freshness(connection: "psycopg.Connection", contract: Contract) -> Freshness:
    from psycopg import sql

    table = names.raw(contract.name)
    if connection.execute("select to_regclass(%s)", [".".join(table)]).fetchone() == (None,):
        return Freshness(contract=contract, loaded_at=None, age=None)
    newest = sql.SQL("select max({0}), now() - max({0}) from {1}").format(sql.Identifier(LOADED_AT), sql.Identifier(*table))
    loaded_at, age = connection.execute(newest).fetchone() or (None, None)
    return Freshness(contract=contract, loaded_at=loaded_at, age=age)
