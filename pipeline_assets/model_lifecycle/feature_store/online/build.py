"""Builds feeds from the lake, and has those of tables follow its commits.

A stream's states are built of the typed records up to known offsets and of the rows of before, as the lake has them; the worker goes on
from the next offsets. What is in both counts once, as it is the same version of a row. A feed that changed is built beside the one that
is read.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, online, warehouse
from pipeline_assets.core.errors import NotMaterialized, UnknownName
from pipeline_assets.core.instants import microseconds_at
from pipeline_assets.core.online_errors import TextsDiffer
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.streaming.typed.table import OFFSET, PARTITION, PLACE_SCHEMA, TypedDays, position_of, typed_days
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.copies import open_copies
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_days, keep_records
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.model_lifecycle.feature_store.online.store import Kept
from pipeline_assets.processing.features.cleaned import midnight
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.files import Content

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Cursor

ROWS_AT_ONCE = 200_000
DAYS_AT_ONCE = timedelta(days=31)
ONE_DAY = timedelta(days=1)
# What the encoding and the collation of a database make of some texts.
TEXTS = """
    select current_setting('server_encoding'), string_agg(t, ' ' order by t), string_agg(lower(t) || upper(t), ' ' order by t)
    from unnest(array['a', 'B', 'ä', 'Ä', 'Z', '_', '1', '-', 'ß', 'é', 'İ', 'ab', 'a b']) as t
"""
Listener = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build or a step of following did: the rows of the lake that were read, and those of the cleaned table that came and went."""

    feed: str
    read: int
    come: int
    gone: int


def build(settings: Settings, feed: Feed, on_step: Listener) -> Built:
    """Builds a feed as it is declared now, and has it read once it is whole; another version of it is read until then.

    Versions that nobody has kept for a day go then: those of code that runs nowhere any more. Raises NotMaterialized where the lake has
    nothing of it yet, TextsDiffer where dbt's SQL could give other rows in the online database than in the warehouse.
    """
    if feed.stream is not None:
        _refuse_other_texts(settings)
    with online(settings) as connection:
        kept = store.begin(connection, feed)
    with open_session(settings, kept) as session:
        done = _of_stream(settings, session, on_step) if feed.stream is not None else _of_table(settings, session, on_step)
        session.ensure_copy()
    with online(settings) as connection:
        store.go_live(connection, kept)
        gone = store.drop_abandoned(connection, feed)
    with open_copies(settings) as copies:
        if copies is not None:
            for digest in gone:
                copies.remove_version(feed.name, digest)
    return done


def _refuse_other_texts(settings: Settings) -> None:
    """Raises TextsDiffer where the online database orders texts, or changes their case, otherwise than the warehouse."""
    with warehouse(settings) as theirs, online(settings) as ours:
        expected, found = (connection.execute(TEXTS).fetchone() for connection in (theirs, ours))
    if found != expected:
        raise TextsDiffer(expected, found)


def build_missing(settings: Settings, feed: Feed, on_step: Listener) -> Built | None:
    """Builds a feed that is not online as it is declared now; None where it is."""
    with online(settings) as connection:
        store.create(connection)
        kept = store.find(connection, feed)
    return None if kept is not None and kept.is_live else build(settings, feed, on_step)


def follow(settings: Settings, feed: Feed) -> Built | None:
    """Takes what the lake's table has had since; None where that is nothing, or where the feed is not read online."""
    with online(settings) as connection:
        kept = store.find(connection, feed)
    if kept is None or not kept.is_live or feed.stream is not None:
        return None
    if tables.snapshot_id(settings, names.cleaned(feed.table.name)) == kept.snapshot_id:
        return None
    with open_session(settings, kept) as session:
        return _of_table(settings, session, lambda _: None)


def _of_stream(settings: Settings, session: Session, on_step: Listener) -> Built:
    feed = session.kept.feed
    first, last = _span(settings, feed)
    offsets: Mapping[int, int] = {}
    read = come = gone = 0
    with catalog(settings) as lake:
        typed = typed_days(lake, feed.contract, first, last)
        if typed.table is not None:
            offsets = position_of(typed.table).seen.next_offsets
        snapshot = tables.snapshot_id(settings, names.lake(feed.contract.name))
        parts = [history_of(settings, feed, (first, last), snapshot), typed_before(feed, typed, offsets)]
        until = _newest(settings, feed)
        for rows in _chunks(batch for part in parts for batch in part):
            on_step(f"{feed.table.name}: {read + rows.num_rows:,} rows")
            change = keep_records(session, rows, {}, until=until)
            read, come, gone = read + rows.num_rows, come + change.come, gone + change.gone
    keep_records(session, arrow_schema(feed.contract).empty_table(), offsets, until=until)
    with session.transaction() as cursor:
        session.note(cursor, watermark=_known(session, cursor), snapshot_id=snapshot)
    return Built(feed=feed.name, read=read, come=come, gone=gone)


def _span(settings: Settings, feed: Feed) -> tuple[date, date]:
    """The days of which rows can still count: back from the newest in the lake."""
    days = [day for table in (names.lake(feed.contract.name), names.typed(feed.contract.name)) for day in tables.days(settings, table)]
    if not days:
        raise NotMaterialized("/".join(names.lake(feed.contract.name)))
    if feed.lookback_us is None:
        return min(days), max(days)
    return max(min(days), max(days) - timedelta(microseconds=feed.lookback_us) - 2 * ONE_DAY), max(days)


