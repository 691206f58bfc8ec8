"""Both ends compared: whether anything was lost or duplicated between a source and the lake.

Two questions. Of a table that is followed by its changes: does each key stand in the merged rows with the values that it has in the
source, both as of one instant, and is each that breaks the contract there in quarantine here, and no row? Of a topic: is each record, from
the low to the high watermark, in the typed table or in quarantine, and in one of them only, once? But for `read_table` the functions
compare what they are given, and read nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.settings import Settings
from pipeline_assets.core.stream_errors import SnapshotIncomplete
from pipeline_assets.ingestion.batch.postgres import TableSnapshot, open_table
from pipeline_assets.ingestion.sources.contracts import Checked, arrow_schema, check_batch
from pipeline_assets.ingestion.sources.forgotten import forgotten_of
from pipeline_assets.ingestion.sources.json_objects import json_object
from pipeline_assets.ingestion.sources.text_columns import from_values
from pipeline_assets.ingestion.streaming.staged.change_log import LSN, TRANSACTION
from pipeline_assets.ingestion.streaming.staged.changes import Merged, merge
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import PostgresTable

Key = tuple[object, ...]
Place = tuple[str, int]
# Offsets from the first to before the second.
Span = tuple[int, int]
DIGEST = "_digest"
# Whether a key is good or broken, null where it is not at all: in the source, and in the lake.
THERE, HERE = pl.col("_there"), pl.col("_here")
DIFFERENCES = {
    "missing": THERE.is_not_null() & HERE.is_null(),
    "extra": THERE.is_null() & (HERE == "good"),
    "different": pl.col(DIGEST) != pl.col(f"{DIGEST}_lake"),
    "held_back": (THERE == "good") & (HERE == "broken"),
    "standing": (THERE == "broken") & (HERE == "good"),
}
# The LSN up to which the log is made, not only written out: a commit that waits for no disk is seen before its record is there.
INSTANT = """
    select (pg_current_wal_insert_lsn() - '0/0')::bigint, pg_snapshot_xmax(seen)::text::bigint,
        array(select open_id::text::bigint from pg_snapshot_xip(seen) as open_id)
    from pg_current_snapshot() as seen
