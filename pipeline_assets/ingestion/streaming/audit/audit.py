"""The audit: a followed table against its change log, and a topic against the rows and the quarantine that it became.

Nothing is written, and what it reads it reads for itself: rows, records and offsets, not the positions that the typed step keeps. Those
only say how far the lake has come, since records in flight are not lost.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.errors import SourceUnavailable, TransientError, in_words
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.stream_errors import TransactionOpen
from pipeline_assets.core.versions import in_table
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.forgotten import forgotten_of
from pipeline_assets.ingestion.streaming.audit.compare import (
    Difference,
    OffsetAudit,
    Place,
    Span,
    TableReading,
    audit_offsets,
    compare,
    offsets_of,
    read_table,
    size,
    spans,
)
from pipeline_assets.ingestion.streaming.capture.connectors import obstacles_of
from pipeline_assets.ingestion.streaming.capture.replication import confirmed_lsn
from pipeline_assets.ingestion.streaming.capture.topics import topic_names, watermarks
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader, share_of
from pipeline_assets.ingestion.streaming.decoding.schema_registry import schemas_of
from pipeline_assets.ingestion.streaming.landing.losses import accepted_of, passing_over
from pipeline_assets.ingestion.streaming.landing.refetch import Refetched, refetch_from
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.staged.log import open_log
from pipeline_assets.ingestion.streaming.streams import broken_field, change_log, followed, followed_table, record_streams
from pipeline_assets.ingestion.streaming.typed.table import OFFSET, PARTITION, TOPIC, position_of
from pipeline_assets.spec.sources import RecordStream, Source

if TYPE_CHECKING:
    import psycopg
    from pyiceberg.catalog import Catalog

PATIENCE_SECONDS, LOOK_SECONDS = 120.0, 1.0
FEW = 1_000
# Offsets that hold a whole heartbeat: a record and the mark of its transaction, and before it the mark of the last.
BEAT = 3
SHOWN = 5
Found = TypeVar("Found")
# Called between two looks at something that has not come far enough yet.
Meanwhile = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the audit found of a topic or a table, by the asset that it is about.

    `compared` counts what was looked at, in `unit`; `problems` names what is lost, duplicated or different, and is empty where nothing is.
    `in_quarantine` counts the keys of a table that break the contract in the source and are in quarantine here. `accepted` says which
    records of a topic were lost, as somebody has accepted.
    """

    subject: str
    asset: names.AssetName
    compared: int
    unit: Literal["records", "keys"]
    problems: Sequence[str]
    in_quarantine: int = 0
    accepted: Sequence[str] = ()


def pause() -> None:
    """Lets a moment pass for landing and typing."""
    Event().wait(LOOK_SECONDS)


def verify(
    settings: Settings, project: Project, asked: Collection[names.AssetName] | None = None, meanwhile: Meanwhile = pause
) -> Iterator[Verdict]:
    """Audits the topics and followed tables whose assets are asked for (None: all); `meanwhile` lets landing and typing proceed.

    The tables are read first: while the topics are audited, what the tables showed is emitted and typed. A table that cannot be followed is
    not read. What hinders the audit of one of them is a problem of that one, and the others are audited. What may pass is none: the first
    TransientError is raised, once the others have their verdicts; where no broker answers it is raised at once.
    """
    passing = list[TransientError]()
    for found in _found(settings, project, asked, meanwhile):
        if isinstance(found, TransientError):
            passing.append(found)
        else:
            yield found
    for error in passing:
        raise error


