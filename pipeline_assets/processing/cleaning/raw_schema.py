"""The shape of the warehouse's `raw` tables: columns, nullability and indexes of a contract, which they follow as it grows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline_assets.core import connections, names
from pipeline_assets.core.errors import SchemaConflict
from pipeline_assets.core.settings import Settings
from pipeline_assets.spec.contracts import Contract, Field, FieldType

if TYPE_CHECKING:
    from psycopg import sql

LOADED_AT = "_loaded_at"
SQL_TYPES: dict[FieldType, str] = {
    "string": "text",
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
    "timestamp": "timestamp with time zone",
}
FOUND = """
    select a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %s and c.relname = %s and a.attnum > 0 and not a.attisdropped
"""

# Type and nullability of the columns of a table, by name.
Columns = dict[str, tuple[str, bool]]


def follow_contract(settings: Settings, contract: Contract) -> None:
    """Create the raw table of `contract`, or alter it: new optional columns are added, and what is no longer required may be null.

    A column that the contract no longer has stays, and may be null. Raises SchemaConflict, and changes nothing, where a type changed, a
    column became required, or a new one is.
    """
    with connections.warehouse(settings) as connection:
        # One connection at a time makes or changes tables of this schema.
        connection.execute("select pg_advisory_xact_lock(hashtext(%s))", [names.RAW])
        found = {name: (kind, nullable) for name, kind, nullable in connection.execute(FOUND, names.raw(contract.name))}
        for statement in _create(contract) if not found else _extend(contract, found):
            connection.execute(statement)


def sql_type(field: Field) -> str:
    """The type of the column of a field, as Postgres writes it."""
    return f"numeric({field.precision},{field.scale})" if field.type == "decimal" else SQL_TYPES[field.type]


def qualified(contract: Contract) -> "sql.Identifier":
    """The raw table of a contract, quoted."""
    from psycopg import sql

    return sql.Identifier(*names.raw(contract.name))


def _create(contract: Contract) -> "Iterator[sql.Composed]":
    from psycopg import sql

    table, columns = qualified(contract), [_definition(field) for field in contract.fields]
    columns.append(sql.SQL("{} timestamptz not null default now()").format(sql.Identifier(LOADED_AT)))
    yield sql.SQL("create schema if not exists {}").format(sql.Identifier(names.RAW))
    yield sql.SQL("create table {} ({})").format(table, sql.SQL(", ").join(columns))
    yield sql.SQL("create index on {} ({})").format(table, sql.Identifier(contract.event_at))
    # In the order in which the staging model goes through the versions of a row.
    key = sql.SQL(", ").join(map(sql.Identifier, contract.primary_key))
    yield sql.SQL("create index on {} ({}, {})").format(table, key, sql.Identifier(contract.known_at))


def _extend(contract: Contract, found: Columns) -> "Iterator[sql.Composed]":
    from psycopg import sql

    conflicts = dict(_conflicts(contract, found))
    if conflicts:
        raise SchemaConflict(".".join(names.raw(contract.name)), conflicts)
    required = {field.name for field in contract.fields if field.required} | {LOADED_AT}
    for field in contract.fields:
        if field.name not in found:
            yield sql.SQL("alter table {} add column {}").format(qualified(contract), _definition(field))
    for name, (_, nullable) in found.items():
        if not nullable and name not in required:
            yield sql.SQL("alter table {} alter column {} drop not null").format(qualified(contract), sql.Identifier(name))


def _conflicts(contract: Contract, found: Columns) -> Iterator[tuple[str, str]]:
    for field in contract.fields:
        wanted = sql_type(field)
        kind, nullable = found.get(field.name, (wanted, True))
        if kind != wanted:
            yield field.name, f"is {kind} and would have to be {wanted}"
        elif field.required and nullable:
            yield field.name, "would have to be required, which the rows that are there need not fulfil"


def _definition(field: Field) -> "sql.Composed":
    from psycopg import sql

    return sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(sql_type(field) + (" not null" if field.required else "")))
