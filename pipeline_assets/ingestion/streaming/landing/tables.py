"""Landed records: the Iceberg tables that Kafka Connect appends them to as they are, and what was appended since they were last read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.arrow import batches_in
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.iceberg import Column, follow, manifests_of, open_or_create, snapshots_since
from pipeline_assets.ingestion.streaming.landing.offsets import Seen, Spans, spans_of, union

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile, ManifestEntry
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

TOPIC, PARTITION, OFFSET, RECEIVED_AT, PAYLOAD = "topic", "partition", "offset", "received_at", "payload"
PLACE = (TOPIC, PARTITION, OFFSET, RECEIVED_AT)
# Nothing is required: a record without a value or a time must not stop the connector.
COLUMNS = (
    Column(name=PAYLOAD, type="binary", required=False, doc="The record's value as it is."),
    Column(name=TOPIC, type="string", required=False, doc="Topic of the record."),
    Column(name=PARTITION, type="int", required=False, doc="Partition of the topic."),
    Column(name=OFFSET, type="integer", required=False, doc="Offset in the partition."),
    Column(name=RECEIVED_AT, type="timestamp", required=False, doc="The record's time in the topic."),
)
SCHEMA = pa.schema(
    [
        (PAYLOAD, pa.binary()),
        (TOPIC, pa.string()),
        (PARTITION, pa.int32()),
        (OFFSET, pa.int64()),
        (RECEIVED_AT, pa.timestamp("us", tz="UTC")),
    ]
)
# The columns from which the offsets of a file are read.
OFFSETS = pa.schema([SCHEMA.field(name) for name in (TOPIC, PARTITION, OFFSET)])
# A reader holds one row group. The connector appends every few seconds, so it must not merge all manifests each time.
PROPERTIES = {"write.parquet.row-group-size-bytes": str(16 << 20), "commit.manifest.min-count-to-merge": "50"}
BATCH_ROWS, BATCH_BYTES = 65_536, 16 << 20


@dataclass(frozen=True, kw_only=True)
class LandedFile:
    """A data file of a landing table; `is_appended` unless its records were in the table before, in a file that it took the place of."""

    path: str
    is_appended: bool


@dataclass(frozen=True, kw_only=True)
class Increment:
    """What a landing table holds at a snapshot and did not hold at an earlier one, in files by the order in which they were added.

    It may hold records that were there before: those of a file that compaction wrote, and all there are where the earlier snapshot is
    gone. `snapshot_id` is None for a table that nothing was written to.
    """

    snapshot_id: int | None
    files: Sequence[LandedFile]


def ensure_landing_table(catalog: "Catalog", topic: str, headers: Sequence[str] = ()) -> "Table":
    """The table that the records of a topic land in with some of their headers, made where there is none; by day of the record's time.

    Raises SchemaConflict if there is one with other columns.
    """
    own = (Column(name=names.landed_header(one), type="binary", required=False, doc=f"The record's header {one}.") for one in headers)
    columns = (*COLUMNS, *own)
    return follow(open_or_create(catalog, names.landed(topic), columns, RECEIVED_AT, properties=PROPERTIES), columns, dropped=())


def schema_with(headers: Sequence[str]) -> pa.Schema:
    """The schema of landed records with some of their headers, each in the column of `names.landed_header`; null where one is absent."""
    return pa.schema([*SCHEMA, *((names.landed_header(header), pa.binary()) for header in headers)])


def increment(table: "Table", after: int | None, seen: Seen) -> Increment:
    """What was landed after a snapshot (None: all there is).

    Where the snapshot is gone, or no ancestor of the newest, everything is in it but for the files that hold only offsets seen.
    """
    newest = table.current_snapshot()
    if newest is None or newest.snapshot_id == after:
        return Increment(snapshot_id=after, files=())
    chain = _appended(snapshots_since(table, after))
    found = []
    for manifest in manifests_of(table, newest):
        if chain is None or manifest.added_snapshot_id in chain:
            found += [
                (entry.sequence_number or 0, file)
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                if (file := _landed_file(table, entry, chain, seen)) is not None
            ]
    files = [file for _, file in sorted(found, key=lambda one: (one[0], one[1].path))]
    return Increment(snapshot_id=newest.snapshot_id, files=files)


def _appended(snapshots: "Sequence[Snapshot] | None") -> Mapping[int, bool] | None:
    """Whether each snapshot appended only."""
    from pyiceberg.table.snapshots import Operation

    if snapshots is None:
        return None
    return {one.snapshot_id: one.summary is None or one.summary.operation == Operation.APPEND for one in snapshots}


def _landed_file(table: "Table", entry: "ManifestEntry", chain: Mapping[int, bool] | None, seen: Seen) -> LandedFile | None:
    """The file of an entry if its records may be new: it was added by one of the snapshots (None: by any), and holds an offset not seen."""
    is_appended = chain is not None and chain.get(entry.snapshot_id or 0)
    if is_appended is None or (not is_appended and _is_seen(table, entry.data_file, seen)):
        return None
    return LandedFile(path=entry.data_file.file_path, is_appended=is_appended)


def _is_seen(table: "Table", file: "DataFile", seen: Seen) -> bool:
    """Whether the statistics of a file show that it holds only offsets that were seen."""
    from pyiceberg.conversions import from_bytes
    from pyiceberg.types import IntegerType, LongType

    number, offset = (table.schema().find_field(name).field_id for name in (PARTITION, OFFSET))
    low, high = file.lower_bounds or {}, file.upper_bounds or {}
    if not all(field in bounds for field in (number, offset) for bounds in (low, high)):
        return False
    first, last = (int(from_bytes(IntegerType(), bounds[number])) for bounds in (low, high))
    start, end = (int(from_bytes(LongType(), bounds[offset])) for bounds in (low, high))
    return all(seen.covers({partition: ((start, end + 1),)}) for partition in range(first, last + 1))


def offsets_of(table: "Table", topic: str, file: LandedFile) -> dict[int, Spans]:
    """The offsets of each partition that a file holds; raises TableMismatch if it holds records of another topic, or without a place."""
    found: dict[int, Spans] = {}
    for batch in batches(table, file, OFFSETS):
        if any(column.null_count for column in batch.columns) or batch.column(TOPIC).unique().to_pylist() != [topic]:
            problem = f"holds in {file.path} records that are not of the topic '{topic}', or without partition and offset"
            raise TableMismatch(".".join(table.name()), problem, table.schema().column_names)
        for partition, spans in offsets_in(batch).items():
            found[partition] = union((*found.get(partition, ()), *spans))
    return found


def offsets_in(records: pa.RecordBatch | pa.Table) -> dict[int, Spans]:
    """The offsets of each partition among some records."""
    partitions, offsets = records.column(PARTITION).to_numpy(), records.column(OFFSET).to_numpy()
    return {int(number): spans_of(offsets[partitions == number]) for number in np.unique(partitions)}


def batches(table: "Table", file: LandedFile, schema: pa.Schema = SCHEMA) -> Iterator[pa.RecordBatch]:
    """The records of a file in batches that are bounded in rows and, as far as records are of like size, in bytes.

    Kafka Connect's files have no seal, but checksums of their pages: raises ObjectDamaged where one does not match, or nothing can be read.

    Null where a file is older than a column.
    """
    with table.io.new_input(file.path).open() as opened:
        try:
            parquet = pq.ParquetFile(opened, page_checksum_verification=True)
            yield from batches_in(parquet, schema, _batch_rows(parquet.metadata))
        except (OSError, pa.ArrowInvalid) as error:
            raise ObjectDamaged(file.path, f"cannot be read ({error})") from error


def _batch_rows(metadata: pq.FileMetaData) -> int:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    widest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1.0)
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(widest, 1.0))))
