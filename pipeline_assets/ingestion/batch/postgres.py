"""Days of a Postgres table, all seen at one instant, straight to Arrow and within bounded memory.

One transaction holds a snapshot of the database; every reader joins that snapshot, so days that several connections read at once fit
together. A day's rows come in an order that their values alone decide (the time first): read again, they have the same positions.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from pipeline_assets.core.dsn import read_address
from pipeline_assets.core.errors import SettingsMissing, SourceChanged, SourceRefused, SourceUnavailable
from pipeline_assets.core.settings import PREFIX, DatabaseSettings, Settings
from pipeline_assets.ingestion.sources.contracts import Checked, arrow_schema, check_batch
from pipeline_assets.spec.contracts import Contract, FieldType
from pipeline_assets.spec.sources import PostgresTable

if TYPE_CHECKING:
    import psycopg
    from adbc_driver_postgresql.dbapi import Connection
    from psycopg import sql

CONNECT_SECONDS = 10
BATCH_BYTES = "1000000"
# The types that may serve a field, and the type they are read as where Arrow has no such type.
TEXT, FLOAT = "text", "double precision"
SERVES: Mapping[FieldType, Mapping[str, str | None]] = {
    "string": {TEXT: None, "character varying": None, "character": TEXT, "name": None, "uuid": TEXT, "enum": TEXT, "citext": TEXT},
    "integer": {"smallint": None, "integer": None, "bigint": None, "numeric": FLOAT},
    "number": {"smallint": None, "integer": None, "bigint": None, "real": None, FLOAT: None, "numeric": FLOAT},
    "boolean": {"boolean": None},
    "timestamp": {"timestamp with time zone": None},
}
COLUMN_TYPES = """
    select a.attname, case t.typtype
        when 'e' then 'enum' when 'd' then format_type(t.typbasetype, null) else format_type(t.oid, null) end
    from pg_attribute as a join pg_type as t on t.oid = a.atttypid
    where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped
"""
# What a server that will be well again says when it refuses a connection.
PASSING = ("starting up", "shutting down", "too many", "connection slots", "recovery mode")
PASSING_CODES = ("08", "40", "53", "55", "57")


@dataclass(frozen=True, kw_only=True)
class TableSnapshot:
    """A table as it was when it was opened, not before `opened_at` by the database's clock; `columns` maps its columns to their types."""

    contract: Contract
    origin: PostgresTable
    conninfo: str
    snapshot: str
    opened_at: datetime
    columns: Mapping[str, str]

    @contextmanager
    def reader(self) -> Iterator["TableReader"]:
        """A reader with a connection of its own, on the snapshot that all readers share."""
        from adbc_driver_postgresql import dbapi

        with source_errors(self.contract.name, connecting=True):
            connection = dbapi.connect(self.conninfo)
        with closing(connection):
            with source_errors(self.contract.name), closing(connection.cursor()) as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                cursor.execute(f"SET TRANSACTION SNAPSHOT '{self.snapshot}'")
            yield TableReader(self, connection)


class TableReader:
    """Reads days of a table, or all of it, one after the other."""

    def __init__(self, table: TableSnapshot, connection: "Connection") -> None:
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
            checked = check_batch(contract, batch, first_position=position, day=None)
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
                yield replace(check_batch(self._table.contract, batch, first_position=position, day=day), fields=fields)
                position += batch.num_rows

    def _batches(self, query: str) -> Iterator[pa.RecordBatch]:
        with source_errors(self._table.contract.name), closing(self._connection.cursor()) as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": BATCH_BYTES})
            cursor.execute(query)
            yield from (batch for batch in cursor.fetch_record_batch() if batch.num_rows)


