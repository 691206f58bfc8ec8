"""The typed table of a stream: its events as rows, and in the same commit how far the topic has been read.

A commit carries the landing snapshot that was read and the next offset of each partition. It succeeds only on top of the very snapshot
whose position it started from: two runs that read the same records cannot both commit them, and a run that was killed before its commit
has left files that no snapshot names.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.arrow import batches_in
from pipeline_assets.core.errors import SchemaConflict
from pipeline_assets.core.iceberg import SEALED, Column, column_of, follow, open_or_create, open_table, planned
from pipeline_assets.ingestion.sources.contracts import Checked, arrow_schema
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.landing.offsets import Seen
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

EPOCH = date(1970, 1, 1)
TOPIC, PARTITION, OFFSET, RECEIVED_AT = "_topic", "_partition", "_offset", "_received_at"
PLACE = (
    Column(name=TOPIC, type="string", required=True, doc="Topic that the event came from."),
    Column(name=PARTITION, type="int", required=True, doc="Partition of the topic."),
    Column(name=OFFSET, type="integer", required=True, doc="Offset in the partition."),
    Column(name=RECEIVED_AT, type="timestamp", required=False, doc="The record's time in the topic."),
)
PLACE_SCHEMA = pa.schema(
    [
        pa.field(TOPIC, pa.string(), nullable=False),
        pa.field(PARTITION, pa.int32(), nullable=False),
        pa.field(OFFSET, pa.int64(), nullable=False),
        pa.field(RECEIVED_AT, pa.timestamp("us", tz="UTC")),
    ]
)
# The place of a row within its topic.
OFFSET_SCHEMA = pa.schema([(PARTITION, pa.int32()), (OFFSET, pa.int64())])
LANDING_SNAPSHOT, NEXT_OFFSETS, BEYOND, UNJUDGED, CHANGED = (
    f"pipeline.stream.{name}" for name in ("landing-snapshot-id", "next-offsets", "seen-beyond", "unjudged", "changed")
)
# Left to itself pyiceberg would put a commit that lost the race on top of the winner's, and so write the same events twice.
PROPERTIES = {**SEALED, "commit.retry.num-retries": "0", "commit.manifest.min-count-to-merge": "50"}


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a topic has been read: the landing snapshot that was read to its end, and all offsets seen.

    `unjudged` counts rows and broken rows that are too few yet to be held against the contract's share, `changed` the newest records in a
    row that have not the contract's fields.
    """

    landing_snapshot: int | None = None
    seen: Seen = field(default_factory=Seen)
    unjudged: tuple[int, int] = (0, 0)
    changed: int = 0


def typed_schema(contract: Contract) -> pa.Schema:
    """The columns of a typed table: the contract's, and the place of each event in its topic."""
    return pa.schema([*arrow_schema(contract), *PLACE_SCHEMA])


def typed_events(contract: Contract, checked: Checked, records: pa.Table) -> pa.Table:
    """The good rows among some landed records, each with its place in the topic."""
    places = records.select(landing.PLACE).take(pa.array(checked.positions))
    return pa.Table.from_arrays([*checked.good.columns, *places.columns], schema=typed_schema(contract))


