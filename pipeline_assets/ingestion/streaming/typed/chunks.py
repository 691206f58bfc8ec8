"""Landed records on their way to typed rows: chunk after chunk, each small enough for memory and for one commit."""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.ingestion.sources.contracts import BrokenRow
from pipeline_assets.ingestion.sources.quarantine import BrokenRecord
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.landing.offsets import Seen, Spans, minus, union
from pipeline_assets.ingestion.streaming.landing.refetch import Refetch, Refetched
from pipeline_assets.ingestion.streaming.landing.tables import Increment
from pipeline_assets.ingestion.streaming.staged.changes import absent_fields
from pipeline_assets.ingestion.streaming.typed.schema_changes import Signs
from pipeline_assets.ingestion.streaming.typed.table import days_of, typed_events

if TYPE_CHECKING:
    from pyiceberg.table import Table

CHUNK_ROWS, CHUNK_BYTES = 262_144, 64 << 20
REFETCHED_ROWS = 8_192
# Marks of transactions are gaps of one offset each: what lies so near together is fetched in one go.
NEAR = 1_000


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """Some records, in the landing's columns, and offsets that are known to hold none; `is_appended` if no record stood there before."""

    records: pa.Table
    is_appended: bool = False
    is_refetched: bool = False
    holes: Mapping[int, Spans] = field(default_factory=dict)


