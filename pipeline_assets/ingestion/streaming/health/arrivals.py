"""What arrived since the last look: topics that landed more, and days that received events. Read from the lake's metadata alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.iceberg import manifests_of, open_table, snapshots_since, while_unchanged
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.topics import watermarks
from pipeline_assets.ingestion.streaming.landing.tables import RECEIVED_AT
from pipeline_assets.ingestion.streaming.typed.table import position_of, rows_of
from pipeline_assets.spec.sources import RecordStream

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import ManifestEntry
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

EPOCH, EPOCH_TIME = date(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)

# The newest snapshot of each table by its name; a table that nothing was written to has none.
Snapshots = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Touched:
    """The days (UTC) that received events, in order, and the last day that any event is on; `last_day` is None where there is none.

    `since` is when the first of what was not seen before was committed; None where there is nothing of the kind.
    """

    days: Sequence[date]
    last_day: date | None
    snapshots: Snapshots
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """How far something has come that others write to: `position` is another one whenever more has come, `numbers` are to be shown."""

    position: str
    numbers: Mapping[str, int | str]


def arrived(settings: Settings, topics: Sequence[str]) -> dict[AssetName, Arrived]:
    """How far topics and the tables that they land in have come, by asset; those that nothing was written to are left out.

    Of a topic that is its first and its next offset over all partitions, of a table its newest commit with the time (UTC) of that and of
    the newest record in it, the watermark.
    """
    found: dict[AssetName, Arrived] = {}
    known = watermarks(settings, topics)
    with catalog(settings) as lake:
        for topic in topics:
            spans = [span for (name, _), span in known.items() if name == topic]
            first, end = sum(low for low, _ in spans), sum(high for _, high in spans)
            if end:
                found[names.topic(topic)] = Arrived(position=f"{first} {end}", numbers={"records": end - first, "end_offsets": end})
            table = open_table(lake, names.landed(topic))
            if table is not None and (snapshot := table.current_snapshot()) is not None:
                found[names.landed(topic)] = Arrived(position=str(snapshot.snapshot_id), numbers=_commit(table, snapshot))
    return found


def _commit(table: "Table", snapshot: "Snapshot") -> Mapping[str, int | str]:
    """The newest commit of a landing table, whose snapshot it is."""
    from pyiceberg.conversions import from_bytes
    from pyiceberg.types import TimestamptzType

    field = table.schema().find_field(RECEIVED_AT).field_id
    own = [one for one in manifests_of(table, snapshot) if one.added_snapshot_id == snapshot.snapshot_id]
    files = [entry.data_file for one in own for entry in one.fetch_manifest_entry(table.io) if entry.snapshot_id == snapshot.snapshot_id]
    times = [int(from_bytes(TimestamptzType(), file.upper_bounds[field])) for file in files if field in (file.upper_bounds or {})]
    return {
        "rows": rows_of(table),
        "last_commit": datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC).isoformat(),
        # As text: the page would show numbers of 19 digits rounded.
        "snapshot_id": str(snapshot.snapshot_id),
        **({"watermark": (EPOCH_TIME + timedelta(microseconds=max(times))).isoformat()} if times else {}),
    }


def landed_snapshots(settings: Settings, streams: Sequence[RecordStream]) -> Snapshots:
    """The newest snapshot of each topic's landing table, by topic."""
    topics = sorted({stream.topic for stream in streams})

    def read() -> Snapshots:
        with catalog(settings) as lake:
            return _newest({topic: open_table(lake, names.landed(topic)) for topic in topics})

    return while_unchanged(settings, map(names.landed, topics), f"newest snapshots of {topics}", read)


def touched(settings: Settings, streams: Sequence[RecordStream], since: Snapshots) -> Touched:
    """The days that received events after the snapshots of `since` (by contract); a stream whose snapshot is not there counts whole."""
    contracts = [stream.contract.name for stream in streams]
    about = f"days of {contracts} since {sorted(since.items())}"
    return while_unchanged(settings, map(names.typed, contracts), about, partial(_touched, settings, contracts, since))


def _touched(settings: Settings, contracts: Sequence[str], since: Snapshots) -> Touched:
    with catalog(settings) as lake:
        tables = {name: open_table(lake, names.typed(name)) for name in contracts}
        found = {name: _entries(table, since.get(name)) for name, table in tables.items() if table is not None}
        known = [day for table in tables.values() if table is not None for day in _days(_entries(table, None))]
    days = sorted({day for entries in found.values() for day in _days(entries)})
    times = [at for name, table in tables.items() if table is not None for at in _commits(table, since.get(name))]
    return Touched(days=days, last_day=max(known, default=None), snapshots=_newest(tables), since=min(times, default=None))


def untyped(settings: Settings, streams: Sequence[RecordStream]) -> list[RecordStream]:
    """The streams of whose topics more has landed than is typed."""
    tables = [table for stream in streams for table in (names.landed(stream.topic), names.typed(stream.contract.name))]

    def read() -> list[bool]:
        with catalog(settings) as lake:
            return [_is_typed(lake, stream) for stream in streams]

    typed = while_unchanged(settings, tables, f"what is typed of {tables}", read)
    return [stream for stream, is_typed in zip(streams, typed, strict=True) if not is_typed]


def _is_typed(lake: "Catalog", stream: RecordStream) -> bool:
    landed, typed = open_table(lake, names.landed(stream.topic)), open_table(lake, names.typed(stream.contract.name))
    newest = None if landed is None else landed.current_snapshot()
    return newest is None or (typed is not None and position_of(typed).landing_snapshot == newest.snapshot_id)


def _newest(tables: "Mapping[str, Table | None]") -> Snapshots:
    snapshots = {name: None if table is None else table.current_snapshot() for name, table in tables.items()}
    return {name: snapshot.snapshot_id for name, snapshot in snapshots.items() if snapshot is not None}


def _entries(table: "Table", after: int | None) -> "list[ManifestEntry]":
    """The files that were added after a snapshot (None, or one that is no ancestor: all there are) and are still there."""
    newest = table.current_snapshot()
    if newest is None or newest.snapshot_id == after:
        return []
    chain = _ids(snapshots_since(table, after))
    manifests = [one for one in manifests_of(table, newest) if chain is None or one.added_snapshot_id in chain]
    entries = [entry for one in manifests for entry in one.fetch_manifest_entry(table.io, discard_deleted=True)]
    return entries if chain is None else [entry for entry in entries if entry.snapshot_id in chain]


def _ids(snapshots: "Sequence[Snapshot] | None") -> set[int] | None:
    return None if snapshots is None else {one.snapshot_id for one in snapshots}


def _commits(table: "Table", after: int | None) -> list[datetime]:
    """When the snapshots after one were committed (None, or one that is no ancestor: all that are known)."""
    chain = _ids(snapshots_since(table, after))
    known = [one for one in table.snapshots() if chain is None or one.snapshot_id in chain]
    return [datetime.fromtimestamp(one.timestamp_ms / 1000, UTC) for one in known]


def _days(entries: "Sequence[ManifestEntry]") -> set[date]:
    values = [entry.data_file.partition[0] for entry in entries]
    return {value if isinstance(value, date) else EPOCH + timedelta(days=value) for value in values if value is not None}