"""
SHOWN = 20
# Transactions that began between the snapshot and the reading of the LSN have ids from its xmax on.
YOUNGER = 1 << 20
XID = 1 << 32


@dataclass(frozen=True, kw_only=True)
class Instant:
    """A moment of a source database: its LSN, and the transactions that were not finished then.

    `open_ids` are those that ran, `next_id` is the first that had not begun; as 32-bit ids, which the change log has too.
    """

    lsn: int
    next_id: int
    open_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class TableReading:
    """A source table at an instant: a digest a row by key of those that keep the contract, and the keys of those that do not."""

    instant: Instant
    digests: pl.DataFrame
    broken: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How merged rows differ from their source, as numbers of keys and up to `SHOWN` of them; `compared` keys are in either.

    `missing` are in the source only, `extra` in the lake only, `different` in both with other values. `held_back` keep the contract in the
    source and are in quarantine here; `standing` break it in the source and are no less rows here. `quarantined` counts the keys that are
    broken on both sides, which is as it should be.
    """

    compared: int
    missing: Sequence[Key]
    extra: Sequence[Key]
    different: Sequence[Key]
    held_back: Sequence[Key]
    standing: Sequence[Key]
    counts: Mapping[str, int]
    quarantined: int

    @property
    def is_none(self) -> bool:
        """Whether both are the same."""
        return not any(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class OffsetAudit:
    """The records of topic partitions: those that are nowhere (`lost`) and those that are there more than once (`doubled`), as spans.

    `records` counts the distinct ones that were found between the watermarks; `absent` the offsets that hold no record, such as the marks
    of transactions. `beyond` are offsets that were read and that the topic has not given out: it was deleted and created again.
    """

    records: int = 0
    absent: int = 0
    lost: Mapping[Place, Sequence[Span]] = field(default_factory=dict)
    doubled: Mapping[Place, Sequence[Span]] = field(default_factory=dict)
    beyond: Mapping[Place, Sequence[Span]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every record is there, once."""
        return not self.lost and not self.doubled and not self.beyond


def read_table(settings: Settings, contract: Contract, origin: PostgresTable) -> TableReading:
    """A source table at one instant, and that instant.

    The rows and the list of open transactions come from one snapshot of the database; the LSN is read after it, so that whatever the
    snapshot shows has a smaller one. Keys that are forgotten are left out. Raises as `open_table`.
    """
    with open_table(settings, contract, origin) as table:
        instant = _instant(table)
        with table.reader() as read:
            forgotten = forgotten_of(settings, contract.name)
            parts = list(map(forgotten.without, read(None)))
    good = [digests(contract, part.good) for part in parts]
    empty = digests(contract, arrow_schema(contract).empty_table())
    return TableReading(instant=instant, digests=pl.concat([empty, *good]), broken=_broken_keys(contract, parts))


def _instant(table: TableSnapshot) -> Instant:
    import psycopg
    from psycopg import sql

    from pipeline_assets.core.postgres import open_session

    with closing(open_session(table.place)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(table.snapshot)))
        ((lsn, next_id, open_ids),) = connection.execute(INSTANT).fetchall()
    return Instant(lsn=lsn, next_id=next_id % XID, open_ids=frozenset(each % XID for each in open_ids))


def seen_at(log: pa.Table, instant: Instant) -> pa.Table:
    """The changes of a log that the source showed at an instant.

    Those with a smaller LSN, but for the ones of transactions that had not committed: an LSN is given when a row is written. A log without
    ids of transactions is cut by LSN alone, which is exact where none was open.
    """
    shown = log.filter(pc.less_equal(log[LSN], instant.lsn))
    if TRANSACTION not in shown.column_names:
        return shown
    ids = shown[TRANSACTION].to_numpy(zero_copy_only=False).astype(float)
    numbers = np.where(np.isnan(ids), -1, ids).astype(np.int64)
    is_open = np.isin(numbers, list(instant.open_ids))
    is_younger = (numbers >= 0) & ((numbers - instant.next_id) % XID < YOUNGER)
    return shown.filter(pa.array(~(is_open | is_younger)))


def digests(contract: Contract, rows: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    """The key of each row and a digest of all its fields; equal within one process for equal rows in the contract's types."""
    frame = pl.DataFrame(pl.from_arrow(rows.select([each.name for each in contract.fields])))
    # -0.0 and 0.0 are one number.
    numbers = [each.name for each in contract.fields if each.type == "number"]
    return frame.select(*contract.primary_key, frame.with_columns(pl.col(numbers) + 0.0).hash_rows(seed=0).alias(DIGEST))


def compare(contract: Contract, source: TableReading, log: pa.Table) -> Difference:
    """How the rows that a change log leaves, held against the contract, differ from a reading of their source, as of the reading.

    The log must have been read after the table, and hold all changes up to the reading's LSN. Raises SnapshotIncomplete while
    it does not hold all of the table.
    """
    merged = merge(seen_at(log, source.instant), contract)
    if not merged.is_complete:
        raise SnapshotIncomplete(contract.name, merged.changes)
    good, broken = _standing(contract, merged)
    return difference(contract, source, good, broken)


def _standing(contract: Contract, merged: Merged) -> tuple[pa.RecordBatch, pl.DataFrame]:
    """The merged rows that keep the contract, and the keys of all others: of broken rows, broken changes and values that are lost."""
    key = list(contract.primary_key)
    (batch,) = merged.rows.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], merged.rows.schema)]
    is_good = np.zeros(batch.num_rows, dtype=bool)
    is_good[check_batch(contract, batch, first_position=0).positions] = True
    is_good[[row for row, _ in merged.unresolved]] = False
    others = pl.DataFrame(pl.from_arrow(batch.select(key))).filter(pl.Series(~is_good)).drop_nulls()
    return batch.filter(pa.array(is_good)), pl.concat([others, merged.broken])


