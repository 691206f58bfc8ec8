"""The state of the warehouse's tables: how many rows of some days they hold, and when they were loaded last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
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


def count_rows(settings: Settings, table: AssetName, event_at: str, days: tuple[date, date]) -> int:
    """Rows of a table whose `event_at` lies in `days` (UTC, inclusive)."""
    from psycopg import sql

    day = sql.SQL("({} at time zone 'UTC')::date").format(sql.Identifier(event_at))
    statement = sql.SQL("select count(*) from {} where {} between %s and %s").format(sql.Identifier(*table), day)
    with connections.warehouse(settings) as connection:
        (rows,) = connection.execute(statement, days).fetchone() or (0,)
    return int(rows)


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