@dataclass(kw_only=True)
class Tally:
    """What became of records: rows, broken ones by fault, repeats, records of other streams and of no event, in numbers."""

    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    left: int = 0
    skipped: int = 0
    refetched: int = 0
    days: set[date] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)

    def add(self, other: "Tally") -> None:
        """Adds the numbers of another."""
        for name in ("rows", "repeats", "left", "skipped", "refetched"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.broken.update(other.broken)
        self.days |= other.days
        self.fields |= other.fields


@dataclass(kw_only=True)
class Chunk:
    """Records after their check: rows with their places, broken records with theirs, and all offsets seen with them.

    `rows` are the good ones, and of a table's changes also what can be read of those that are broken.
    `absent` names the declared fields that some change of a table lacked, `signs` which records are of another schema.
    """

    seen: Seen
    rows: list[pa.Table] = field(default_factory=list)
    broken: list[BrokenRecord] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    signs: Signs = field(default_factory=Signs)
    absent: set[str] = field(default_factory=set)
    covered: Seen = field(default_factory=Seen)
    records: int = 0
    bytes: int = 0
    is_last: bool = False

    @property
    def is_full(self) -> bool:
        """Whether it should be committed before more is read."""
        return self.records >= CHUNK_ROWS or self.bytes >= CHUNK_BYTES


def arrivals(
    table: "Table", topic: str, increment: Increment, gaps: Mapping[int, Spans], refetch: Refetch, headers: Sequence[str] = ()
) -> Iterator[Arrived]:
    """What fills the gaps first, then the records of an increment, batch after batch, with some of their headers."""
    schema = landing.schema_with(headers)
    for partition, spans in gaps.items():
        for first, end in _near_together(spans):
            yield from _refetched(topic, partition, tuple(span for span in spans if first <= span[0] < end), refetch, headers)
    for file in increment.files:
        for batch in landing.batches(table, file, schema):
            yield Arrived(records=pa.Table.from_batches([batch]), is_appended=file.is_appended)


def chunks(arrived: Iterable[Arrived], reader: RecordReader, seen: Seen) -> Generator[Chunk]:
    """Chunks of the records that were not seen before, in the order of their arrival; at least one, the last of them marked."""
    chunk = Chunk(seen=seen)
    for one in _ahead(arrived):
        if chunk.is_full:
            yield chunk
            chunk = Chunk(seen=chunk.seen)
        _take(chunk, one, reader)
    chunk.is_last = True
    yield chunk


def _ahead(arrived: Iterable[Arrived]) -> Iterator[Arrived]:
    """The same, each read while the one before it is worked on."""
    source = iter(arrived)
    with ThreadPoolExecutor(max_workers=1) as reading:
        coming = reading.submit(next, source, None)
        while (one := coming.result()) is not None:
            coming = reading.submit(next, source, None)
            yield one


def _take(chunk: Chunk, arrived: Arrived, reader: RecordReader) -> None:
    is_fresh = _is_fresh(chunk.seen, arrived.records)
    fresh = arrived.records if is_fresh.all() else arrived.records.filter(pa.array(is_fresh))
    if arrived.is_appended:
        chunk.tally.repeats += arrived.records.num_rows - fresh.num_rows
    chunk.tally.refetched += fresh.num_rows if arrived.is_refetched else 0
    chunk.records += fresh.num_rows
    chunk.bytes += fresh.nbytes
    if fresh.num_rows:
        _check(chunk, fresh, reader)
    for spans in (landing.offsets_in(fresh), arrived.holes):
        chunk.seen, chunk.covered = chunk.seen.with_spans(spans), chunk.covered.with_spans(spans)


def _check(chunk: Chunk, records: pa.Table, reader: RecordReader) -> None:
    found = reader.read(records)
    checked, tally = found.checked, chunk.tally
    chunk.rows += [typed_events(reader.contract, part, records) for part in found.parts]
    broken = broken_records(checked.broken, records, reader)
    chunk.signs.add(checked, records, [one.headers for one in broken])
    chunk.absent |= absent_fields(checked.good)
    chunk.broken += broken
    tally.rows += checked.good.num_rows
    tally.broken.update(row.fault for row in checked.broken)
    tally.left += found.left
    tally.skipped += found.skipped
    tally.days.update(days_of(checked.good.column(reader.contract.event_at)).unique().to_pylist())
    tally.fields |= checked.fields


def broken_records(rows: Sequence[BrokenRow], records: pa.Table, reader: RecordReader) -> list[BrokenRecord]:
    """The broken rows of some records with the places and headers of these."""
    stood = records.take(pa.array([row.position for row in rows], pa.int64()))
    places = stood.select(landing.PLACE).to_pylist()
    return [
        BrokenRecord(
            partition=place[landing.PARTITION],
            offset=place[landing.OFFSET],
            received_at=place[landing.RECEIVED_AT],
            broken=row,
            headers=headers,
        )
        for place, row, headers in zip(places, rows, reader.headers_in(stood), strict=True)
    ]


def _is_fresh(seen: Seen, records: pa.Table) -> np.ndarray:
    """Which records have an offset that was not seen, and that no record before them has."""
    partitions, offsets = records.column(landing.PARTITION).to_numpy(), records.column(landing.OFFSET).to_numpy()
    fresh = np.zeros(len(offsets), dtype=bool)
    for partition in np.unique(partitions):
        own = np.flatnonzero(partitions == partition)
        if not (np.diff(offsets[own]) > 0).all():
            own = own[np.unique(offsets[own], return_index=True)[1]]
        fresh[own] = ~seen.has(int(partition), offsets[own])
    return fresh


def _near_together(spans: Spans) -> Iterator[tuple[int, int]]:
    """The spans with those that are near joined."""
    start, end = spans[0]
    for first, upto in spans[1:]:
        if first - end > NEAR:
            yield start, end
            start = first
        end = upto
    yield start, end


def _refetched(topic: str, partition: int, gap: Spans, refetch: Refetch, headers: Sequence[str]) -> Iterator[Arrived]:
    """The records of the gaps of a partition, then the offsets of those that were not found, as these do not exist."""
    found: Spans = ()
    records = iter(refetch(topic, partition, gap[0][0], gap[-1][1] - 1))
    while waiting := list(islice(records, REFETCHED_ROWS)):
        arrived = _arrived(topic, partition, Seen(partitions={partition: gap}), waiting, headers)
        found = union((*found, *landing.offsets_in(arrived.records).get(partition, ())))
        yield arrived
    yield Arrived(records=landing.SCHEMA.empty_table(), holes={partition: minus(gap, found)})


def _arrived(topic: str, partition: int, missing: Seen, found: list[Refetched], headers: Sequence[str]) -> Arrived:
    rows = [
        {"payload": one.payload, "topic": topic, "partition": partition, "offset": one.offset, "received_at": one.received_at}
        | {names.landed_header(header): one.headers.get(header) for header in headers}
        for one in found
    ]
    table = pa.Table.from_pylist(rows, schema=landing.schema_with(headers))
    return Arrived(records=table.filter(pa.array(missing.has(partition, table.column(landing.OFFSET).to_numpy()))), is_refetched=True)
