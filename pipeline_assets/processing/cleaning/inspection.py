"""The state of the warehouse's tables: how many rows of some days they hold, and a digest of all that they are and hold."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pipeline_assets.core import connections
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning.raw_schema import LOADED_AT

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

# What a relation is, and its columns.
SHAPE = """
    select
        c.relkind = 'v',
        case when c.relkind = 'v' then pg_get_viewdef(c.oid) end,
        array_agg(a.attname::text order by a.attnum),
        array_agg(format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end order by a.attnum)
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace join pg_attribute as a on a.attrelid = c.oid
    where n.nspname = {} and c.relname = {} and c.relkind in ('r', 'v') and a.attnum > 0 and not a.attisdropped
    group by c.oid, c.relkind
"""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a relation is and holds. rows: None for a view, which holds none. loaded_at: of a raw table, when its newest row was copied."""

    digest: str
    rows: int | None
    loaded_at: datetime | None = None


def read_held(connection: "psycopg.Connection", table: AssetName) -> Held | None:
    """What a table or view is and holds, whatever the order of its rows and when they were copied; reads all of a table.

    None where there is none, or where nothing can be said of its rows, as one of its columns has a type without a hash (`json`).
    """
    from psycopg import errors

    try:
        with connection.transaction():
            return held_of(lambda query: connection.execute(query).fetchone(), table)
    except errors.UndefinedFunction:
        return None


def held_of(ask: "Callable[[sql.Composed], tuple[Any, ...] | None]", table: AssetName) -> Held | None:
    """The same, asked by a connection of any driver; an error where a column has a type without a hash."""
    from psycopg import sql

    shape = ask(sql.SQL(SHAPE).format(*table))
    if shape is None:
        return None
    is_view, definition, columns, types = shape
    made = sha256(repr((definition, list(columns), list(types))).encode())
    if is_view:
        return Held(digest=made.hexdigest(), rows=None)
    hashed = sql.SQL(", ").join(sql.Identifier(column) for column in columns if column != LOADED_AT)
    loaded = sql.SQL("max({})").format(sql.Identifier(LOADED_AT)) if LOADED_AT in columns else sql.SQL("null::timestamptz")
    query = sql.SQL("select count(*), coalesce(sum(hash_record_extended(row({}), 0)::numeric), 0)::text, {} from {}")
    rows, total, loaded_at = ask(query.format(hashed, loaded, sql.Identifier(*table))) or (0, "", None)
    made.update(f"{rows} {total}".encode())
    return Held(digest=made.hexdigest(), rows=rows, loaded_at=loaded_at)


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
