"""Rows that broke their contract, kept in the warehouse with reason, position and original bytes until they are replayed.

The quarantine of a partition is replaced as a whole, in one transaction, whenever the partition is read from its source again: rows that
were fixed there are gone from it, rows that are still broken are there once. A writer that changes a partition, its files or its
quarantine, holds its lock meanwhile, so that a replay and a new reading of one partition wait for each other.
"""

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import UnknownQuarantinedRow
from pipeline_assets.core.own_rows import reading
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.contracts import BrokenRow, fault

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

TABLE = "rows"
# The column that an older table lacks.
NEWEST = "columns"
DDL = """
    create schema if not exists {schema};
    create table if not exists {table} (
        id bigint generated always as identity primary key,
        source text not null,
        partition text not null,
        position bigint not null,
        field text not null,
        reason text not null,
        original bytea not null,
        run_id text not null,
        quarantined_at timestamptz not null default now(),
        replayed_at timestamptz
    );
    alter table {table}
        add column if not exists topic text,
        add column if not exists topic_partition integer,
        add column if not exists topic_offset bigint,
        add column if not exists received_at timestamptz,
        add column if not exists headers jsonb,
        add column if not exists place text,
        add column if not exists columns text[];
    create index if not exists rows_by_partition on {table} (source, partition);
    create unique index if not exists rows_by_offset on {table} (source, topic, topic_partition, topic_offset) where topic is not null;
"""


@dataclass(frozen=True, kw_only=True)
class QuarantinedRow:
    """A row of the quarantine; `replayed_at` is set once it was staged after all. `position` counts from 0 within the partition.

    A record of a topic has its place there too; its partition is `stream`, its position the offset. All other rows have no such place.
    `place` is where a person finds a row of a file: its path and line; `columns` are those that its file named in the first line.
    `headers` are those that the record is read by, in base64 by their names; None where there are none.
    """

    id: int
    source: str
    partition: str
    position: int
    field: str
    reason: str
    original: bytes
    run_id: str
    quarantined_at: datetime
    replayed_at: datetime | None
    topic: str | None = None
    topic_partition: int | None = None
    topic_offset: int | None = None
    received_at: datetime | None = None
    headers: Mapping[str, str] | None = None
    place: str | None = None
    columns: list[str] | None = None

    def header(self, name: str) -> bytes | None:
        """The bytes of a header; None where there is no such."""
        value = (self.headers or {}).get(name)
        return None if value is None else b64decode(value)

    @property
    def headers_in_bytes(self) -> dict[str, bytes | None]:
        """The bytes of all headers by their names."""
        return {name: self.header(name) for name in self.headers or {}}


@dataclass(frozen=True, kw_only=True)
class BrokenRecord:
    """A record of a topic that broke its contract, with its place and the headers that it is read by; `broken.position` says nothing."""

    partition: int
    offset: int
    received_at: datetime | None
    broken: BrokenRow
    headers: Mapping[str, bytes] = field(default_factory=dict)


class Quarantine:
    """The quarantine of one partition while it is replaced."""

    def __init__(self, connection: "psycopg.Connection", source: str, partition: str, run_id: str) -> None:
        self._connection = connection
        self._fixed = (source, partition, run_id)
        self.reasons: Counter[str] = Counter()

    @property
    def rows(self) -> int:
        """How many rows have been added."""
        return self.reasons.total()

    def add(self, rows: Sequence[BrokenRow]) -> None:
        """Adds rows; they are seen by others once the replacement is complete."""
        if not rows:
            return
        self.reasons.update(row.fault for row in rows)
        columns = "source, partition, run_id, position, field, reason, original, place, columns"
        statement = _statement(f"copy {{table}} ({columns}) from stdin (format binary)")
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(["text", "text", "text", "int8", "text", "text", "bytea", "text", "text[]"])
            for row in rows:
                columns_of_file = None if row.columns is None else list(row.columns)
                copy.write_row((*self._fixed, row.position, row.field, row.reason, row.original, row.place, columns_of_file))


def create(settings: Settings) -> None:
    """Makes the quarantine's table where there is none."""
    with warehouse(settings) as connection:
        # Even where all is there, asking for it would wait for every transaction that writes to the table.
        asked = [f"{names.QUARANTINE}.{TABLE}", NEWEST]
        if connection.execute("select 1 from pg_attribute where attrelid = to_regclass(%s) and attname = %s", asked).fetchone() is None:
            connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [names.QUARANTINE])
            connection.execute(_statement(DDL))


@contextmanager
def locked(connection: "psycopg.Connection", source: str, partition: str) -> Iterator[None]:
    """Holds the lock of a partition for the block, once nobody else holds it; a connection that ends lets go of it."""
    lock = [f"{names.QUARANTINE}/{source}/{partition}"]
    with connection.transaction():
        connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", lock)
    try:
        yield
    finally:
        with connection.transaction():
            connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", lock)


