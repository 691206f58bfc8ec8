"""Days of a Postgres table, all seen at one instant, straight to Arrow and within bounded memory.

One transaction holds a snapshot of the database; every reader joins that snapshot, so days that several connections read at once fit
together. A day's rows come in an order that their values alone decide (the time first): read again, they have the same positions.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline_assets.core.connections import place_of
from pipeline_assets.core.dsn import read_address
from pipeline_assets.core.errors import SettingsMissing, SourceChanged, SourceRefused, SourceUnavailable
from pipeline_assets.core.foreign import LONGEST_SENTENCE, masked, shown
from pipeline_assets.core.settings import PREFIX, DatabaseSettings, Settings
from pipeline_assets.core.waits import CONNECT_SECONDS, Place
from pipeline_assets.ingestion.sources.contracts import Checked, check_batch
from pipeline_assets.ingestion.sources.originals import row_bytes
from pipeline_assets.ingestion.sources.postgres_types import NUMERIC, READ_AS_TEXT, Columns, columns_of, misfits
from pipeline_assets.ingestion.sources.typed_columns import typed
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import PostgresTable

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

    from pipeline_assets.core.postgres import ArrowSession, Session

BATCH_BYTES = "1000000"
# Of a database without an encoding texts are taken as they are: the server refuses the table for one that is no UTF-8, we its row.
AS_THEY_ARE = "select set_config('client_encoding', 'sql_ascii', false) where current_setting('server_encoding') = 'SQL_ASCII'"
# What a server that will be well again says when it refuses a connection.
PASSING = ("starting up", "shutting down", "too many", "connection slots", "recovery mode")
PASSING_CODES = ("08", "40", "53", "55", "57")


@dataclass(frozen=True, kw_only=True)
class TableSnapshot:
    """A table as it was when it was opened, not before `opened_at` by the database's clock; `columns` maps its columns to their types."""

    contract: Contract
    origin: PostgresTable
    place: Place
    snapshot: str
    opened_at: datetime
    columns: Columns

    @contextmanager
    def reader(self) -> Iterator["TableReader"]:
        """A reader with a connection of its own, on the snapshot that all readers share."""
        from pipeline_assets.core.postgres import open_arrow_session

        with source_errors(self.contract.name, connecting=True):
            connection = open_arrow_session(self.place)
        with closing(connection):
            with source_errors(self.contract.name), closing(connection.cursor()) as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                cursor.execute(f"SET TRANSACTION SNAPSHOT '{self.snapshot}'")
                cursor.execute(AS_THEY_ARE)
                cursor.fetchall()
            yield TableReader(self, connection)


