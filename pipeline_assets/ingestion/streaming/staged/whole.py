"""A change log merged as a whole, in bounded memory.

Its narrow columns are read first, which gives what holds for all of it. Then it is read once more and split by the hash of the key into
files on the local disk, and one such bucket after the other is merged, checked and staged. Keys that are connected are in one bucket.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.stream_errors import SnapshotIncomplete
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.staging.stage import Staged, Target, stage_partition
from pipeline_assets.ingestion.streaming.staged.change_log import COMMITTED_AT, LSN, OFFSET, OPERATION, SNAPSHOT, TRUNCATED
from pipeline_assets.ingestion.streaming.staged.checks import checked
from pipeline_assets.ingestion.streaming.staged.facts import Facts, first_values, numbered
from pipeline_assets.ingestion.streaming.staged.history import versions
from pipeline_assets.ingestion.streaming.staged.keys import Connected, hashes_of
from pipeline_assets.ingestion.streaming.staged.log import PLACE, Log
from pipeline_assets.ingestion.streaming.staged.position import Position, Survey, rules_of
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import Source

if TYPE_CHECKING:
    import psycopg

NARROW = (OPERATION, LSN, COMMITTED_AT, OFFSET, SNAPSHOT)
# A bucket is in memory some times over while it is merged. Each is an open file, so beyond 64 million records they grow.
BUCKET_ROWS, BUCKET_BYTES, MOST_BUCKETS = 250_000, 16 << 20, 256


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge staged: how far it came, how many keys it merged, and of these how many values are nowhere in the log.

    `whole_because` says why the whole log was merged; None where only the keys that had changed were.
    """

    staged: Staged
    position: Position
    keys: int
    unresolved: int
    whole_because: str | None = None


@dataclass(kw_only=True)
class Tally:
    """The keys that were merged, and the values that are nowhere in the log."""

    keys: int = 0
    unresolved: int = 0


def merge_whole(connection: "psycopg.Connection", target: Target, log: Log, source: Source, *, because: str) -> Merged:
    """Stages all versions of the rows of a table from its log, in the place of all that was staged.

    Raises SnapshotIncomplete while the first snapshot is being emitted, TableMismatch for a log of more than one topic partition,
    ContractViolation as any source.
    """
    position, connected = _beginning(log, source)
    files, tally = log.files(), Tally()
    buckets = _buckets(sum(file.record_count for file in files), sum(file.file_size_in_bytes for file in files))
    with TemporaryDirectory(prefix="merge-") as folder:
        spill = Spill(folder=Path(folder), buckets=buckets, contract=log.contract, connected=connected)
        facts = spill.write(log.batches(files, log.schema.names), log.schema, position.facts)
        position = replace(position, facts=facts)
        parts = merged_parts(spill, source, facts, tally)
        staged = stage_partition(connection, replace(target, made_from=position.stored()), names.SNAPSHOT, parts)
    return Merged(staged=staged, position=position, keys=tally.keys, unresolved=tally.unresolved, whole_because=because)


def _beginning(log: Log, source: Source) -> tuple[Position, Connected]:
    """What the narrow columns of a log say: its position, without the first values of columns, and which keys are connected."""
    survey = surveyed(log)
    epochs, changes = survey.epochs(), survey.changes()
    if log.snapshot_id is None or not any(epoch.is_complete for epoch in epochs):
        raise SnapshotIncomplete(source.contract.name, changes)
    (place,) = survey.places
    position = Position(
        rules=rules_of(source),
        snapshot=log.snapshot_id,
        place=place,
        last_offset=survey.last_offset,
        changes=changes,
        lsn=survey.lsn,
        facts=Facts(epochs=epochs),
    )
    return position, survey.moves.connected()


def surveyed(log: Log) -> Survey:
    """The survey of a log; raises TableMismatch for one of more than one topic partition."""
    survey = Survey(key=log.contract.primary_key)
    columns = [*dict.fromkeys([*survey.key, *NARROW, *PLACE.names])]
    for batch in log.batches(log.files(), columns):
        survey.add(pl.DataFrame(pl.from_arrow(batch)))
    if len(survey.places) > 1:
        problem = f"comes from {len(survey.places)} topic partitions, where one says what came first"
        raise TableMismatch(f"change log of {log.contract.name}", problem, log.table.schema().column_names)
    return survey


def _buckets(rows: int, size: int) -> int:
    return min(MOST_BUCKETS, max(1, -(-rows // BUCKET_ROWS), -(-size // BUCKET_BYTES)))


def merged_parts(spill: "Spill", source: Source, facts: Facts, tally: Tally) -> Iterator[Checked]:
    """The versions of one bucket after the other, checked; `tally` counts them."""
    for records in spill.read():
        found = versions(records, source, facts)
        tally.keys += found.keys
        tally.unresolved += len(found.unresolved)
        yield checked(source.contract, found)


@dataclass(frozen=True, kw_only=True)
class Spill:
    """Records on the local disk, by buckets of their keys; `contract` is that of the rows in the table itself."""

    folder: Path
    buckets: int
    contract: Contract
    connected: Connected

    def write(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, facts: Facts) -> Facts:
        """Puts the records of rows into their buckets, and gives the facts of the log with the first values that stood in them."""
        fields, first = [field.name for field in self.contract.fields], dict(facts.first_values)
        with ExitStack() as stack:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            writers = [stack.enter_context(pa.ipc.new_file(self._path(bucket), schema, options=options)) for bucket in range(self.buckets)]
            for batch in batches:
                records = numbered(pl.DataFrame(pl.from_arrow(batch)), facts.epochs).filter(pl.col(OPERATION) != TRUNCATED)
                first = first_values(records, fields, first)
                self._split(batch, writers)
        return replace(facts, first_values=first)

    def _split(self, batch: pa.RecordBatch, writers: "list[pa.RecordBatchFileWriter]") -> None:
        buckets = (self.connected.group_of(hashes_of(batch, self.contract.primary_key)) % np.uint64(self.buckets)).astype(np.int64)
        order = np.argsort(buckets, kind="stable")
        ordered, ends = batch.take(pa.array(order)), np.searchsorted(buckets[order], np.arange(self.buckets + 1))
        for bucket, (start, end) in enumerate(pairwise(ends.tolist())):
            if start < end:
                writers[bucket].write_batch(ordered.slice(start, end - start))

    def read(self) -> Iterator[pa.Table]:
        """The records of each bucket that has any; its file is gone with it."""
        for bucket in range(self.buckets):
            with pa.OSFile(str(self._path(bucket))) as opened:
                records = pa.ipc.open_file(opened).read_all()
            self._path(bucket).unlink()
            if records.num_rows:
                yield records

    def _path(self, bucket: int) -> Path:
        return self.folder / f"{bucket}.arrow"