def _found(
    settings: Settings, project: Project, asked: Collection[names.AssetName] | None, meanwhile: Meanwhile
) -> Iterator[Verdict | TransientError]:
    # Where no broker answers each topic and each table would wait for itself, for minutes in all.
    topic_names(settings)
    streams, refused = record_streams(project), obstacles_of(settings, project)
    own = [source for source in followed(project) if asked is None or _log_asset(source) in asked]
    readings = [
        (source, _alone(_verdict(source), partial(_read, settings, source))) for source in own if followed_table(source) not in refused
    ]
    for topic in dict.fromkeys(stream.topic for stream in streams):
        if asked is None or names.topic(topic) in asked:
            yield _alone(_topic_verdict(topic), partial(verify_topic, settings, streams, topic, meanwhile))
    for source, reading in readings:
        if isinstance(reading, Verdict | TransientError):
            yield reading
        else:
            yield _alone(_verdict(source), partial(verify_table, settings, source, reading, meanwhile))
    for source in own:
        if followed_table(source) in refused:
            yield _verdict(source, [str(one) for one in refused[followed_table(source)]])


def _alone(verdict: Verdict, look: Callable[[], Found]) -> Found | Verdict | TransientError:
    """What a look finds; whatever ends it is the problem of this topic or table, and of no other, unless it may pass."""
    try:
        return look()
    except TransientError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one topic that cannot be audited must not leave the others without a verdict
        return replace(verdict, problems=[*verdict.problems, f"not audited: {in_words(error)}"])


def _log_asset(source: Source) -> names.AssetName:
    return names.typed(change_log(source).contract.name)


def _read(settings: Settings, source: Source) -> TableReading:
    return read_table(settings, in_table(source), followed_table(source))


def verify_topic(settings: Settings, streams: Sequence[RecordStream], topic: str, meanwhile: Meanwhile = pause) -> Verdict:
    """What the audit finds of a topic, once the records that it has now are typed, or have not been for some minutes."""
    own = [stream for stream in streams if stream.topic == topic]
    ends, deadline = _ends(settings, topic), monotonic() + PATIENCE_SECONDS
    while (waiting := _behind(settings, own, ends)) and monotonic() < deadline:
        meanwhile()
    # At last each offset is looked at: a producer may have taken any number of records back.
    waiting = waiting and _behind(settings, own, ends, few=None)
    audit = audit_topic(settings, streams, topic)
    problems = [*_lost_and_doubled(audit), *([f"{waiting} records are not typed yet"] if waiting else [])]
    losses = [str(loss) for loss in accepted_of(settings, topic)]
    return replace(_topic_verdict(topic), compared=audit.records, problems=problems, accepted=losses)


def _topic_verdict(topic: str) -> Verdict:
    """What is known of a topic that was not audited."""
    return Verdict(subject=f"topic {topic}", asset=names.topic(topic), compared=0, unit="records", problems=())


def verify_table(settings: Settings, source: Source, reading: TableReading, meanwhile: Meanwhile = pause) -> Verdict:
    """What the audit finds of a followed table that was read; an error that a retry may mend is a problem too.

    A snapshot of the table may be under way, which shows in no offset before it is complete: so differences count if the table, read again,
    has any after Debezium has emitted all that it had.
    """
    verdict = _verdict(source)
    try:
        verdict = _with(verdict, compare_table(settings, source, reading, meanwhile))
        if verdict.problems:
            _await_heartbeat(settings, source, meanwhile)
            verdict = _with(verdict, compare_table(settings, source, _read(settings, source), meanwhile))
    except TransientError as error:
        return replace(verdict, problems=[*verdict.problems, str(error)])
    return verdict


def _with(verdict: Verdict, found: Difference) -> Verdict:
    return replace(verdict, compared=found.compared, problems=_differences(found), in_quarantine=found.quarantined)


def _verdict(source: Source, problems: Sequence[str] = ()) -> Verdict:
    """What is known of a table that was not compared."""
    return Verdict(subject=f"table {source.contract.name}", asset=_log_asset(source), compared=0, unit="keys", problems=problems)


def _differences(found: Difference) -> list[str]:
    keys = {
        "missing": ("missing in the lake", found.missing),
        "extra": ("gone from the source", found.extra),
        "different": ("different", found.different),
        "held_back": ("in quarantine, and keep the contract in the source", found.held_back),
        "standing": ("rows in the lake, and break the contract in the source", found.standing),
    }
    return [f"{found.counts[name]} keys are {what}: {_listed(which)}" for name, (what, which) in keys.items() if found.counts[name]]


