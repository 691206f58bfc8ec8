"""Cleaned tables in the lake, where features read them at a snapshot: the days that dbt changed, or the table as a whole.

dbt notes the days that it changes in the transaction that changes them (`macros/changed_days.sql`). They are taken out of that outbox in a
transaction that ends once the lake has them, so a build that is killed in between is made up for by the next one. The rows of a day are
sorted by their key, so that equal rows give equal files and days that come out as they were are left alone.

Each commit says since when the table keeps all versions of its rows (`macros/keeps_versions.sql`), so that whoever reads it knows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline_assets.core import connections, names
from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.project import days_between
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning import retention
from pipeline_assets.processing.cleaning.models import Built
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.intact import damaged_days_of, is_damaged
from pipeline_assets.processing.lake.shrinking import DERIVED, check_kept, lake_behind

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa
    from psycopg.sql import Composable

    from pipeline_assets.processing.lake.tables import Published

# How dbt notes a table that was made anew, or that has a row without a time.
EVERY_DAY = date.min
# Rows that are in memory at once, unless one day has more.
ROWS_AT_ONCE = 2_000_000
ONE_DAY = timedelta(days=1)
# As what Postgres gives a column of each kind to the lake; columns of other kinds stay in the warehouse.
TYPES: Mapping[ColumnKind, str] = {
    "string": "text", "integer": "bigint", "number": "float8", "boolean": "boolean", "timestamp": "timestamptz", "date": "date",
}  # fmt: skip


def publish(
    settings: Settings, built: Built, asked: tuple[date, date] | None = None, *, may_shrink: bool = False, at: int | None = None
) -> "list[Published]":
    """Put what changed of a cleaned table into the lake's `cleaned.<name>`; what each commit left, none where nothing had changed.

    asked: the first and the last day (UTC) whose files in the lake are looked at as well; a day whose files are damaged, or that has other
    rows than the warehouse, is written anew. A table that is not built by the day is always looked at.
    at: the snapshot at which the lake had what the warehouse still has; while that is its newest, the rows are not compared.
    One publication of a table at a time. Days that hold the same rows are left alone, so the same call again changes nothing. Raises
    TableMismatch if a table that is built by the day has rows without a time, SchemaConflict if a column has another type than in the
    lake; RowsLost for a day that loses most of its rows while those that it is made from are in the lake, unless it `may_shrink`.
    """
    with connections.warehouse(settings) as warehouse:
        warehouse.execute("select pg_advisory_xact_lock(hashtext(%s))", [".".join(names.cleaned(built.name))])
        changed = _taken(warehouse, built)
        snapshot = tables.snapshot_id(settings, names.cleaned(built.name))
        is_new = snapshot is None
        is_whole = EVERY_DAY in changed or is_new or (snapshot != at if at is not None else not built.is_noted)
        if built.event_at is None:
            is_due = is_whole or changed or is_damaged(settings, names.cleaned(built.name))
            return [_publish_whole(settings, built)] if is_due else []
        days = _every_day(settings, warehouse, built, built.event_at) if is_whole else changed
        if asked is not None and not is_whole:
            days |= {*damaged_days_of(settings, names.cleaned(built.name), *asked), *_lacking(settings, warehouse, built, asked)}
        counted = [(run, _counts(warehouse, built, built.event_at, run)) for run in _runs(days)]
        if not may_shrink:
            _check_kept(settings, built, counted)
        spans = [span for run, counts in counted for span in _spans(counts, run)]
        if is_new and not spans:
            # A table that never had a row is put there by a day without rows: features of it are empty, and not an error.
            spans = [(EVERY_DAY, EVERY_DAY)]
        return [_publish_days(settings, built, built.event_at, span, is_last=span == spans[-1]) for span in spans]


def _lacking(settings: Settings, warehouse: "psycopg.Connection", built: Built, days: tuple[date, date]) -> set[date]:
    """The days that have another number of rows in the lake than in the warehouse, as after one of both was restored."""
    ours = {} if built.event_at is None else _counts(warehouse, built, built.event_at, days)
    theirs = tables.rows_by_day(settings, names.cleaned(built.name), days)
    return {day for day in ours.keys() | theirs.keys() if day is not None and ours.get(day, 0) != theirs.get(day, 0)}


def _check_kept(settings: Settings, built: Built, counted: Sequence[tuple[tuple[date, date], Mapping[date | None, int]]]) -> None:
    """Raises RowsLost for a day of these runs that loses most of the rows that the lake has of it."""
    days = {day for run, _ in counted for day in days_between(*run)}
    if not days:
        return
    there = tables.rows_by_day(settings, names.cleaned(built.name), (min(days), max(days)))
    before: dict[date | None, int] = {day: rows for day, rows in there.items() if day in days}
    after = {day: rows for _, counts in counted for day, rows in counts.items()}
    check_kept(names.cleaned(built.name), before, after, lake_behind(settings, built.made_from), DERIVED)


def _taken(warehouse: "psycopg.Connection", built: Built) -> set[date]:
    """The noted days of the table, taken out of the outbox by the transaction; every day where there is no outbox."""
    if warehouse.execute("select to_regclass(%s)", [".".join(names.CHANGED_DAYS)]).fetchone() == (None,):
        return {EVERY_DAY}
    from psycopg.sql import SQL, Identifier

    taken = SQL("delete from {} where table_name = %s returning day").format(Identifier(*names.CHANGED_DAYS))
    return {day for (day,) in warehouse.execute(taken, [built.name]).fetchall()}


def _every_day(settings: Settings, warehouse: "psycopg.Connection", built: Built, event_at: str) -> set[date]:
    """Every day from the first to the last that the warehouse or the lake has rows of."""
    from psycopg.sql import SQL, Identifier

    query = SQL("select min({0}), max({0}), count(*) filter (where {0} is null) from {1}")
    table = names.cleaned(built.name)
    first, last, undated = warehouse.execute(query.format(Identifier(event_at), Identifier(*table))).fetchone() or (None, None, 0)
    if undated:
        raise TableMismatch(".".join(table), f"has {undated} rows without '{event_at}', by whose day it is kept", list(built.columns))
    known = [*([] if first is None else [first.date(), last.date()]), *tables.days(settings, table)]
    return set(days_between(min(known), max(known))) if known else set()


def _runs(days: Collection[date]) -> Iterator[tuple[date, date]]:
    """The days in runs without a gap, in order: the first and the last of each."""
    ordered = sorted(days)
    begins = [day for before, day in pairwise([date.min, *ordered]) if day - before != ONE_DAY]
    ends = [before for before, day in pairwise([*ordered, date.max]) if day - before != ONE_DAY]
    yield from zip(begins, ends, strict=True)


def _counts(warehouse: "psycopg.Connection", built: Built, event_at: str, run: tuple[date, date]) -> dict[date | None, int]:
    """The rows of each day of a run that has any."""
    from psycopg.sql import SQL, Identifier

    query = SQL("select ({} at time zone 'UTC')::date, count(*) from {} where {} group by 1")
    counted = query.format(Identifier(event_at), Identifier(*names.cleaned(built.name)), _of_days(event_at, run))
    return dict(warehouse.execute(counted).fetchall())


def _spans(counts: Mapping[date | None, int], run: tuple[date, date]) -> Iterator[tuple[date, date]]:
    """A run in parts of at most ROWS_AT_ONCE rows, at least one day each."""
    begun, rows = run[0], 0
    for day in days_between(*run):
        if day > begun and rows + counts.get(day, 0) > ROWS_AT_ONCE:
            yield begun, day - ONE_DAY
            begun, rows = day, 0
        rows += counts.get(day, 0)
    yield begun, run[1]


def _publish_days(settings: Settings, built: Built, event_at: str, span: tuple[date, date], *, is_last: bool) -> "Published":
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        # Values stand in the text of the query: with bound ones the driver could not copy binary rows.
        cursor.execute(_query(built, _of_days(event_at, span)).as_string())
        rows: pa.Table = cursor.fetch_arrow_table()
    versions = _versions_since(settings, built, is_last=is_last)
    return tables.replace_days(settings, names.cleaned(built.name), rows.cast(_schema(built)), event_at, *span, properties=versions)


def _publish_whole(settings: Settings, built: Built) -> "Published":
    from psycopg.sql import SQL, Identifier

    # By all columns, so that the same rows come in the same order.
    ordered = SQL("{} order by {}").format(_query(built, SQL("true")), SQL(", ").join(map(Identifier, _selected(built))))
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(ordered.as_string())
        rows = cursor.fetch_record_batch().cast(_schema(built))
        return tables.replace_all(settings, names.cleaned(built.name), rows, _versions_since(settings, built, is_last=True))


def _versions_since(settings: Settings, built: Built, *, is_last: bool) -> dict[str, str | None]:
    """The property that says since when all versions are kept in the rows that were just read, or in newer ones.

    Read after the rows, so that a build in between can only make it later than it has to be. A table that is made anew may have more
    versions than before, and has them once the last of its days is there.
    """
    found = [retention.versions_since(settings, built.name)]
    if not is_last:
        found.append(tables.versions_since(settings, names.cleaned(built.name)))
    since = max((one for one in found if one is not None), default=None)
    return {tables.VERSIONS_SINCE: None if since is None else since.isoformat()}


def _selected(built: Built) -> dict[str, ColumnKind]:
    """The columns that the lake keeps: those that identify a row, then its time, by which rows are sorted, then all others."""
    first = [*built.keys, *([built.event_at] if built.event_at is not None else [])]
    kept = {name: kind for name, kind in built.columns.items() if kind in TYPES}
    return {name: kept[name] for name in dict.fromkeys((*first, *kept)) if name in kept}


def _schema(built: Built) -> "pa.Schema":
    """The types of the lake, without what the driver notes of those of Postgres."""
    import pyarrow as pa

    types = {
        "string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }  # fmt: skip
    return pa.schema([pa.field(name, types[kind]) for name, kind in _selected(built).items()])


def _query(built: Built, condition: "Composable") -> "Composable":
    from psycopg.sql import SQL, Identifier

    columns = [SQL("{0}::{1} as {0}").format(Identifier(name), SQL(TYPES[kind])) for name, kind in _selected(built).items()]
    return SQL("select {} from {} where {}").format(SQL(", ").join(columns), Identifier(*names.cleaned(built.name)), condition)


def _of_days(event_at: str, span: tuple[date, date]) -> "Composable":
    from psycopg.sql import SQL, Identifier, Literal

    start, end = (datetime.combine(day, time(), UTC) for day in (span[0], span[1] + ONE_DAY))
    return SQL("{0} >= {1} and {0} < {2}").format(Identifier(event_at), Literal(start), Literal(end))
