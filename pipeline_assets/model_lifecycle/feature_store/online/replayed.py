"""The rows of a cleaned table as a feed had seen them at a position, from the lake alone.

Of a stream the records before the offsets and the rows that its states began with, derived by dbt's SQL from all of them at once, in a
session of the warehouse: nothing that the online store has written is read. Of a table the snapshot that was followed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_warehouse, catalog
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.streaming.typed.table import OFFSET, OFFSET_SCHEMA, PARTITION, position_of, typed_days
from pipeline_assets.model_lifecycle.feature_store.online.build import history_of
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.store import column_type
from pipeline_assets.processing.cleaning.derivations import quoted, statements
from pipeline_assets.processing.cleaning.raw_schema import LOADED_AT, sql_type
from pipeline_assets.processing.features.materialize import read_events_of
from pipeline_assets.processing.lake import tables

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Cursor

RAW, ENDS = "replayed_raw", "replayed_ends"
SLACK = timedelta(days=2)
Decided = tuple[datetime, datetime]


class Stream:
    """The rows of a stream's cleaned table before any offsets, of the events that decisions between two times can count."""

    def __init__(self, cursor: "Cursor", feed: Feed) -> None:
        self.cursor, self.feed = cursor, feed
        source = feed.table.name
        self._columns = ", ".join(f"{quoted(name)}::{column_type(feed, name)} as {quoted(name)}" for name in feed.columns)
        self._query = f"select {self._columns} from pg_temp.{quoted(source)}"  # noqa: S608 - names are quoted

    def rows(self, offsets: Mapping[int, int]) -> pa.Table:
        """All versions of rows that follow from the records before these offsets, the next of each partition."""
        self.cursor.execute(f"delete from {ENDS}")  # noqa: S608 - a name of this module
        if offsets:
            ends = {PARTITION: pa.array(offsets.keys(), pa.int32()), OFFSET: pa.array(offsets.values(), pa.int64())}
            self.cursor.adbc_ingest(ENDS, pa.table(ends), mode="append", temporary=True)
        self.cursor.execute(self._query)
        return self.cursor.fetch_arrow_table()


def typed_to(settings: Settings, feed: Feed) -> Mapping[int, int]:
    """Up to which offsets (exclusive) all records of each partition of a stream's topic are in the lake."""
    with catalog(settings) as lake:
        table = open_table(lake, names.typed(feed.contract.name))
        return {} if table is None else position_of(table).seen.next_offsets


@contextmanager
def replayed_stream(settings: Settings, feed: Feed, decided: Decided, snapshot_id: int | None) -> Iterator[Stream]:
    """A session that has the lake's rows of a stream; snapshot_id: that of the rows that its states began with.

    Raises UnknownName where the snapshot is no longer kept.
    """
    with arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        for statement in _session(feed):
            cursor.execute(statement)
        for part in _raw_rows(settings, feed, decided, snapshot_id):
            cursor.adbc_ingest(RAW, part, mode="append", temporary=True)
        yield Stream(cursor, feed)


def rows_at_snapshot(settings: Settings, feed: Feed, decided: Decided, snapshot_id: int) -> pa.Table:
    """The rows of a table's feed at a snapshot that decisions between two times can count.

    Raises UnknownName where the snapshot, and VersionsNotKept where a version that counted, is no longer kept.
    """
    at = {".".join(names.cleaned(feed.table.name)): snapshot_id}
    return read_events_of(settings, feed.table, feed.views, decided, at).read_all()


def _session(feed: Feed) -> Iterator[str]:
    contract, derivation = versioned(feed.contract), feed.derivation
    if derivation is None:
        raise ValueError(f"Feed {feed.name} has no records.")
    columns = [f"{quoted(field.name)} {sql_type(field)}" for field in contract.fields]
    own = ", ".join([*(quoted(field.name) for field in contract.fields), quoted(LOADED_AT)])
    place = f"{quoted(PARTITION)} integer, {quoted(OFFSET)} bigint"
    yield f"create temporary table {RAW} ({', '.join(columns)}, {quoted(LOADED_AT)} timestamptz, {place})"
    yield f"create temporary table {ENDS} ({place})"
    seen = f"select 1 from {ENDS} as e where e.{PARTITION} = r.{PARTITION} and r.{OFFSET} < e.{OFFSET}"  # noqa: S608 - names of this module
    # A record that came twice, or is in both, is one version.
    raw = f"select distinct {own} from {RAW} as r where r.{OFFSET} is null or exists ({seen})"  # noqa: S608 - names are quoted
    yield from statements(derivation, raw)


def _raw_rows(settings: Settings, feed: Feed, decided: Decided, snapshot_id: int | None) -> Iterator[pa.Table]:
    """The rows of the lake that can count, with the place of those that are records."""
    contract, days = arrow_schema(versioned(feed.contract)), _days(settings, feed, decided)
    schema = pa.schema([*arrow_schema(feed.contract), *OFFSET_SCHEMA])
    for batch in history_of(settings, feed, days, snapshot_id):
        yield _as_raw([batch], contract)
    with catalog(settings) as lake:
        typed = typed_days(lake, feed.contract, *days)
        for day in sorted(typed.files):
            for batch in typed.read(day, schema):
                yield _as_raw([batch], contract)


def _as_raw(batches: Sequence[pa.RecordBatch], contract: pa.Schema) -> pa.Table:
    found = pa.Table.from_batches(batches)
    whole = pa.schema([*contract, *OFFSET_SCHEMA])
    return pa.table(
        [found[one.name].cast(one.type) if one.name in found.column_names else pa.nulls(found.num_rows, one.type) for one in whole],
        names=whole.names,
    )


def _days(settings: Settings, feed: Feed, decided: Decided) -> tuple[date, date]:
    """From the first day whose events can count to the last: a version that moved a row to a later day ends the one before."""
    found = [day for table in (names.lake(feed.contract.name), names.typed(feed.contract.name)) for day in tables.days(settings, table)]
    first, last = min(found, default=decided[0].date()), max(found, default=decided[1].date())
    if feed.lookback_us is None:
        return first, last
    return max(first, (decided[0] - timedelta(microseconds=feed.lookback_us) - SLACK).date()), last
