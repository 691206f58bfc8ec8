"""The declaration of a Postgres table, from its catalog and a sample of its rows.

What the catalog says counts: types, `not null`, lengths, values of enumerations, the primary key and comments. The sample shows the rest.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import class_row, dict_row

from pipeline_assets.core.errors import ProposalRefused
from pipeline_assets.core.settings import DatabaseSettings
from pipeline_assets.core.waits import Place
from pipeline_assets.ingestion.batch.postgres import BATCH_BYTES, columns_in, connect, place_of_source, source_errors, table_of
from pipeline_assets.ingestion.batch.proposals.checks import promised
from pipeline_assets.ingestion.sources.numbers import number_in
from pipeline_assets.ingestion.sources.postgres_types import NUMERIC, OTHERWISE, REFUSED, SERVED
from pipeline_assets.ingestion.sources.postgres_types import Column as PostgresType
from pipeline_assets.ingestion.sources.proposals.code import Noted, text
from pipeline_assets.ingestion.sources.proposals.module import module_text
from pipeline_assets.ingestion.sources.proposals.proposal import Proposal, name_of, proposed
from pipeline_assets.ingestion.sources.proposals.samples import (
    INTEGER,
    SAMPLE_BYTES,
    SAMPLE_SECONDS,
    Column,
    Sample,
    arrow_column,
    decimal_column,
    json_column,
)
from pipeline_assets.spec.sources import Load, PostgresTable

# Longer texts are cut off in a sample, which shows of them how they begin.
LONGEST_TEXT = 1_000
UNSAID = "guess: numeric without digits, of the type that its values show"
TABLE, PARTITIONED, VIEW, MATERIALIZED_VIEW = "r", "p", "v", "m"
RELATION = """
    select c.relkind::text as kind, c.reltuples::bigint as rows, coalesce(obj_description(c.oid, 'pg_class'), '') as description,
        array(
            select a.attname::text from pg_index as i, unnest(i.indkey::int2[]) with ordinality as k(number, place)
            join pg_attribute as a on a.attnum = k.number
            where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid and k.place <= i.indnkeyatts order by k.place
        ) as key
    from pg_class as c where c.oid = to_regclass(%s) and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""
