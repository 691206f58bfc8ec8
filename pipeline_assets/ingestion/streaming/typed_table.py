"""The typed table of a stream: its events as rows, and in the same commit how far the topic has been read.

A commit carries the landing snapshot that was read and the next offset of each partition. It succeeds only on top of the very snapshot
whose position it started from: two runs that read the same records cannot both commit them, and a run that was killed before its commit
has left files that no snapshot names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.iceberg import Column, follow, open_or_create
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.streaming.offsets import Seen
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

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
LANDING_SNAPSHOT, NEXT_OFFSETS, BEYOND, UNJUDGED = (
    f"pipeline.stream.{name}" for name in ("landing-snapshot-id", "next-offsets", "seen-beyond", "unjudged")
)
# Left to itself pyiceberg would put a commit that lost the race on top of the winner's, and so write the same events twice.
PROPERTIES = {"commit.retry.num-retries": "0", "commit.manifest.min-count-to-merge": "50"}


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a topic has been read: the landing snapshot that was read to its end, and all offsets seen.

    `unjudged` counts rows and broken rows that are too few yet to be held against the contract's share.
    """

    landing_snapshot: int | None = None
    seen: Seen = field(default_factory=Seen)
    unjudged: tuple[int, int] = (0, 0)


def typed_schema(contract: Contract) -> pa.Schema:
    """The columns of a typed table: the contract's, and the place of each event in its topic."""
    return pa.schema([*arrow_schema(contract), *PLACE_SCHEMA])


def typed_table(catalog: "Catalog", contract: Contract) -> "Table":
    """The typed table of a contract, created or extended where needed; by day of the event's time. Raises SchemaConflict."""
    own = [Column(name=f.name, type=f.type, required=f.required, doc=f.description) for f in contract.fields]
    wanted = [*own, *PLACE]
    table = open_or_create(catalog, names.typed(contract.name), wanted, contract.event_at, properties=PROPERTIES)
    known = {column.name for column in wanted}
    return follow(table, wanted, dropped=[name for name in table.schema().column_names if name not in known])


def position_of(table: "Table") -> Position:
    """How far the topic of a typed table has been read, as its newest commit of events says.

    Compaction writes snapshots that say nothing of it. Where all that did have expired, the table's properties say the same.
    """
    snapshot = table.current_snapshot()
    if snapshot is None:
        return Position()
    while snapshot is not None:
        told = {} if snapshot.summary is None else snapshot.summary.additional_properties
        if NEXT_OFFSETS in told:
            return _read(told)
        parent = snapshot.parent_snapshot_id
        snapshot = None if parent is None else table.snapshot_by_id(parent)
    return _read(table.properties) if NEXT_OFFSETS in table.properties else Position()


def append_events(table: "Table", rows: pa.Table, position: Position, *, run_id: str) -> int:
    """Adds events and the position that is reached with them in one commit, and gives its snapshot.

    Raises CommitFailedException if the table has a newer snapshot than the one it was loaded with; then nothing of it is there.
    """
    told = _written(position)
    with table.transaction() as transaction:
        transaction.set_properties(told)
        transaction.append(rows, snapshot_properties={**told, "pipeline.run-id": run_id})
    snapshot = table.current_snapshot()
    if snapshot is None:
        raise RuntimeError(f"Table {table.name()} has no snapshot after a commit.")
    return snapshot.snapshot_id


def _written(position: Position) -> dict[str, str]:
    start = position.seen.next_offsets
    # A partition's first span is told by its next offset, if it begins with the partition.
    beyond = {number: [span for span in spans if span[0]] for number, spans in position.seen.partitions.items()}
    return {
        LANDING_SNAPSHOT: "" if position.landing_snapshot is None else str(position.landing_snapshot),
        NEXT_OFFSETS: json.dumps(start),
        BEYOND: json.dumps({number: spans for number, spans in beyond.items() if spans}),
        UNJUDGED: json.dumps(position.unjudged),
    }


def _read(told: Mapping[str, str]) -> Position:
    beyond = json.loads(told[BEYOND])
    partitions = {
        int(number): (*(((0, start),) if start else ()), *((first, end) for first, end in beyond.get(number, ())))
        for number, start in json.loads(told[NEXT_OFFSETS]).items()
    }
    rows, broken = json.loads(told[UNJUDGED])
    landing = told[LANDING_SNAPSHOT]
    return Position(landing_snapshot=int(landing) if landing else None, seen=Seen(partitions=partitions), unjudged=(rows, broken))