@contextmanager
def open_table(settings: Settings, contract: Contract, origin: PostgresTable) -> Iterator[TableSnapshot]:
    """A table with a snapshot of it that lasts until the block ends.

    Raises SettingsMissing without a DSN, SourceUnavailable if the database does not answer, SourceRefused if there is no such table,
    SourceChanged naming every field that has no column, or a column of another kind.
    """
    import psycopg

    conninfo = conninfo_of(settings, origin.database)
    with source_errors(contract.name, connecting=True):
        connection = psycopg.connect(conninfo)
    with closing(connection):
        with source_errors(contract.name):
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            columns = _columns(connection, contract, origin)
            # The time at which the transaction began: it precedes the snapshot, which the first statement takes.
            ((snapshot, opened_at),) = connection.execute("select pg_export_snapshot(), now()").fetchall()
        yield TableSnapshot(contract=contract, origin=origin, conninfo=conninfo, snapshot=snapshot, opened_at=opened_at, columns=columns)


def conninfo_of(settings: DatabaseSettings, database: str) -> str:
    """The connection string of a database; raises SettingsMissing without a DSN."""
    from psycopg.conninfo import make_conninfo

    if database not in settings.databases:
        raise SettingsMissing([f"{PREFIX}DATABASES__{database.upper()}"])
    dsn = settings.databases[database]
    own = {"connect_timeout": str(CONNECT_SECONDS), "application_name": "pipeline_assets"}
    said = read_address(f"{PREFIX}DATABASES__{database.upper()}", dsn).parameters
    return make_conninfo(dsn.get_secret_value(), **{name: value for name, value in own.items() if name not in said})


def _columns(connection: "psycopg.Connection", contract: Contract, origin: PostgresTable) -> dict[str, str]:
    columns = _types(connection, origin)
    if not columns:
        raise SourceRefused(contract.name, f"database '{origin.database}' has no table {table_of(origin).as_string(connection)}")
    problems = _misfits(contract, columns)
    if problems:
        raise SourceChanged(contract.name, problems)
    return columns


def misfits(connection: "psycopg.Connection", contract: Contract, origin: PostgresTable) -> dict[str, str]:
    """The fields of a contract that a table has no column for, or one of another type, with what is wrong."""
    return _misfits(contract, _types(connection, origin))


def _types(connection: "psycopg.Connection", origin: PostgresTable) -> dict[str, str]:
    return dict(connection.execute(COLUMN_TYPES, [table_of(origin).as_string(connection)]).fetchall())


def _misfits(contract: Contract, columns: Mapping[str, str]) -> dict[str, str]:
    return {
        field.name: f"({field.type}) has no column" if field.name not in columns else f"is {columns[field.name]}, expected {field.type}"
        for field in contract.fields
        if columns.get(field.name) not in SERVES[field.type]
    }


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

    declared = [field for field in table.contract.fields if fields is None or field.name in fields]
    casts = {field.name: SERVES[field.type][table.columns[field.name]] for field in declared}
    read = [
        sql.Identifier(name) if cast is None else sql.SQL("{0}::{1} as {0}").format(sql.Identifier(name), sql.SQL(cast))
        for name, cast in casts.items()
    ]
    order = dict.fromkeys((*((table.contract.event_at,) if first is None else first), *table.contract.primary_key, *casts))
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
    schema, keys = arrow_schema(contract), pl.DataFrame(pl.from_arrow(batch.select(list(contract.primary_key))))
    whole = [name for name in keys.columns if keys.schema[name].is_float() and pa.types.is_integer(schema.field(name).type)]
    keys = keys.with_columns(pl.when(pl.col(name).floor() == pl.col(name)).then(pl.col(name)) for name in whole)
    empty = pl.DataFrame(pl.from_arrow(pa.schema([schema.field(name) for name in keys.columns]).empty_table()))
    return keys.with_columns(pl.col(name).cast(kind, strict=False) for name, kind in empty.schema.items()).to_arrow()


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
        message, code = " ".join(str(error).split()), getattr(error, "sqlstate", None)
        refused = connecting and "FATAL" in message and not any(sign in message for sign in PASSING)
        passing = code.startswith(PASSING_CODES) if code else not refused
        raise (SourceUnavailable if passing else SourceRefused)(source, f"database error: {message}") from error