def _lost_and_doubled(audit: OffsetAudit) -> list[str]:
    problems = []
    gone = "read and no longer in the topic, which was created again"
    for what, places in (("lost", audit.lost), ("duplicated", audit.doubled), (gone, audit.beyond)):
        for (_, number), found in sorted(places.items()):
            offsets = _listed([f"{start} to {end - 1}" for start, end in found])
            problems.append(f"{size(found)} records of partition {number} are {what}: offsets {offsets}")
    return problems


def _listed(found: Sequence[object]) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(str(one) for one in found[:SHOWN]) + more


def audit_topic(settings: Settings, streams: Sequence[RecordStream], topic: str) -> OffsetAudit:
    """Whether every record of a topic stands once in a typed table or in quarantine, as far as it has been typed.

    streams: all that are declared. The typing of the topic's streams waits meanwhile. Takes 8 bytes of memory a record. Raises
    SourceUnavailable where the broker, or a schema registry, does not answer.
    """
    own = [stream for stream in streams if stream.topic == topic]
    quarantine.create(settings)
    with closing(warehouse(settings)) as connection, catalog(settings) as lake, ExitStack() as held:
        connection.autocommit = True
        for stream in own:
            held.enter_context(quarantine.locked(connection, stream.contract.name, names.STREAM))
        reached = _reached(lake, own)
        found = [*_in_tables(lake, own), *_in_quarantine(connection, own)]
    known = watermarks(settings, [topic])
    typed = {place: (low, min(high, max(reached.get(place[1], 0), low))) for place, (low, high) in known.items()}
    beyond = {place: [(high, reached[place[1]])] for place, (_, high) in known.items() if reached.get(place[1], 0) > high}
    return replace(audit_offsets(typed, found, _holding(settings, own)), beyond=beyond)


def compare_table(settings: Settings, source: Source, reading: TableReading, meanwhile: Meanwhile = pause) -> Difference:
    """How the rows that a followed table's changes left differ from a reading of the table, both as of the reading's instant.

    It waits until all that the table showed then has been emitted and typed. Raises SourceUnavailable where that takes longer than some
    minutes, SnapshotIncomplete while the first snapshot is being emitted.
    """
    origin, log, wait_for = followed_table(source), change_log(source), _patience(source, meanwhile)
    wait_for(lambda: confirmed_lsn(settings, origin.database) >= reading.instant.lsn, "has had changes that Debezium did not emit")
    ends = _ends(settings, log.topic)
    wait_for(lambda: not _behind(settings, [log], ends), "has had changes that were not typed")
    return compare(in_table(source), reading, read_log(settings, source))


def read_log(settings: Settings, source: Source) -> pa.Table:
    """The change log of a table at its newest snapshot; all of it, in memory, as the audit merges it by itself."""
    with catalog(settings) as lake:
        return open_log(lake, in_table(source), log_contract(source.contract).name).table.scan().to_arrow()


def _patience(source: Source, meanwhile: Meanwhile) -> Callable[[Callable[[], bool], str], None]:
    """Waits for what it is given; raises SourceUnavailable where all of it takes longer than some minutes."""
    deadline = monotonic() + PATIENCE_SECONDS

    def wait_for(is_there: Callable[[], bool], what: str) -> None:
        while not is_there():
            if monotonic() >= deadline:
                raise SourceUnavailable(source.contract.name, f"{what} for {PATIENCE_SECONDS:.0f} s")
            meanwhile()

    return wait_for


def _await_heartbeat(settings: Settings, source: Source, meanwhile: Meanwhile) -> None:
    """Returns once Debezium has sent a heartbeat: it comes after all changes emitted before, and only while the connector reads the log."""
    topic = names.heartbeat_topic(followed_table(source).database)
    before = sum(_ends(settings, topic).values())
    wait_for = _patience(source, meanwhile)
    wait_for(lambda: sum(_ends(settings, topic).values()) >= before + BEAT, "is read by a connector that has sent no heartbeat")