@contextmanager
def replacing(
    connection: "psycopg.Connection", source: str, partition: str, run_id: str, *, positions: Sequence[int] | None = None
) -> Iterator[Quarantine]:
    """An empty quarantine for a partition, in place of what there was once the block ends; an error leaves everything as it was.

    positions: those whose rows it takes the place of; None: all.
    """
    statement = "delete from {table} where source = %s and partition = %s and (%s::bigint[] is null or position = any(%s))"
    with connection.transaction():
        connection.execute(_statement(statement), [source, partition, positions, positions])
        yield Quarantine(connection, source, partition, run_id)


def remove(connection: "psycopg.Connection", source: str, partition: str, positions: Sequence[int]) -> None:
    """Takes the rows at some positions out of the quarantine of a partition."""
    statement = _statement("delete from {table} where source = %s and partition = %s and position = any(%s)")
    connection.execute(statement, [source, partition, list(positions)])


def remove_rows(connection: "psycopg.Connection", ids: Sequence[int]) -> None:
    """Takes rows out of the quarantine by their ids."""
    connection.execute(_statement("delete from {table} where id = any(%s)"), [list(ids)])


def remove_repeated(connection: "psycopg.Connection", source: str, partition: str, since: int) -> None:
    """Takes rows out that are there again at a position from `since` on: with the same place, the same bytes and the same fault."""
    statement = _statement("""
        delete from {table} as older using {table} as newer
        where older.source = %s and older.partition = %s and newer.source = older.source and newer.partition = older.partition
            and older.position < %s and newer.position >= %s
            and (coalesce(newer.place, ''), newer.field, newer.reason, newer.original)
                = (coalesce(older.place, ''), older.field, older.reason, older.original)
    """)
    connection.execute(statement, [source, partition, since, since])


def faults(connection: "psycopg.Connection", source: str, partition: str) -> dict[str, int]:
    """How many rows of a partition are in quarantine, replayed ones included, by what is wrong with them."""
    statement = _statement("select field, reason, count(*) from {table} where source = %s and partition = %s group by 1, 2")
    found = connection.execute(statement, [source, partition]).fetchall()
    return {fault(field, reason): count for field, reason, count in found}


def next_position(connection: "psycopg.Connection", source: str, partition: str) -> int:
    """A position after those of all rows of a partition that are in quarantine."""
    statement = _statement("select coalesce(max(position) + 1, 0) from {table} where source = %s and partition = %s")
    ((position,),) = connection.execute(statement, [source, partition]).fetchall()
    return int(position)


def replace(settings: Settings, source: str, partition: str, rows: Sequence[BrokenRow], *, run_id: str) -> None:
    """Puts rows in the place of whatever stood in the quarantine of a partition."""
    create(settings)
    with (
        warehouse(settings) as connection,
        locked(connection, source, partition),
        replacing(connection, source, partition, run_id) as quarantine,
    ):
        quarantine.add(rows)


def keep(connection: "psycopg.Connection", source: str, partition: str, run_id: str, rows: Sequence[BrokenRow]) -> None:
    """Adds rows to the quarantine of a partition, beside what is there; one that is there already is not added again."""
    statement = _statement("""
        insert into {table} (source, partition, run_id, position, field, reason, original)
        select new.* from (select %s::text as source, %s::text as partition, %s, %s, %s, %s::text as reason, %s::bytea as original) as new
        where not exists (
            select from {table} as old
            where (old.source, old.partition, old.reason, old.original) = (new.source, new.partition, new.reason, new.original)
        )
    """)
    for row in rows:
        connection.execute(statement, [source, partition, run_id, row.position, row.field, row.reason, row.original])


def replace_records(
    connection: "psycopg.Connection",
    source: str,
    topic: str,
    covered: Sequence[tuple[int, int, int]],
    rows: Sequence[BrokenRecord],
    run_id: str,
) -> None:
    """Puts rows in the place of whatever stood in the quarantine of some offsets, each given as partition, first, and last + 1."""
    from psycopg.types.json import Jsonb

    spans = [list(part) for part in zip(*covered, strict=True)] or [[], [], []]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            _statement("""
                delete from {table} as row
                using unnest(%s::integer[], %s::bigint[], %s::bigint[]) as span (number, first, upto)
                where row.source = %s and row.topic = %s and row.topic_partition = number
                    and row.topic_offset >= first and row.topic_offset < upto
            """),
            [*spans, source, topic],
        )
        copied = "source, partition, run_id, topic, position, topic_partition, topic_offset, received_at, headers, field, reason, original"
        with cursor.copy(_statement(f"copy {{table}} ({copied}) from stdin (format binary)")) as copy:
            copy.set_types(["text", "text", "text", "text", "int8", "int4", "int8", "timestamptz", "jsonb", "text", "text", "bytea"])
            for row in rows:
                headers = Jsonb({name: b64encode(value).decode() for name, value in row.headers.items()}) if row.headers else None
                place = (row.offset, row.partition, row.offset, row.received_at, headers)
                copy.write_row((source, names.STREAM, run_id, topic, *place, row.broken.field, row.broken.reason, row.broken.original))