def difference(
    contract: Contract, source: TableReading, merged: pa.Table | pa.RecordBatch, broken: pl.DataFrame | None = None
) -> Difference:
    """How merged rows differ from a reading of their source, both as of one instant; `broken` are the keys in quarantine (None: none)."""
    key = list(contract.primary_key)
    sides = [
        source.digests.with_columns(_there=pl.lit("good")),
        source.broken.unique().with_columns(_there=pl.lit("broken")).join(source.digests, on=key, how="anti", nulls_equal=True),
    ]
    held = source.broken.clear() if broken is None else broken
    ours = [digests(contract, merged).with_columns(_here=pl.lit("good")), held.unique().with_columns(_here=pl.lit("broken"))]
    there, here = pl.concat(sides, how="diagonal"), pl.concat(ours, how="diagonal")
    both = there.join(here, on=key, how="full", suffix="_lake", coalesce=True, nulls_equal=True).sort(key)
    found = {name: both.filter(is_so.fill_null(value=False)).select(key) for name, is_so in DIFFERENCES.items()}
    shown = {name: tuple(keys.head(SHOWN).rows()) for name, keys in found.items()}
    counts = {name: keys.height for name, keys in found.items()}
    quarantined = both.filter((THERE == "broken") & (HERE == "broken")).height
    return Difference(compared=both.height, **shown, counts=counts, quarantined=quarantined)


def _broken_keys(contract: Contract, parts: Sequence[Checked]) -> pl.DataFrame:
    """The keys of the rows that break their contract in the source; one without a whole key is none."""
    originals = [json_object(row.original) for part in parts for row in part.broken]
    fields = [field for field in contract.fields if field.name in contract.primary_key]
    keys = {field.name: from_values(field, [row.get(field.name) for row in originals])[0] for field in fields}
    return pl.DataFrame(pl.from_arrow(pa.table(keys))).select(contract.primary_key).drop_nulls()


def audit_offsets(
    watermarks: Mapping[Place, Span],
    found: Iterable[tuple[Place, np.ndarray]],
    holding: Callable[[Place, Sequence[Span]], Sequence[Span]] | None = None,
) -> OffsetAudit:
    """Which records of topics are lost and which doubled.

    watermarks: the first and the next offset of each partition. found: offsets that stand in the typed tables or in quarantine, in parts of
    any size and order, repeats included. holding: of spans that nobody has, those that do hold a record, as the broker says (None: all
    do). Offsets outside the watermarks, which the topic no longer or not yet has, are looked at for repeats only.
    """
    parts: dict[Place, list[np.ndarray]] = {}
    for place, offsets in found:
        parts.setdefault(place, []).append(np.asarray(offsets, dtype=np.int64))
    records, absent, lost, doubled = 0, 0, dict[Place, Sequence[Span]](), dict[Place, Sequence[Span]]()
    for place in sorted({*watermarks, *parts}):
        together = np.sort(np.concatenate(parts.get(place, [np.empty(0, np.int64)])))
        repeats = np.unique(together[1:][together[1:] == together[:-1]])
        if repeats.size:
            doubled[place] = spans(repeats)
        low, high = watermarks.get(place, (0, 0))
        there = np.unique(together[(together >= low) & (together < high)])
        records += there.size
        holes = _holes(there, low, high)
        missing = list(holes if holding is None or not holes else holding(place, holes))
        absent += size(holes) - size(missing)
        if missing:
            lost[place] = missing
    return OffsetAudit(records=int(records), absent=absent, lost=lost, doubled=doubled)


def spans(offsets: np.ndarray) -> list[Span]:
    """Sorted, distinct offsets as spans."""
    if not offsets.size:
        return []
    cuts = np.flatnonzero(np.diff(offsets) > 1)
    starts, ends = offsets[np.concatenate(([0], cuts + 1))], offsets[np.concatenate((cuts, [offsets.size - 1]))]
    return [(int(start), int(end) + 1) for start, end in zip(starts, ends, strict=True)]


def _holes(there: np.ndarray, low: int, high: int) -> list[Span]:
    """The spans from low to before high that sorted, distinct offsets leave out."""
    edges = np.concatenate(([low - 1], there, [high]))
    gaps = np.flatnonzero(np.diff(edges) > 1)
    return [(int(edges[gap]) + 1, int(edges[gap + 1])) for gap in gaps]


def size(found: Iterable[Span]) -> int:
    """How many offsets spans that do not overlap hold."""
    return sum(end - start for start, end in found)


def offsets_of(batches: Iterable[pa.RecordBatch], topic: str, partition: str, offset: str) -> Iterator[tuple[Place, np.ndarray]]:
    """The offsets in batches of a table whose columns have these names, by topic and partition."""
    for batch in batches:
        frame = pl.DataFrame(pl.from_arrow(batch.select([topic, partition, offset])))
        for (name, number), part in frame.partition_by([topic, partition], as_dict=True).items():
            yield (str(name), int(number)), part[offset].to_numpy()
