"""From landed bytes to typed rows, each exactly once.

An increment of the landing table is surveyed first: the offsets that it holds, with those seen before, must leave no gap. Then it is read
in chunks. Of each chunk the broken records go to quarantine, then the good ones and the position reached become one commit of the typed
table; in the log of a followed table also what can be read of the broken ones. A kill between the two leaves a quarantine that is ahead of
the table; the next run starts from the table and puts the same records in quarantine again, in their own place. Runs of one stream wait for
each other; one that lost its lock without knowing fails to commit.

**Too many broken records.** The contract's share is held against at least `MIN_JUDGED` records: a chunk with fewer is judged together with
those before it, so that one broken record in a quiet hour does not stop the stream, and a trickle of nothing but broken ones does.

**Another schema.** A chunk that ends in records without the contract's fields is not written, see `schema_changes`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import stamina

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.errors import ContractViolation, LakeBusy, SourceChanged
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.forgotten import read_rules
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.landing.losses import accepted, passing_over
from pipeline_assets.ingestion.streaming.landing.offsets import Seen, Spans
from pipeline_assets.ingestion.streaming.landing.refetch import Refetch, refuse
from pipeline_assets.ingestion.streaming.landing.tables import Increment
from pipeline_assets.ingestion.streaming.typed.chunks import Chunk, Tally, arrivals, broken_records, chunks
from pipeline_assets.ingestion.streaming.typed.readers import reader_of
from pipeline_assets.ingestion.streaming.typed.schema_changes import MIN_CHANGED, Look, Signs, look_of, problems
from pipeline_assets.ingestion.streaming.typed.table import Position, append_events, position_of, rows_of, typed_schema, typed_table
from pipeline_assets.spec.sources import RecordStream

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

MIN_JUDGED = 1_000
ATTEMPTS = 5

# Puts the broken records of a chunk in quarantine, in the place of all that is there of its offsets.
Keep = Callable[[Chunk], None]


@dataclass(frozen=True, kw_only=True)
class Typed:
    """What a run made of the records that had landed.

    `rows` and `broken` (by fault) are what became of them; `repeats` counts records that had landed more than once (and, after a killed
    run, those that it had committed of an increment), `left` those of other streams of the topic, `skipped` those that are no events,
    `refetched` those that had not landed and were fetched from the topic. `days` are the UTC days of the new rows. `offsets` has per
    partition the next offset before and after, `gaps` the offsets not seen though later ones were: none after any run that ends well.
    Snapshots are None where nothing was ever written, and the same where nothing changed. `table_rows` counts the whole table.
    `absent_fields` are declared and stood in no record that could be read: of events, optional ones that were left out.
    """

    contract: str
    topic: str
    rows: int
    broken: Mapping[str, int]
    repeats: int
    left: int
    skipped: int
    refetched: int
    days: Sequence[date]
    offsets: Mapping[int, tuple[int, int]]
    gaps: Mapping[int, Spans]
    landing_snapshot: int | None
    snapshot_before: int | None
    snapshot_after: int | None
    commits: int
    table_rows: int
    unknown_fields: Sequence[str]
    absent_fields: Sequence[str]


def type_landed(
    settings: Settings, stream: RecordStream, *, run_id: str, streams: Sequence[RecordStream] = (), refetch: Refetch = refuse
) -> Typed:
    """Types what has landed of a stream's topic since the last time, and gives what became of it.

    streams: all that are declared, from which follows what this one takes of a topic it shares. Raises OffsetsMissing for a gap in the
    offsets that `refetch` cannot fill and whose loss nobody accepted, TableMismatch for landed records without a place, SchemaConflict if
    the typed table cannot follow the contract (nothing is written then); ContractViolation for a chunk with too many broken records,
    SourceChanged for one from which on fields are gone or of another type, SourceUnavailable or SourceRefused for one whose schema the
    registry did not return: then neither it is written nor what comes after it; LakeBusy if other writers always came first.
    """
    quarantine.create(settings)
    contract = stream.contract
    with (
        closing(warehouse(settings)) as connection,
        quarantine.locked(connection, contract.name, names.STREAM),
        catalog(settings) as lake,
    ):
        connection.autocommit = True

        def keep(chunk: Chunk) -> None:
            covered = [(number, *span) for number, spans in chunk.covered.partitions.items() for span in spans]
            quarantine.replace_records(connection, contract.name, stream.topic, covered, chunk.broken, run_id)

        reader = reader_of(settings, lake, stream, streams, read_rules(connection, contract.name))
        refetch = passing_over(refetch, accepted(connection, stream.topic))
        return type_into(lake, stream, reader, keep, refetch, run_id=run_id, look=look_of(settings, stream))


def type_into(
    lake: "Catalog", stream: RecordStream, reader: RecordReader, keep: Keep, refetch: Refetch, *, run_id: str, look: Look | None = None
) -> Typed:
    """As `type_landed`, with a catalog and a reader at hand, a function that keeps the broken records of a chunk, and a look at the source.

    Without a look its newest records decide whether the source has changed.
    """
    from pyiceberg.exceptions import CommitFailedException

    table = typed_table(lake, stream.contract)
    run = _Run(lake=lake, table=table, stream=stream, reader=reader, keep=keep, refetch=refetch, run_id=run_id, look=look)
    before, began = position_of(table), table.current_snapshot()
    try:
        for attempt in stamina.retry_context(on=CommitFailedException, attempts=ATTEMPTS, wait_initial=0.05, wait_max=2.0, wait_jitter=0.1):
            with attempt:
                run.once()
    except CommitFailedException as error:
        raise LakeBusy(".".join(table.name()), str(error)) from error
    return run.typed(before, None if began is None else began.snapshot_id)


@dataclass(kw_only=True)
class _Run:
    """One run over what has landed, and what it has committed so far."""

    lake: "Catalog"
    table: "Table"
    stream: RecordStream
    reader: RecordReader
    keep: Keep
    refetch: Refetch
    run_id: str
    look: Look | None
    tally: Tally = field(default_factory=Tally)
    commits: int = 0

    def once(self) -> None:
        """Types the increment from where the table stands now."""
        position = position_of(self.table.refresh())
        landed = landing.ensure_landing_table(self.lake, self.stream.topic, self.reader.headers)
        found = landing.increment(landed, position.landing_snapshot, position.seen)
        if found.snapshot_id == position.landing_snapshot:
            return
        gaps = self._gaps(landed, found, position.seen)
        arrived = arrivals(landed, self.stream.topic, found, gaps, self.refetch, self.reader.headers)
        for chunk in chunks(arrived, self.reader, position.seen):
            chunk.signs.before = position.changed
            self._hold_against_source(chunk, landed, found)
            position = self._commit(chunk, position, found.snapshot_id)

    def _gaps(self, landed: "Table", found: Increment, seen: Seen) -> Mapping[int, Spans]:
        for file in found.files:
            seen = seen.with_spans(landing.offsets_of(landed, self.stream.topic, file))
        return seen.gaps

    def _hold_against_source(self, chunk: Chunk, landed: "Table", found: Increment) -> None:
        """Raises SourceChanged where the chunk comes from a source that has another schema, and has it still."""
        if self.look is not None:
            if chunk.absent or chunk.signs.found:
                self.look()
        elif chunk.signs.in_a_row >= MIN_CHANGED and not self._is_mended(landed, found):
            changed = problems(self.stream.contract, self.stream.topic, chunk.signs, self.reader.value_of)
            raise SourceChanged(self.stream.contract.name, changed)

    def _is_mended(self, landed: "Table", found: Increment) -> bool:
        """Whether the newest record of an increment is in order."""
        signs, schema = Signs(before=1), landing.schema_with(self.reader.headers)
        for file in found.files:
            for batch in landing.batches(landed, file, schema):
                records = pa.Table.from_batches([batch])
                checked = self.reader.read(records).checked
                broken = broken_records(checked.broken, records, self.reader)
                signs.add(checked, records, [one.headers for one in broken])
        return signs.in_a_row == 0

    def _commit(self, chunk: Chunk, position: Position, landing_snapshot: int | None) -> Position:
        reached = Position(
            landing_snapshot=landing_snapshot if chunk.is_last else position.landing_snapshot,
            seen=chunk.seen,
            unjudged=self._judge(chunk, position.unjudged),
            changed=chunk.signs.in_a_row,
        )
        self.keep(chunk)
        rows = pa.concat_tables(chunk.rows) if chunk.rows else typed_schema(self.stream.contract).empty_table()
        append_events(self.table, rows, reached, run_id=self.run_id)
        self.tally.add(chunk.tally)
        self.commits += 1
        return reached

    def _judge(self, chunk: Chunk, unjudged: tuple[int, int]) -> tuple[int, int]:
        """The records that are too few yet to be judged; raises ContractViolation where too many are broken."""
        contract, tally = self.stream.contract, chunk.tally
        # Those of a schema that is mended by now are no fault of the records that are there now.
        own = tally.broken.total() - chunk.signs.in_long_rows
        broken = unjudged[1] + own
        rows = unjudged[0] + tally.rows + own
        if rows < MIN_JUDGED:
            return rows, broken
        if broken <= contract.broken_share * rows:
            return 0, 0
        raise ContractViolation(
            contract=contract.name, partition=names.STREAM, broken=broken, rows=rows, share=contract.broken_share, reasons=tally.broken
        )

    def typed(self, before: Position, snapshot_before: int | None) -> Typed:
        """What was committed, beside where the table stood before."""
        tally, after, newest = self.tally, position_of(self.table), self.table.current_snapshot()
        start, contract = before.seen.next_offsets, self.stream.contract
        return Typed(
            contract=contract.name,
            topic=self.stream.topic,
            rows=tally.rows,
            broken=dict(tally.broken.most_common()),
            repeats=tally.repeats,
            left=tally.left,
            skipped=tally.skipped,
            refetched=tally.refetched,
            days=sorted(tally.days),
            offsets={number: (start.get(number, 0), end) for number, end in after.seen.next_offsets.items()},
            gaps=after.seen.gaps,
            landing_snapshot=after.landing_snapshot,
            snapshot_before=snapshot_before,
            snapshot_after=None if newest is None else newest.snapshot_id,
            commits=self.commits,
            table_rows=rows_of(self.table),
            unknown_fields=sorted(tally.fields - {one.name for one in contract.fields}),
            absent_fields=sorted({one.name for one in contract.fields} - tally.fields) if tally.fields else (),
        )