def days_of(times: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The UTC day of each of some instants."""
    return times.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)


def typed_table(catalog: "Catalog", contract: Contract) -> "Table":
    """The typed table of a contract, created or extended where needed; by day of the event's time. Raises SchemaConflict.

    A table that nothing was ever written to follows any change: a contract may be corrected before its first row.
    """
    identifier = names.typed(contract.name)
    wanted = [*map(column_of, contract.fields), *PLACE]
    table = open_or_create(catalog, identifier, wanted, contract.event_at, properties=PROPERTIES)
    known = {column.name for column in wanted}
    try:
        return follow(table, wanted, dropped=[name for name in table.schema().column_names if name not in known])
    except SchemaConflict:
        if table.current_snapshot() is not None:
            raise
        catalog.drop_table(identifier)
        return open_or_create(catalog, identifier, wanted, contract.event_at, properties=PROPERTIES)


def position_of(table: "Table") -> Position:
    """How far the topic of a typed table has been read, as its newest commit of events says.

    Compaction writes snapshots that say nothing of it. Where all that did have expired, the table's properties say the same.
    """
    snapshot = table.current_snapshot()
    if snapshot is None:
        return Position()
    while snapshot is not None:
        properties = {} if snapshot.summary is None else snapshot.summary.additional_properties
        if NEXT_OFFSETS in properties:
            return _read(properties)
        parent = snapshot.parent_snapshot_id
        snapshot = None if parent is None else table.snapshot_by_id(parent)
    return _read(table.properties) if NEXT_OFFSETS in table.properties else Position()


def rows_of(table: "Table") -> int:
    """How many rows a table holds, as its newest snapshot says."""
    snapshot = table.current_snapshot()
    return 0 if snapshot is None or snapshot.summary is None else int(snapshot.summary["total-records"] or 0)


@dataclass(frozen=True, kw_only=True)
class TypedDays:
    """The typed rows of some days at one snapshot, file by file; none of either where nothing was ever typed."""

    table: "Table | None"
    snapshot_id: int | None
    files: "Mapping[date, Sequence[DataFile]]"

    def read(self, day: date, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows of a day in these columns, in no order; null where a file is older than a column."""
        for file in self.files.get(day, ()):
            if self.table is not None:
                yield from _batches(self.table, file.file_path, schema)


def typed_days(catalog: "Catalog", contract: Contract, first: date, last: date) -> TypedDays:
    """The typed rows of the days `first` to `last` (UTC, inclusive), as they stand now."""
    table = open_table(catalog, names.typed(contract.name))
    snapshot = None if table is None else table.current_snapshot()
    if table is None or snapshot is None:
        return TypedDays(table=table, snapshot_id=None, files={})
    start, end = (datetime.combine(day, time(), UTC).isoformat() for day in (first, last + timedelta(days=1)))
    files: dict[date, list[DataFile]] = {}
    rows = f"{contract.event_at} >= '{start}' and {contract.event_at} < '{end}'"
    for task in planned(table, rows, snapshot.snapshot_id):
        files.setdefault(EPOCH + timedelta(days=task.file.partition[0]), []).append(task.file)
    return TypedDays(table=table, snapshot_id=snapshot.snapshot_id, files=files)


def _batches(table: "Table", path: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with table.io.new_input(path).open() as opened:
        yield from batches_in(pq.ParquetFile(opened), pa.schema([one.with_nullable(True) for one in schema]))


def append_events(table: "Table", rows: pa.Table, position: Position, *, run_id: str) -> None:
    """Adds events and the position that is reached with them in one commit.

    Raises CommitFailedException if the table has a newer snapshot than the one it was loaded with; then nothing of it is there.
    """
    written = _written(position)
    with table.transaction() as transaction:
        transaction.set_properties(written)
        transaction.append(rows, snapshot_properties={**written, "pipeline.run-id": run_id})


def _written(position: Position) -> dict[str, str]:
    start = position.seen.next_offsets
    # A partition's first span follows from its next offset, if it begins with the partition.
    beyond = {number: [span for span in spans if span[0]] for number, spans in position.seen.partitions.items()}
    return {
        LANDING_SNAPSHOT: "" if position.landing_snapshot is None else str(position.landing_snapshot),
        NEXT_OFFSETS: json.dumps(start),
        BEYOND: json.dumps({number: spans for number, spans in beyond.items() if spans}),
        UNJUDGED: json.dumps(position.unjudged),
        CHANGED: str(position.changed),
    }


def _read(stored: Mapping[str, str]) -> Position:
    beyond = json.loads(stored[BEYOND])
    partitions = {
        int(number): (*(((0, start),) if start else ()), *((first, end) for first, end in beyond.get(number, ())))
        for number, start in json.loads(stored[NEXT_OFFSETS]).items()
    }
    rows, broken = json.loads(stored[UNJUDGED])
    landing = stored[LANDING_SNAPSHOT]
    return Position(
        landing_snapshot=int(landing) if landing else None,
        seen=Seen(partitions=partitions),
        unjudged=(rows, broken),
        # Commits of earlier versions do not have it.
        changed=int(stored.get(CHANGED, "0")),
    )