class TableReader:
    """Reads days of a table, or all of it, one after the other."""

    def __init__(self, table: TableSnapshot, connection: "ArrowSession") -> None:
        self._table, self._connection = table, connection

    def __call__(self, day: date | None) -> Iterator[Checked]:
        """The rows of a day (None: all), checked, batch after batch.

        A row without a readable `event_at` belongs to the day of its `known_at`.
        """
        return self._checked(_queries(self._table, day), day)

    def lost(self) -> Iterator[Checked]:
        """The rows that belong to no day at all, as they have neither of their two times."""
        return self._checked([_select(self._table, _neither_time(self._table.contract))], None)

    def where(self, condition: "sql.Composable", first_position: int) -> Iterator[tuple[Checked, pa.Table]]:
        """The rows that meet a condition, checked, each part with the keys of all its rows, broken ones included."""
        position, contract = first_position, self._table.contract
        for batch in self._batches(_select(self._table, condition, first=())):
            checked = check_batch(contract, batch, first_position=position, original=self._original(batch))
            yield replace(checked, fields=frozenset(self._table.columns)), typed_keys(contract, batch)
            position += batch.num_rows

    def all_keys(self) -> Iterator[pa.Table]:
        """The keys of all rows."""
        from psycopg import sql

        contract = self._table.contract
        for batch in self._batches(_select(self._table, sql.SQL("true"), first=(), fields=contract.primary_key)):
            yield typed_keys(contract, batch)

    def one(self, query: str) -> dict[str, Any]:
        """The one row of a query, by its columns."""
        with source_errors(self._table.contract.name), closing(self._connection.cursor()) as cursor:
            cursor.execute(query)
            (row,) = cursor.fetch_arrow_table().to_pylist()
        return dict(row)

    def _checked(self, queries: list[str], day: date | None) -> Iterator[Checked]:
        position, fields = 0, frozenset(self._table.columns)
        for query in queries:
            for batch in self._batches(query):
                checked = check_batch(self._table.contract, batch, first_position=position, original=self._original(batch), day=day)
                yield replace(checked, fields=fields)
                position += batch.num_rows

    def _original(self, batch: pa.RecordBatch) -> Callable[[int], bytes]:
        """The bytes of a row of a batch; `numeric` comes as text, so that no digit is lost, and is a number no less."""
        numbers = {name for name, column in self._table.columns.items() if column.type == NUMERIC}
        return partial(row_bytes, batch, numbers=numbers)

    def _batches(self, query: str) -> Iterator[pa.RecordBatch]:
        with source_errors(self._table.contract.name), closing(self._connection.cursor()) as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": BATCH_BYTES})
            cursor.execute(query)
            yield from (_plain(batch) for batch in cursor.fetch_record_batch() if batch.num_rows)


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows, where what the driver has no Arrow type for (`numeric`) is the text that it is underneath."""
    columns = [column.storage if isinstance(column, pa.ExtensionArray) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


@contextmanager
def open_table(settings: Settings, contract: Contract, origin: PostgresTable) -> Iterator[TableSnapshot]:
    """A table with a snapshot of it that lasts until the block ends.

    Raises SettingsMissing without a DSN, SourceUnavailable if the database does not answer, SourceRefused if there is no such table,
    SourceChanged naming every field that has no column, or a column of another kind.
    """
    import psycopg

    with closing(connect(settings, contract.name, origin.database)) as connection:
        with source_errors(contract.name):
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            columns = _columns(connection, contract, origin)
            # The time at which the transaction began: it precedes the snapshot, which the first statement takes.
            ((snapshot, opened_at),) = connection.execute("select pg_export_snapshot(), now()").fetchall()
        place = place_of_source(settings, origin.database)
        yield TableSnapshot(contract=contract, origin=origin, place=place, snapshot=snapshot, opened_at=opened_at, columns=columns)


def newest_event(
    settings: DatabaseSettings, contract: Contract, origin: PostgresTable, bounds: tuple[datetime, datetime]
) -> datetime | None:
    """The newest `event_at` of a table (UTC) at or after the first bound and before the second, None where it has none.

    Rows of other times, such as `infinity`, do not count. Raises as `connect`.
    """
    from psycopg import sql

    query = sql.SQL("select max({at}) from {table} where {at} >= %s and {at} < %s")
    named = query.format(at=sql.Identifier(contract.event_at), table=sql.Identifier(origin.schema, origin.table))
    with closing(connect(settings, contract.name, origin.database)) as connection, source_errors(contract.name):
        ((found,),) = connection.execute(named, bounds).fetchall()
    return None if found is None else found.astimezone(UTC)


def connect(settings: DatabaseSettings, source: str, database: str) -> "Session":
    """A connection to a database for `source`; raises SettingsMissing without a DSN, SourceUnavailable, SourceRefused, DatabaseFull."""
    from pipeline_assets.core.postgres import open_session

    place = place_of_source(settings, database)
    with source_errors(source, connecting=True):
        return open_session(place)


def place_of_source(settings: DatabaseSettings, database: str) -> Place:
    """Where a database is, whose texts come as UTF-8 whatever it keeps them in; raises SettingsMissing without a DSN."""
    from psycopg.conninfo import make_conninfo

    setting = f"{PREFIX}DATABASES__{database.upper()}"
    if database not in settings.databases:
        raise SettingsMissing([setting])
    dsn = settings.databases[database]
    own = {"connect_timeout": str(CONNECT_SECONDS), "application_name": "pipeline_assets"}
    said = read_address(setting, dsn).parameters
    unsaid = {name: value for name, value in own.items() if name not in said}
    return place_of(setting, make_conninfo(dsn.get_secret_value(), client_encoding="utf8", **unsaid), settings)


def _columns(connection: "psycopg.Connection", contract: Contract, origin: PostgresTable) -> Columns:
    columns = columns_in(connection, origin)
    if not columns:
        raise SourceRefused(contract.name, f"database '{origin.database}' has no table {table_of(origin).as_string(connection)}")
    problems = misfits(contract, columns)
    if problems:
        raise SourceChanged(contract.name, problems)
    return columns


def columns_in(connection: "psycopg.Connection", origin: PostgresTable) -> Columns:
    """The columns of a table; none where there is no such table."""
    return columns_of(connection, table_of(origin).as_string(connection))


def table_of(origin: PostgresTable) -> "sql.Identifier":
    """The table with its schema, quoted."""
    from psycopg import sql

    return sql.Identifier(origin.schema, origin.table)


def _queries(table: TableSnapshot, day: date | None) -> list[str]:
    from psycopg import sql

    if day is None:
        return [_select(table, sql.SQL("true"), first=())]
    event_at, known_at = sql.Identifier(table.contract.event_at), sql.Identifier(table.contract.known_at)
    dated = _within(event_at, day)
    undated = sql.SQL("{} and {}").format(_no_time(event_at), _within(known_at, day))
    return [_select(table, dated), _select(table, undated)]


def _select(
    table: TableSnapshot, condition: "sql.Composable", first: tuple[str, ...] | None = None, fields: Collection[str] | None = None
) -> str:
    """Reads the contract's fields in their order (or those of `fields`); rows by `first` (None: the time), then key, then all the rest."""
    from psycopg import sql

    declared = [field.name for field in table.contract.fields if fields is None or field.name in fields]
    read = [
        sql.SQL("{0}::text as {0}" if table.columns[name].type in READ_AS_TEXT else "{0}").format(sql.Identifier(name)) for name in declared
    ]
    order = dict.fromkeys((*((table.contract.event_at,) if first is None else first), *table.contract.primary_key, *declared))
    statement = sql.SQL("select {} from {} where {} order by {}").format(
        sql.SQL(", ").join(read), table_of(table.origin), condition, sql.SQL(", ").join(map(sql.Identifier, order))
    )
    return statement.as_string()