def waiting(connection: "psycopg.Connection", source: str, partition: str) -> list[QuarantinedRow]:
    """The rows of a partition that have not been replayed, in the order of their positions."""
    return _select(
        connection, "where source = %s and partition = %s and replayed_at is null order by position, id", [source, partition], limit=None
    )


def all_rows(connection: "psycopg.Connection", source: str, partition: str) -> list[QuarantinedRow]:
    """The rows of a partition, replayed ones included, in the order of their positions."""
    return _select(connection, "where source = %s and partition = %s order by position, id", [source, partition], limit=None)


def waiting_records(connection: "psycopg.Connection", source: str, topic: str, *, after: int, limit: int) -> list[QuarantinedRow]:
    """Records of a topic that have not been replayed, at most so many, in the order of their ids and beginning after one."""
    condition = "where source = %s and topic = %s and replayed_at is null and id > %s order by id"
    return _select(connection, condition, [source, topic, after], limit=limit)


def waiting_offsets(connection: "psycopg.Connection", source: str, topic: str) -> dict[int, list[int]]:
    """The offsets of a topic's records that have not been replayed, by partition."""
    statement = _statement("""
        select topic_partition, array_agg(topic_offset) from {table} where source = %s and topic = %s and replayed_at is null group by 1
    """)
    return dict(connection.execute(statement, [source, topic]).fetchall())


def waiting_partitions(connection: "psycopg.Connection", source: str) -> list[str]:
    """The partitions of a source with rows that have not been replayed, sorted."""
    statement = _statement("select distinct partition from {table} where replayed_at is null and source = %s order by 1")
    return [row[0] for row in connection.execute(statement, [source]).fetchall()]


def listed(
    settings: Settings, *, source: str | None = None, partition: str | None = None, limit: int | None = None
) -> list[QuarantinedRow]:
    """Quarantined rows by source, partition and position, replayed ones included; at most `limit`."""
    create(settings)
    condition = "where (%s::text is null or source = %s) and (%s::text is null or partition = %s) order by source, partition, position, id"
    with warehouse(settings) as connection:
        return _select(connection, condition, [source, source, partition, partition], limit=limit)


def counted(settings: Settings, *, source: str | None = None, partition: str | None = None) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Rows, and how many of them were replayed, by source, field and reason."""
    create(settings)
    statement = _statement(
        "select source, field, reason, count(*), count(replayed_at) from {table} "
        "where (%s::text is null or source = %s) and (%s::text is null or partition = %s) group by 1, 2, 3 order by 1, 2, 3"
    )
    with warehouse(settings) as connection:
        found = connection.execute(statement, [source, source, partition, partition]).fetchall()
    return {(row[0], row[1], row[2]): (row[3], row[4]) for row in found}


def shown(settings: Settings, row_id: int) -> QuarantinedRow:
    """One row by its id; raises UnknownQuarantinedRow."""
    create(settings)
    with warehouse(settings) as connection:
        found = _select(connection, "where id = %s", [row_id], limit=1)
    if not found:
        raise UnknownQuarantinedRow(row_id)
    return found[0]


def mark_replayed(connection: "psycopg.Connection", ids: Sequence[int]) -> None:
    """Marks rows as replayed, as of the transaction's time."""
    connection.execute(_statement("update {table} set replayed_at = now() where id = any(%s)"), [list(ids)])


def mark_still_broken(connection: "psycopg.Connection", row_id: int, broken: BrokenRow) -> None:
    """Writes down what is wrong with a row under the present contract."""
    connection.execute(_statement("update {table} set field = %s, reason = %s where id = %s"), [broken.field, broken.reason, row_id])


def _select(connection: "psycopg.Connection", condition: str, values: Sequence[Any], *, limit: int | None) -> list[QuarantinedRow]:
    from psycopg.rows import class_row
    from psycopg.sql import SQL

    columns = _statement("""
        select
            id, source, partition, position, field, reason, original, run_id, quarantined_at, replayed_at,
            topic, topic_partition, topic_offset, received_at, headers, place, columns
        from {table}
    """)
    statement = SQL(" ").join([columns, _statement(condition), SQL("limit %s")])
    with connection.cursor(row_factory=class_row(QuarantinedRow)) as cursor, reading(f"{names.QUARANTINE}.{TABLE}"):
        found = cursor.execute(statement, [*values, limit]).fetchall()
        for row in found:
            # Who uses them is far from here, where nobody knows that they are of a row.
            _ = row.headers_in_bytes
        return found


def _statement(text: str) -> "sql.Composed":
    from psycopg import sql

    return sql.SQL(cast("Any", text)).format(schema=sql.Identifier(names.QUARANTINE), table=sql.Identifier(names.QUARANTINE, TABLE))