# What the catalog promises of a column, by itself and by all domains that its type is made of.
PROMISES = """
    with recursive made_of (number, type) as (
        select attnum, atttypid from pg_attribute where attrelid = to_regclass(%(table)s) and attnum > 0 and not attisdropped
        union all
        select m.number, t.typbasetype from made_of as m join pg_type as t on t.oid = m.type where t.typtype = 'd'
    ), types (number, own) as (select number, array_agg(type) from made_of group by number)
    select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as shown,
        a.attnotnull or exists (select from pg_type as d where d.oid = any(t.own) and d.typnotnull) as is_required,
        coalesce(col_description(a.attrelid, a.attnum), '') as description,
        array(select e.enumlabel::text from pg_enum as e where e.enumtypid = any(t.own) order by e.enumsortorder) as labels,
        array(
            select pg_get_constraintdef(c.oid) from pg_constraint as c where c.contype = 'c'
                and (c.conrelid = a.attrelid and c.conkey = array[a.attnum] or c.contypid = any(t.own)) order by c.conname
        ) as checks
    from pg_attribute as a join types as t on t.number = a.attnum
    where a.attrelid = to_regclass(%(table)s) order by a.attnum
"""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table, or what is read like one: its kind, its rows as far as the server knows (-1: it does not), and its primary key."""

    kind: str
    rows: int
    description: str
    key: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class CatalogColumn:
    """What the catalog says of a column; `shown` is its type as it was declared."""

    name: str
    type: PostgresType
    shown: str
    is_required: bool
    description: str
    labels: Sequence[str]
    checks: Sequence[str]


def propose_table(settings: DatabaseSettings, origin: PostgresTable, name: str | None, rows: int) -> tuple[Proposal, str]:
    """The proposal of a table, and its module; at most so many rows are read.

    Raises SettingsMissing without a DSN, ProposalRefused if there is no such table, and what `source_errors` make of errors.
    """
    wanted = name or name_of(origin.table)
    with closing(connect(settings, wanted, origin.database)) as connection, source_errors(wanted):
        relation, columns = _catalog(connection, wanted, origin)
    fields = [_column(column, has_promises=relation.kind not in {VIEW, MATERIALIZED_VIEW}) for column in columns]
    served = [(column, catalog) for column, catalog in zip(fields, columns, strict=True) if column.type is not None]
    values = _rows(wanted, place_of_source(settings, origin.database), origin, relation, served, rows) if served else pa.table({})
    filled = {
        column.name: _filled(column, catalog, values.column(number).combine_chunks()) for number, (column, catalog) in enumerate(served)
    }
    sample = Sample(
        columns=[filled.get(column.name, column) for column in fields],
        rows=values.num_rows,
        looked_at=_looked_at(origin, relation, values.num_rows),
        key=tuple(relation.key),
        description=relation.description,
    )
    return _declared(wanted, origin, relation, sample)


def field_type(column: CatalogColumn) -> Column:
    """The column of a sample that one of a table can be, without its values; `numeric` without digits is decided by these."""
    if column.type.digits is not None:
        return decimal_column(column.name, *column.type.digits)
    kind = column.type.type
    served = SERVED.get(kind, (None,))
    reason = "" if kind in SERVED else f"{text(column.shown)} {REFUSED.get(kind, OTHERWISE)}"
    return Column(name=column.name, type=served[0], reason=reason)


def _column(column: CatalogColumn, *, has_promises: bool) -> Column:
    """A column without values; of a view the catalog never says that there is always one."""
    found = field_type(column)
    promise = promised(found.type, column.checks)
    checks = tuple(f"checked by the table: {text(check)}" for check in promise.others)
    return replace(
        found,
        required=column.is_required if has_promises else None,
        minimum=promise.minimum,
        maximum=promise.maximum,
        allowed=promise.allowed or (tuple(column.labels) if found.type == "string" else ()),
        max_length=column.type.length if found.type == "string" else None,
        description=column.description,
        remarks=(*found.remarks, *checks),
    )


def _filled(column: Column, catalog: CatalogColumn, values: pa.Array) -> Column:
    """The column with its values; one of numbers with any digits is what these show."""
    if catalog.type.type != NUMERIC or catalog.type.digits is not None:
        return arrow_column(column, values)
    texts = values.to_pylist()
    numbers = [int(text) if text is not None and INTEGER.fullmatch(text) else number_in(text or "") for text in texts]
    shown = json_column(column.name, numbers)
    if shown.type is None:
        return arrow_column(replace(column, type="number", remarks=(UNSAID, *column.remarks)), values)
    kept = replace(column, type=shown.type, precision=shown.precision, scale=shown.scale, remarks=(UNSAID, *shown.remarks, *column.remarks))
    return arrow_column(kept, values)


def _catalog(connection: psycopg.Connection, name: str, origin: PostgresTable) -> tuple[Relation, list[CatalogColumn]]:
    table = table_of(origin).as_string(connection)
    found = connection.cursor(row_factory=class_row(Relation)).execute(RELATION, [table]).fetchone()
    if found is None:
        raise ProposalRefused(name, f"database '{origin.database}' has no table {table}, or its role may not use its schema")
    types, promises = columns_in(connection, origin), connection.cursor(row_factory=dict_row).execute(PROMISES, {"table": table}).fetchall()
    return found, [CatalogColumn(**promise, type=types[promise["name"]]) for promise in promises]


def _rows(
    name: str, place: Place, origin: PostgresTable, relation: Relation, columns: Sequence[tuple[Column, CatalogColumn]], rows: int
) -> pa.Table:
    """Some rows of a table, as batches read them; of a large one from blocks all over it, if they have any."""
    is_large = relation.rows > 2 * rows and relation.kind in {TABLE, PARTITIONED}
    shares = [100 * rows / relation.rows, None] if is_large else [None]
    for share in shares:
        found = _read_rows(name, place, _select(origin, share, columns, rows))
        if found.num_rows:
            break
    return found


def _read_rows(name: str, place: Place, query: str) -> pa.Table:
    from pipeline_assets.core.postgres import open_arrow_session

    batches, size = list[pa.RecordBatch](), 0
    with source_errors(name, connecting=True):
        connection = open_arrow_session(place)
    with closing(connection), source_errors(name), closing(connection.cursor()) as cursor:
        cursor.execute(f"set statement_timeout = {int(SAMPLE_SECONDS * 1000)}")
        cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": BATCH_BYTES})
        cursor.execute(query)
        reader = cursor.fetch_record_batch()
        for batch in reader:
            batches.append(batch)
            size += batch.nbytes
            if size >= SAMPLE_BYTES:
                break
        return pa.Table.from_batches(batches, reader.schema)


def _select(origin: PostgresTable, share: float | None, columns: Sequence[tuple[Column, CatalogColumn]], rows: int) -> str:
    sampled = sql.SQL("") if share is None else sql.SQL(" tablesample system ({})").format(sql.Literal(round(share, 6)))
    read = sql.SQL(", ").join(_read(column, catalog, number) for number, (column, catalog) in enumerate(columns))
    return sql.SQL("select {} from {}{} limit {}").format(read, table_of(origin), sampled, sql.Literal(rows)).as_string()


def _read(column: Column, catalog: CatalogColumn, number: int) -> sql.Composable:
    named, place = sql.Identifier(column.name), sql.Identifier(f"c{number}")
    if column.type == "string":
        return sql.SQL("left({}::text, {}) as {}").format(named, sql.Literal(LONGEST_TEXT), place)
    return sql.SQL("{}::text as {}" if catalog.type.type == NUMERIC else "{} as {}").format(named, place)


def _looked_at(origin: PostgresTable, relation: Relation, rows: int) -> str:
    known = f" of about {relation.rows:,}" if relation.rows > rows else ""
    return f"{rows:,} rows{known} of {text(f'{origin.schema}.{origin.table}')} in database {text(origin.database)}, and its catalog"


def _declared(name: str, origin: PostgresTable, relation: Relation, sample: Sample) -> tuple[Proposal, str]:
    """The proposal and its module; a table with a key and without a time may be known by the commits of its changes."""
    proposal = proposed(name, sample)
    is_followed = relation.kind in {TABLE, PARTITIONED} and proposal.is_keyed
    if proposal.times is None and is_followed:
        proposal = proposed(name, _with_commit(sample), known_at=_commit_name(sample))
        known: list[tuple[str, Any]] = [("known_at_commit", True)]
        return proposal, module_text(proposal, "Source", [("origin", origin), ("load", _followed("no time stands in the table")), *known])
    return proposal, module_text(proposal, "Source", [("origin", origin), ("load", _load(proposal, is_followed=is_followed))])


def _load(proposal: Proposal, *, is_followed: bool) -> Noted:
    times = proposal.times
    if times is None:
        return _guess("snapshot", "without a time there are no days")
    if times.is_changed and is_followed:
        return _followed(f"rows seem to be changed ({times.known_at})")
    if times.is_changed:
        return _guess("snapshot", f"rows seem to be changed ({times.known_at}), and without a primary key changes are not followed")
    return _guess("daily", f"rows seem to be added and not changed; have an index on {times.event_at}")


def _followed(why: str) -> Noted:
    return _guess("changes", f"{why}; `pipeline sources preflight` says whether they can be followed")


def _guess(load: Load, why: str) -> Noted:
    return Noted(value=load, comments=[f"guess: {why}"])


def _commit_name(sample: Sample) -> str:
    taken = {column.name for column in sample.columns}
    return next(name for name in ("committed_at", "known_at", *(f"known_at_{n}" for n in range(len(taken)))) if name not in taken)


def _with_commit(sample: Sample) -> Sample:
    """The sample with a column for the time of the commit, which stands in no table."""
    now = datetime.now(UTC)
    column = Column(
        name=_commit_name(sample),
        type="timestamp",
        values=[now] * sample.rows,
        required=True,
        is_added=True,
        description="When the change was committed, and so could be known.",
    )
    return replace(sample, columns=[*sample.columns, column])