def history_of(settings: Settings, feed: Feed, days: tuple[date, date], snapshot_id: int | None) -> Iterator[pa.RecordBatch]:
    """The rows of a stream's contract that the lake has without their records, of some days (UTC, inclusive) at a snapshot (None: none).

    Raises UnknownName where the snapshot is no longer kept.
    """
    if snapshot_id is not None:
        columns = [field.name for field in versioned(feed.contract).fields]
        yield from tables.read_days(settings, names.lake(feed.contract.name), *days, columns, snapshot_id)


def typed_before(feed: Feed, typed: TypedDays, offsets: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
    """The typed rows of a stream's records before these offsets, the next of each partition."""
    contract = arrow_schema(feed.contract)
    schema = pa.schema([*contract, PLACE_SCHEMA.field(PARTITION), PLACE_SCHEMA.field(OFFSET)])
    for day in sorted(typed.files):
        for batch in typed.read(day, schema):
            found = batch[PARTITION].dictionary_encode()
            ends = pa.array([offsets.get(one, 0) for one in found.dictionary.to_pylist()], pa.int64()).take(found.indices)
            yield batch.filter(pc.less(batch[OFFSET], ends)).select(contract.names)


def _known(session: Session, cursor: "Cursor") -> int:
    known = session.watermark(cursor)
    return 0 if known is None else known


def _newest(settings: Settings, feed: Feed) -> int | None:
    """The newest time at which a row of the lake was known, as its files' statistics say, in microseconds."""
    found = []
    for table in (names.lake(feed.contract.name), names.typed(feed.contract.name)):
        snapshot = tables.snapshot_id(settings, table)
        held = [] if snapshot is None else tables.contents(settings, table, feed.contract.known_at, snapshot)
        found += [one.last_at for one in held if one.last_at is not None]
    return max(map(microseconds_at, found)) if found else None


def _chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of about so many rows as are taken at once; versions that a batch lacks are none."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(pa.Table.from_batches([batch]))
        if sum(one.num_rows for one in held) >= ROWS_AT_ONCE:
            yield pa.concat_tables(held, promote_options="default")
            held = []
    if held:
        yield pa.concat_tables(held, promote_options="default")


def _of_table(settings: Settings, session: Session, on_step: Listener) -> Built:
    feed, table = session.kept.feed, names.cleaned(session.kept.feed.table.name)
    snapshot = tables.snapshot_id(settings, table)
    if snapshot is None:
        raise NotMaterialized("/".join(table))
    held = tables.contents(settings, table, feed.table.event_at, snapshot)
    before = _contents_before(settings, session.kept)
    read = come = gone = 0
    spans = _changed_spans(feed, before, held)
    if spans:
        with session.transaction() as cursor:
            session.begin_commit(cursor)
    for start, end in spans:
        on_step(f"{feed.table.name}: {start.date()} to {end.date()}")
        rows = tables.read_between(settings, table, feed.table.event_at, (start, end), feed.columns, snapshot).read_all()
        change = keep_days(session, rows, microseconds_at(start), microseconds_at(end))
        read, come, gone = read + rows.num_rows, come + change.come, gone + change.gone
    with session.transaction() as cursor:
        session.note(cursor, watermark=_known(session, cursor), snapshot_id=snapshot)
    return Built(feed=feed.name, read=read, come=come, gone=gone)


def _contents_before(settings: Settings, kept: Kept) -> list[Content]:
    """What the table held when the feed last followed it; nothing where that snapshot has expired, so that all is compared."""
    if kept.snapshot_id is None:
        return []
    try:
        return tables.contents(settings, names.cleaned(kept.feed.table.name), kept.feed.table.event_at, kept.snapshot_id)
    except UnknownName:
        return []


def _changed_spans(feed: Feed, before: list[Content], now: list[Content]) -> list[tuple[datetime, datetime]]:
    """The spans of whole days whose files differ, as far back as rows can count, none longer than DAYS_AT_ONCE."""
    known, held = {one.digest for one in before}, {one.digest for one in now}
    differing = [one for one in before if one.digest not in held] + [one for one in now if one.digest not in known]
    bounds = [(one.first_at, one.last_at) for one in differing if one.first_at is not None and one.last_at is not None]
    if not bounds:
        return []
    reach = None if feed.lookback_us is None else max(last for _, last in bounds) - timedelta(microseconds=feed.lookback_us) - 2 * ONE_DAY
    days = {midnight(first.date()) + ONE_DAY * day for first, last in bounds for day in range((last.date() - first.date()).days + 1)}
    wanted = sorted(day for day in days if reach is None or day >= midnight(reach.date()))
    return _joined(wanted)


def _joined(days: list[datetime]) -> list[tuple[datetime, datetime]]:
    """Neighbouring days as spans."""
    cuts = [0, *(place + 1 for place, (one, other) in enumerate(pairwise(days)) if other - one > ONE_DAY), len(days)]
    found = []
    for begin, end in pairwise(cuts):
        start, stop = days[begin], days[end - 1] + ONE_DAY
        while start < stop:
            found.append((start, min(start + DAYS_AT_ONCE, stop)))
            start += DAYS_AT_ONCE
    return found
