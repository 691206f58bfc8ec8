"""Landed records on their way to typed rows: chunk after chunk, each small enough for memory and for one commit."""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline_assets.ingestion.sources.quarantine import BrokenRecord
from pipeline_assets.ingestion.streaming import landing
from pipeline_assets.ingestion.streaming.landing import Increment
from pipeline_assets.ingestion.streaming.offsets import Seen, Spans, minus, union
from pipeline_assets.ingestion.streaming.records import RecordReader
from pipeline_assets.ingestion.streaming.refetch import Refetch, Refetched
from pipeline_assets.ingestion.streaming.typed_table import days_of, typed_events

if TYPE_CHECKING:
    from pyiceberg.table import Table

CHUNK_ROWS, CHUNK_BYTES = 262_144, 64 << 20
REFETCHED_ROWS = 8_192
# Marks of transactions are gaps of one offset each: what lies so near together is fetched in one go.
NEAR = 1_000


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """Some records, in the landing's columns, and offsets that are known to hold none; `is_landed_anew` if no record stood there before."""

    records: pa.Table
    is_landed_anew: bool = False
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
    """Records after their check: good rows with their places, broken ones with theirs, and all offsets seen with them."""

    seen: Seen
    rows: list[pa.Table] = field(default_factory=list)
    broken: list[BrokenRecord] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    covered: Seen = field(default_factory=Seen)
    records: int = 0
    bytes: int = 0
    is_last: bool = False

    @property
    def is_full(self) -> bool:
        """Whether it should be committed before more is read."""
        return self.records >= CHUNK_ROWS or self.bytes >= CHUNK_BYTES


def arrivals(table: "Table", topic: str, increment: Increment, gaps: Mapping[int, Spans], refetch: Refetch) -> Iterator[Arrived]:
    """What fills the gaps first, then the records of an increment, batch after batch."""
    for partition, spans in gaps.items():
        for first, end in _near_together(spans):
            yield from _refetched(topic, partition, tuple(span for span in spans if first <= span[0] < end), refetch)
    for file in increment.files:
        for batch in landing.batches(table, file):
            yield Arrived(records=pa.Table.from_batches([batch]), is_landed_anew=file.is_appended)


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
    if arrived.is_landed_anew:
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
    chunk.rows.append(typed_events(reader.contract, checked, records))
    places = records.select(landing.PLACE)
    stood = places.take(pa.array([row.position for row in checked.broken], pa.int64())).to_pylist()
    chunk.broken += [
        BrokenRecord(partition=place[landing.PARTITION], offset=place[landing.OFFSET], received_at=place[landing.RECEIVED_AT], broken=row)
        for place, row in zip(stood, checked.broken, strict=True)
    ]
    tally.rows += checked.good.num_rows
    tally.broken.update(row.fault for row in checked.broken)
    tally.left += found.left
    tally.skipped += found.skipped
    tally.days.update(days_of(checked.good.column(reader.contract.event_at)).unique().to_pylist())
    tally.fields |= checked.fields


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


def _refetched(topic: str, partition: int, gap: Spans, refetch: Refetch) -> Iterator[Arrived]:
    """The records of the gaps of a partition, then the offsets of those that were not found, as these do not exist."""
    found: Spans = ()
    records = iter(refetch(topic, partition, gap[0][0], gap[-1][1] - 1))
    while waiting := list(islice(records, REFETCHED_ROWS)):
        arrived = _arrived(topic, partition, Seen(partitions={partition: gap}), waiting)
        found = union((*found, *landing.offsets_in(arrived.records).get(partition, ())))
        yield arrived
    yield Arrived(records=landing.SCHEMA.empty_table(), holes={partition: minus(gap, found)})


def _arrived(topic: str, partition: int, missing: Seen, found: list[Refetched]) -> Arrived:
    rows = [
        {"payload": one.payload, "topic": topic, "partition": partition, "offset": one.offset, "received_at": one.received_at}
        for one in found
    ]
    table = pa.Table.from_pylist(rows, schema=landing.SCHEMA)
    return Arrived(records=table.filter(pa.array(missing.has(partition, table.column(landing.OFFSET).to_numpy()))), is_refetched=True)
