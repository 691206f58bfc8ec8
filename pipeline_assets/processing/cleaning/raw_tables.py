"""The warehouse's `raw` tables: one per contract, a copy of the lake table's rows for dbt, replaced by the day or as a whole.

A raw table has the contract's columns, and `_loaded_at`, the wall-clock time of the copy. It has no primary key: a row that was published
again on another day stands beside its older version, and the staging model takes the one known last; the log of predictions, which no
model stages, has the one known last alone. Rows travel as Arrow by ADBC, batch
by batch: 1.0 s for 138,000 departures with their indexes, where psycopg's binary COPY takes 2.5 s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pipeline_assets.core import connections, names
from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning import unchanged
from pipeline_assets.processing.cleaning.inspection import held_of, read_held
from pipeline_assets.processing.cleaning.raw_schema import follow_contract, qualified
from pipeline_assets.processing.lake.shrinking import COPY, Counts, check_kept, staged_behind
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from pipeline_assets.core.postgres import ArrowCursor

Days = tuple[date, date]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a load did: the rows it wrote, the rows of the same days (or all) that it replaced, and the lake snapshot it read.

    is_unchanged: the table was left as it is, with `rows`, as it holds what was copied from this snapshot.
    """

    table: str
    rows: int
    replaced: int
    snapshot_id: int | None
    is_unchanged: bool = False


def load_raw_days(settings: Settings, contract: Contract, first: date, last: date, *, may_shrink: bool = False) -> Loaded:
    """Replace the raw rows of the days `first` to `last` (UTC, inclusive, by `event_at`) by the lake's.

    One transaction: a reader sees the old rows or the new ones. Loads of one table at the same time wait for each other. Memory is bounded
    by the lake's batches. Raises UnknownName if there is no lake table, SchemaConflict if `raw` cannot follow the contract; RowsLost for a
    day whose rows are staged, and that would have fewer than it has, unless it `may_shrink`.
    """
    return _load(settings, contract, (first, last), may_shrink=may_shrink)


def load_raw_snapshot(settings: Settings, contract: Contract, *, may_shrink: bool = False) -> Loaded:
    """Replace all raw rows by the lake's; as `load_raw_days`, without days. A table that holds what they are already is left as it is."""
    from pipeline_assets.processing.lake import tables

    follow_contract(settings, contract)
    table, snapshot = names.raw(contract.name), tables.snapshot_id(settings, names.lake(contract.name))
    with connections.warehouse(settings) as connection:
        note, held = unchanged.read_notes(connection, [table]).get(table), read_held(connection, table)
    if note is not None and held is not None and (note.held, note.made_from) == (held.digest, _copied(contract, snapshot)):
        return Loaded(table=".".join(table), rows=held.rows or 0, replaced=0, snapshot_id=snapshot, is_unchanged=True)
    unchanged.make_notes(settings)
    return _load(settings, contract, None, may_shrink=may_shrink)


def replace_rows(
    settings: Settings,
    contract: Contract,
    days: Days | None,
    read: "Callable[[], pa.RecordBatchReader]",
    on_replaced: Callable[[Counts], None] = lambda _: None,
    on_written: "Callable[[ArrowCursor], None]" = lambda _: None,
) -> tuple[int, int]:
    """Replace the rows of `days` (None: all) by those of `read`, in one transaction; returns rows written and rows replaced.

    `read` is called when the table is locked for other writers, and returns the contract's columns by name. `on_replaced` is called before
    with the rows that each day had; what it raises leaves all as it was. `on_written` is called before the end of the transaction.
    """
    from psycopg import sql

    table, (where, bounds) = qualified(contract).as_string(), _of_days(contract, days)
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(f"lock table {table} in share row exclusive mode")
        # The identifiers are quoted, the days are parameters.
        day = "null::date" if days is None else f"({sql.Identifier(contract.event_at).as_string()} at time zone 'UTC')::date"
        gone = f"with gone as (delete from {table} where {where} returning {day} as day) select day, count(*) from gone group by day"  # noqa: S608
        cursor.execute(gone, bounds)
        replaced = dict(cursor.fetchall())
        on_replaced(replaced)
        with read() as rows:
            written = cursor.adbc_ingest(contract.name, rows, mode="append", db_schema_name=names.RAW)
        if contract.name == prediction_log.contract.name:
            cursor.execute(_without_older(contract, days, "newer"), bounds)
            cursor.execute(_without_older(contract, days, "older"), bounds)
        cursor.execute(f"analyze {table}")
        on_written(cursor)
        connection.commit()
    return written, sum(replaced.values())


