"""The stream worker: takes the records of topics as they come, and keeps the states of the views that follow them.

A process of its own, as many as wanted: they share the partitions as one consumer group. Offsets are kept with the states and nowhere else,
so a record counts once whichever worker was killed, lost its partitions, or did not know that it had. A record that breaks its contract is
left to the typed step, which puts it in quarantine.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import online
from pipeline_assets.core.errors import OffsetsMissing, SourceUnavailable
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader, share_of
from pipeline_assets.ingestion.streaming.decoding.schema_registry import schemas_of
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.keep import forget_old, keep_records
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.spec.sources import EventStream

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

GROUP = "pipeline-online"
RECORDS_AT_ONCE, WAIT_SECONDS = 10_000, 0.2
# Old rows are looked for once in so many changes.
CHANGES_BETWEEN_CLEANING = 500
SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a step took of one topic for one feed."""

    feed: str
    records: int
    rows: int


class Worker:
    """Keeps the feeds of streams that are in the store as they are declared; the others are not touched."""

    def __init__(self, settings: Settings, feeds: Sequence[Feed], streams: Sequence[EventStream], stack: ExitStack) -> None:
        self.settings = settings
        with online(settings) as connection:
            kept = [store.live(connection, feed) for feed in feeds]
        self.sessions = [stack.enter_context(open_session(settings, one)) for one in kept]
        self.readers = {session: _reader(settings, session.kept.feed, streams) for session in self.sessions}
        self.changes, self._looked = 0, 0.0
        self.consumer = _consumer(settings)
        stack.callback(self.consumer.close)
        self.consumer.subscribe(sorted({_topic(session) for session in self.sessions}), on_assign=self._assigned)

    def step(self) -> list[Taken]:
        """Takes what has come of all topics, a transaction a feed; nothing where nothing came for a moment.

        Raises OffsetsMissing where records are gone that no state has seen: then the feed has to be built from the lake.
        """
        by_topic: dict[str, list[Message]] = {}
        for message in self.consumer.consume(RECORDS_AT_ONCE, WAIT_SECONDS):
            if message.error() is None:
                by_topic.setdefault(str(message.topic()), []).append(message)
            else:
                _refuse(message)
        return [self._take(session, by_topic[_topic(session)]) for session in self.sessions if _topic(session) in by_topic]

    def due(self, feeds: Sequence[Feed]) -> list[Feed]:
        """The feeds of tables, once in a while: when it is time to look whether the lake has had commits."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return []
        self._looked = time.monotonic()
        return [feed for feed in feeds if feed.stream is None]

    def _take(self, session: Session, messages: "Sequence[Message]") -> Taken:
        reader = self.readers[session]
        records = _records(messages, reader.headers)
        good = pa.Table.from_batches([reader.read(records).checked.good])
        offsets: dict[int, int] = {}
        for message in messages:
            partition, offset = message.partition() or 0, message.offset() or 0
            offsets[partition] = max(offsets.get(partition, 0), offset + 1)
        keep_records(session, good, offsets)
        self.changes += 1
        if self.changes % CHANGES_BETWEEN_CLEANING == 0:
            forget_old(session)
        return Taken(feed=session.kept.feed.name, records=len(messages), rows=good.num_rows)

    def _assigned(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        """Has each partition read from where the states are; of several feeds of one topic from the least."""
        with online(self.settings) as connection:
            for one in partitions:
                own = [store.offsets(connection, session.kept) for session in self.sessions if _topic(session) == one.topic]
                one.offset = min(offsets.get(one.partition, 0) for offsets in own)
        consumer.assign(partitions)


def _refuse(message: "Message") -> None:
    """Raises for an error that does not pass by itself; a topic that is not there yet is waited for."""
    from confluent_kafka import KafkaError

    problem = message.error()
    if problem is None or problem.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return
    if problem.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - the name that the library documents
        offset = message.offset() or 0
        remedy = "the topic keeps them no more; build the feed anew: `pipeline features online build --anew`"
        raise OffsetsMissing(str(message.topic()), message.partition() or 0, offset, offset, remedy)
    raise SourceUnavailable("Kafka", f"did not answer: {problem}")


def _reader(settings: Settings, feed: Feed, streams: Sequence[EventStream]) -> RecordReader:
    stream = feed.stream
    if stream is None:
        raise ValueError(f"Feed {feed.name} has no records.")
    return RecordReader(stream, share_of(stream, streams), schemas_of(settings, stream.format))


def _topic(session: Session) -> str:
    stream = session.kept.feed.stream
    return "" if stream is None else stream.topic


def _consumer(settings: Settings) -> "Consumer":
    from confluent_kafka import Consumer

    return Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "group.id": GROUP,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "session.timeout.ms": 10_000,
            "topic.metadata.refresh.interval.ms": 5_000,
        }
    )


def _records(messages: "Sequence[Message]", headers: Sequence[str]) -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in (*landing.SCHEMA.names, *map(names.landed_header, headers))}
    for message in messages:
        kind, at = message.timestamp()
        last = dict(message.headers() or ())
        received_at = datetime.fromtimestamp(at / 1000, UTC) if kind else None
        values = (message.value(), message.topic(), message.partition(), message.offset(), received_at)
        for name, value in zip(landing.SCHEMA.names, values, strict=True):
            columns[name].append(value)
        for header in headers:
            found = last.get(header)
            columns[names.landed_header(header)].append(found.encode() if isinstance(found, str) else found)
    return pa.table(columns, schema=landing.schema_with(headers))