def _within(column: "sql.Identifier", day: date) -> "sql.Composed":
    from psycopg import sql

    start = datetime.combine(day, time(), UTC)
    return sql.SQL("{0} >= {1}::timestamptz and {0} < {2}::timestamptz").format(
        column, sql.Literal(start.isoformat()), sql.Literal((start + timedelta(days=1)).isoformat())
    )


def _no_time(column: "sql.Identifier") -> "sql.Composed":
    from psycopg import sql

    return sql.SQL("({0} is null or {0} in ('infinity', '-infinity'))").format(column)


def _neither_time(contract: Contract) -> "sql.Composed":
    from psycopg import sql

    return sql.SQL(" and ").join(_no_time(sql.Identifier(name)) for name in (contract.event_at, contract.known_at))


def typed_keys(contract: Contract, batch: pa.RecordBatch) -> pa.Table:
    """The keys of rows in the contract's types; null where a value does not fit."""
    fields = {field.name: field for field in contract.fields}
    return pa.table({name: typed(fields[name], batch.column(name))[0] for name in contract.primary_key})


@contextmanager
def source_errors(source: str, *, connecting: bool = False) -> Iterator[None]:
    """The errors of both drivers as the product's: those of a moment may be retried.

    They carry no code where a connection is refused, which may be for good, or cut while rows come, which is of the moment.
    """
    import psycopg
    from adbc_driver_postgresql import dbapi

    try:
        yield
    except (psycopg.Error, dbapi.Error, OSError) as error:
        message, code = masked(" ".join(str(error).split())), getattr(error, "sqlstate", None)
        refused = connecting and "FATAL" in message and not any(sign in message for sign in PASSING)
        passing = code.startswith(PASSING_CODES) if code else not refused
        raise (SourceUnavailable if passing else SourceRefused)(source, f"database error: {shown(message, LONGEST_SENTENCE)}") from error