def _ends(settings: Settings, topic: str) -> dict[Place, int]:
    return {place: high for place, (_, high) in watermarks(settings, [topic]).items()}


def _behind(settings: Settings, streams: Sequence[RecordStream], ends: Mapping[Place, int], few: int | None = FEW) -> int:
    """How many records before these ends of a topic are still to be typed.

    Of few offsets (None: of all) the broker is asked which are records, since a transaction ends with a mark; many are counted as they are,
    and so are those of which nobody can say while their transaction is open.
    """
    with catalog(settings) as lake:
        reached = _reached(lake, streams)
    spans = {place: (reached.get(place[1], 0), end) for place, end in ends.items() if reached.get(place[1], 0) < end}
    offsets = size(spans.values())
    if few is not None and offsets > few:
        return offsets
    holding = _holding(settings, streams)
    try:
        return sum(size(holding(place, [span])) for place, span in spans.items())
    except TransactionOpen:
        return offsets


def _reached(lake: "Catalog", streams: Sequence[RecordStream]) -> dict[int, int]:
    """Of each partition the offset up to which all streams of a topic have typed it."""
    tables = [open_table(lake, names.typed(stream.contract.name)) for stream in streams]
    positions = [{} if table is None else position_of(table).seen.next_offsets for table in tables]
    numbers = {number for position in positions for number in position}
    return {number: min(position.get(number, 0) for position in positions) for number in numbers}


def _in_tables(lake: "Catalog", streams: Sequence[RecordStream]) -> Iterator[tuple[Place, np.ndarray]]:
    for stream in streams:
        table = open_table(lake, names.typed(stream.contract.name))
        if table is not None and table.current_snapshot() is not None:
            marks = [name for name in table.schema().column_names if name == broken_field(stream)]
            rows = table.scan(selected_fields=(TOPIC, PARTITION, OFFSET, *marks)).to_arrow_batch_reader()
            # What the log has of a broken change is beside its record, which is in quarantine.
            whole = (batch.filter(batch.column(marks[0]).is_null()) for batch in rows) if marks else rows
            yield from offsets_of(whole, TOPIC, PARTITION, OFFSET)


def _in_quarantine(connection: "psycopg.Connection", streams: Sequence[RecordStream]) -> Iterator[tuple[Place, np.ndarray]]:
    for stream in streams:
        for number, offsets in quarantine.waiting_offsets(connection, stream.contract.name, stream.topic).items():
            yield (stream.topic, number), np.array(offsets, dtype=np.int64)


def _is_expected(readers: Sequence[RecordReader], record: Refetched) -> bool:
    """Whether a record of a topic should be somewhere: it is an event for some stream, and of no key that is forgotten."""
    is_event = any(reader.is_event(record.payload, record.headers) for reader in readers)
    return is_event and not any(reader.is_forgotten(record.payload, record.headers) for reader in readers)


def _holding(settings: Settings, streams: Sequence[RecordStream]) -> Callable[[Place, Sequence[Span]], list[Span]]:
    """A function to the parts of some spans that hold a record that is an event for some stream, as the topic itself has it."""
    readers = [
        RecordReader(
            stream,
            share_of(stream, streams),
            schemas_of(settings, stream.format),
            forgotten=forgotten_of(settings, stream.contract.name),
        )
        for stream in streams
    ]

    def holding(place: Place, asked: Sequence[Span]) -> list[Span]:
        topic, partition = place
        fetch = passing_over(refetch_from(settings), accepted_of(settings, topic))
        records = fetch(topic, partition, asked[0][0], asked[-1][1] - 1)
        events = (record.offset for record in records if _is_expected(readers, record))
        there = np.fromiter(events, dtype=np.int64)
        inside = [there[(there >= start) & (there < end)] for start, end in asked]
        return [span for offsets in inside for span in spans(offsets)]

    return holding