def _load(settings: Settings, contract: Contract, days: Days | None, *, may_shrink: bool) -> Loaded:
    from pipeline_assets.processing.lake import tables

    follow_contract(settings, contract)
    identifier, columns = names.lake(contract.name), [field.name for field in contract.fields]
    snapshots: list[int | None] = []

    def check(before: Counts) -> None:
        snapshots.append(tables.snapshot_id(settings, identifier))
        after = tables.rows_by_day(settings, identifier, days or (None, None), snapshots[-1])
        if not may_shrink:
            check_kept(names.raw(contract.name), before, after, staged_behind(settings, contract.name), COPY)

    def read() -> "pa.RecordBatchReader":
        if days is None:
            return tables.read_all(settings, identifier, columns, snapshots[-1])
        return tables.read_days(settings, identifier, *days, columns, snapshots[-1])

    def note(cursor: "ArrowCursor") -> None:
        if days is None:
            _note(cursor, contract, snapshots[-1])

    rows, replaced = replace_rows(settings, contract, days, read, check, note)
    return Loaded(table=".".join(names.raw(contract.name)), rows=rows, replaced=replaced, snapshot_id=snapshots[-1])


def _copied(contract: Contract, snapshot: int | None) -> str:
    """What a raw table is made from: a snapshot of the lake, and the columns that are read of it."""
    return unchanged.made_from(snapshot, [field.name for field in contract.fields])


def _note(cursor: "ArrowCursor", contract: Contract, snapshot: int | None) -> None:
    """Notes what was just copied and what is there now, in the transaction of the copy."""

    def ask(query: "sql.Composed") -> tuple[Any, ...] | None:
        return cursor.execute(query.as_string()).fetchone()

    held = held_of(ask, names.raw(contract.name))
    if held is not None:
        note = unchanged.Note(made_from=_copied(contract, snapshot), held=held.digest, facts=unchanged.Facts())
        cursor.execute(unchanged.noting(names.raw(contract.name), note).as_string())


def _without_older(contract: Contract, days: Days | None, loaded: Literal["newer", "older"]) -> str:
    """Removes rows of which a newer one with the same key is there; one of both, the `loaded`, lies in `days`."""
    from psycopg import sql

    table, (where, _) = qualified(contract).as_string(), _of_days(contract, days, f"{loaded}.")
    (key,), known = map(sql.Identifier.as_string, map(sql.Identifier, contract.primary_key)), sql.Identifier(contract.known_at).as_string()
    same = f"older.{key} = newer.{key} and older.{known} < newer.{known}"
    # The identifiers are quoted, the days are parameters.
    return f"delete from {table} as older using {table} as newer where {same} and {where}"  # noqa: S608


def _of_days(contract: Contract, days: Days | None, of: str = "") -> tuple[str, tuple[datetime, ...]]:
    """The condition that a row lies in `days`, with its two bounds; `of` stands before the column."""
    if days is None:
        return "true", ()
    from psycopg import sql

    column = of + sql.Identifier(contract.event_at).as_string()
    start, end = (datetime.combine(day, time(), tzinfo=UTC) for day in (days[0], days[1] + timedelta(days=1)))
    return f"{column} >= $1 and {column} < $2", (start, end)
