"""A partition while it is written: rows go in as they are read, files come out, and of rows that are the same version one stays.

Memory is bounded by one file and by twelve bytes a row of the partition: the hash of its version and its position. Only where two hashes
are equal are the versions themselves compared, in the files already written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core.arrow import columns_in
from pipeline_assets.core.versions import version_key, versioned
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked, arrow_schema
from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.partitions import StagedFile
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# A file is closed when it has grown to this; it is held in memory until it is uploaded.
FILE_BYTES = 16_000_000
# Batches of a reader are smaller than what Parquet compresses and reads well.
ROW_GROUP_ROWS = 65_536
POSITION, SEGMENT, ROW, IS_SAME = "__position", "__segment", "__row", "__is_same"


@dataclass(kw_only=True)
class _Segment:
    """One file: still open, closed in memory, or uploaded."""

    sink: pa.BufferOutputStream
    writer: pq.ParquetWriter
    waiting: list[pa.RecordBatch] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    rows: int = 0
    content: pa.Buffer | None = None
    staged: StagedFile | None = None


class Draft:
    """The rows of one partition on their way to its files; nothing of it is visible."""

    def __init__(self, client: "S3Client", bucket: str, contract: Contract, partition: str, *, file_bytes: int = FILE_BYTES) -> None:
        self._client, self._bucket = client, bucket
        self._contract, self.partition = versioned(contract), partition
        self._file_bytes = file_bytes
        self._segments: list[_Segment] = []
        self._originals: dict[int, bytes] = {}

    @property
    def rows(self) -> int:
        """How many rows the draft holds."""
        return sum(segment.rows for segment in self._segments)

    def add(self, checked: Checked) -> None:
        """Adds the good rows of a checked part; without the time of a deletion none of them was deleted."""
        if not checked.good.num_rows:
            return
        good = _as_versions(self._contract, checked.good)
        segment = self._open_segment(good)
        segment.waiting.append(good)
        segment.hashes.append(version_hashes(self._contract, good))
        segment.positions.append(checked.positions.astype(np.uint32))
        segment.rows += checked.good.num_rows
        if checked.originals is not None:
            self._originals.update(zip(checked.positions.tolist(), checked.originals, strict=True))
        if sum(batch.num_rows for batch in segment.waiting) >= ROW_GROUP_ROWS:
            _flush(segment)
        if segment.sink.tell() > self._file_bytes:
            segment.staged, segment.content = self._put(segment), None

    def drop_repeats(self) -> list[BrokenRow]:
        """Leaves one row a version, the one that stands last; gives back those of the others that are not the same in all fields."""
        suspects = self._suspects()
        if not suspects:
            return []
        losers = _losers(self._contract, pa.concat_tables(suspects))
        for (number,), part in losers.partition_by(SEGMENT, as_dict=True).items():
            self._rewrite(self._segments[number], part[ROW].to_numpy())
        other = losers.filter(~pl.col(IS_SAME)).drop(SEGMENT, ROW, IS_SAME)
        version, where = ", ".join(version_key(self._contract)), other[POSITION].to_list()
        return [
            BrokenRow(position=position, field=version, reason="repeated version", original=self._original(row, position))
            for row, position in zip(other.drop(POSITION).to_dicts(), where, strict=True)
        ]

    def hashes(self) -> np.ndarray:
        """The hashes of all versions that were added, as `version_hashes` makes them; in no order."""
        return np.concatenate([part for segment in self._segments for part in segment.hashes] or [np.empty(0, np.uint64)])

    def rows_of(self, keys: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """These columns of the rows that have one of some keys, read from the draft."""
        parts = [self._read(segment) for segment in self._segments if segment.rows] or [arrow_schema(self._contract).empty_table()]
        frames = (pl.DataFrame(pl.from_arrow(part.select(columns))) for part in parts)
        return pl.concat([frame.join(keys, on=keys.columns, how="semi") for frame in frames])

    def take(self, versions: pl.DataFrame) -> None:
        """Takes the rows of some versions out of the draft, whose repeats were dropped."""
        for segment in self._segments if versions.height else ():
            if segment.rows:
                rows = pl.DataFrame(pl.from_arrow(self._read(segment).select(versions.columns))).with_row_index(ROW)
                taken = rows.join(versions, on=versions.columns, how="semi")[ROW].to_numpy()
                if taken.size:
                    self._rewrite(segment, taken)

    def upload(self) -> list[StagedFile]:
        """The files of the draft, all on the object store."""
        for segment in self._segments:
            if segment.rows and segment.staged is None:
                segment.staged = self._put(segment)
        return [segment.staged for segment in self._segments if segment.staged is not None]

    def _open_segment(self, sample: pa.RecordBatch) -> _Segment:
        if not self._segments or not self._segments[-1].writer.is_open:
            self._segments.append(_segment(sample))
        return self._segments[-1]

    def _put(self, segment: _Segment) -> StagedFile:
        return staging.put_file(self._client, self._bucket, self._contract.name, self.partition, _close(segment), segment.rows)

    def _suspects(self) -> list[pa.Table]:
        """All rows whose hash stands more than once, with segment, row and position."""
        repeated = _repeated(self.hashes())
        if not repeated.size:
            return []
        own = [np.concatenate(segment.hashes) for segment in self._segments]
        return [self._rows(number, np.flatnonzero(np.isin(hashes, repeated))) for number, hashes in enumerate(own)]

    def _rows(self, number: int, rows: np.ndarray) -> pa.Table:
        segment = self._segments[number]
        found = self._read(segment).take(pa.array(rows)) if rows.size else arrow_schema(self._contract).empty_table()
        added = {POSITION: np.concatenate(segment.positions)[rows], SEGMENT: np.full(rows.size, number), ROW: rows}
        for name, values in added.items():
            found = found.append_column(name, pa.array(values.astype(np.int64)))
        return found

    def _rewrite(self, segment: _Segment, dropped: np.ndarray) -> None:
        kept = np.ones(segment.rows, dtype=bool)
        kept[dropped] = False
        table = self._read(segment).filter(pa.array(kept)).combine_chunks()
        segment.content, segment.staged, segment.rows = None, None, table.num_rows
        if table.num_rows:
            segment.sink = pa.BufferOutputStream()
            segment.writer = staging.parquet_writer(segment.sink, table.to_batches()[0])
            segment.writer.write_table(table)

    def _read(self, segment: _Segment) -> pa.Table:
        _close(segment)
        content = segment.content
        if content is None and segment.staged is not None:
            content = staging.read_file(self._client, self._bucket, segment.staged)
        return pq.read_table(pa.BufferReader(content)).cast(arrow_schema(self._contract))

    def _original(self, row: Mapping[str, object], position: int) -> bytes:
        return self._originals[position] if position in self._originals else json_bytes(row)


def _segment(sample: pa.RecordBatch) -> _Segment:
    sink = pa.BufferOutputStream()
    return _Segment(sink=sink, writer=staging.parquet_writer(sink, sample))


def _flush(segment: _Segment) -> None:
    """Writes the batches that wait as one row group."""
    if segment.waiting:
        segment.writer.write_table(pa.Table.from_batches(segment.waiting))
        segment.waiting.clear()


def _close(segment: _Segment) -> pa.Buffer:
    if segment.writer.is_open:
        _flush(segment)
        segment.writer.close()
        segment.content = segment.sink.getvalue()
    return segment.content


def version_hashes(contract: Contract, rows: pa.RecordBatch) -> np.ndarray:
    """A hash of the version that each row is."""
    return pl.DataFrame(pl.from_arrow(rows.select(list(version_key(contract))))).hash_rows(seed=0).to_numpy()


def is_in(ordered: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Which of the asked are among some sorted values."""
    places = np.minimum(np.searchsorted(ordered, asked), max(len(ordered) - 1, 0))
    return ordered[places] == asked if len(ordered) else np.zeros(len(asked), dtype=bool)


def _as_versions(contract: Contract, rows: pa.RecordBatch) -> pa.RecordBatch:
    schema = arrow_schema(contract)
    return pa.RecordBatch.from_arrays(columns_in(rows, schema), schema=schema)


def _repeated(hashes: np.ndarray) -> np.ndarray:
    """The hashes that stand more than once, sorted."""
    together = np.sort(hashes)
    return np.unique(together[1:][together[1:] == together[:-1]])


def _losers(contract: Contract, suspects: pa.Table) -> pl.DataFrame:
    """All rows of each version but the one that stands last, and whether they are the same as that in all fields."""
    fields, version = [field.name for field in contract.fields], version_key(contract)
    last_first = pl.DataFrame(pl.from_arrow(suspects)).sort(POSITION, descending=True)
    is_same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).first().over(version)) for name in fields)
    judged = last_first.with_columns(is_same.alias(IS_SAME))
    return judged.filter(pl.struct(version).is_first_distinct().not_()).sort(POSITION)
