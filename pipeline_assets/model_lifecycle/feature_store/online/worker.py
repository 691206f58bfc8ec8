"""The stream worker: takes the records of topics as they come, and keeps the states of the views that follow them.

A process of its own, as many as wanted: they share the partitions as one consumer group. Offsets are kept with the states and nowhere else,
so a record counts once whichever worker was killed, lost its partitions, or did not know that it had. A record that breaks its contract is
left to the typed step, which puts it in quarantine. A feed that cannot be kept stops alone, and is tried again.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core.connections import online
from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.kept_sessions import KeptSession
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.stream_errors import OffsetsMissing
from pipeline_assets.ingestion.streaming.capture.topics import end_offsets
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader, share_of
from pipeline_assets.ingestion.streaming.decoding.schema_registry import schemas_of
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.consumer import landed_records, open_consumer
from pipeline_assets.model_lifecycle.feature_store.online.course import Course
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.keep import forget_old, keep_records
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.model_lifecycle.feature_store.online.store import Kept
from pipeline_assets.spec.sources import EventStream

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

# How long a record is waited for, and what comes with it: a change of a hundred records takes little longer than one of a single one.
RECORDS_AT_ONCE, WAIT_SECONDS, GATHER_SECONDS = 20_000, 0.1, 0.01
# Old rows are looked for once in so many changes.
CHANGES_BETWEEN_CLEANING = 500
SECONDS_BETWEEN_LOOKS = 2.0
# How long a feed that could not be kept is left alone.
PAUSE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a step took of one topic for one feed."""

    feed: str
    records: int
    rows: int


@dataclass(kw_only=True, eq=False)
class Held:
    """A feed that this worker keeps: its session, and of the partitions that it has the next offset and the end at the last look.

    mark: an earlier look and the ends at it, until they are reached: then all is taken that had come by that look.
    """

    session: Session
    reader: RecordReader
    stack: ExitStack
    topic: str
    is_assigned: bool = False
    position: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    mark: tuple[datetime, dict[int, int]] | None = None

    def behind(self, ends: Mapping[int, int]) -> int:
        """How many records there are to take up to some ends."""
        return sum(max(end - self.position.get(partition, 0), 0) for partition, end in ends.items())

    def reached(self) -> datetime | None:
        """The look whose ends are reached, once for each mark."""
        if self.mark is None or self.behind(self.mark[1]):
            return None
        at, self.mark = self.mark[0], None
        return at


class Worker:
    """Keeps the feeds of streams that are in the store as they are declared; the others are taken up once they are built."""

    def __init__(self, settings: Settings, courses: Mapping[Feed, Course], streams: Sequence[EventStream], stack: ExitStack) -> None:
        self.settings, self.streams, self.courses = settings, tuple(streams), dict(courses)
        self._held: dict[Feed, Held] = {}
        self._again_at: dict[Feed, float] = {}
        self._changes, self._looked = 0, float("-inf")
        self._online = KeptSession(partial(online, settings))
        self._consumer = open_consumer(settings)
        stack.callback(self._consumer.close)
        stack.callback(self._end)

    @property
    def sessions(self) -> list[Session]:
        """The sessions of the feeds that it keeps."""
        return [held.session for held in self._held.values()]

    def step(self) -> list[Taken]:
        """Takes what has come of all topics, a transaction a feed; nothing where nothing came for a moment.

        Now and then it looks first which feeds are there. Raises SourceUnavailable where Kafka does not answer; what is wrong with one feed
        stands in its course.
        """
        self._look()
        by_topic: dict[str, list[Message]] = {}
        for message in self._waited_for():
            if message.error() is None:
                by_topic.setdefault(str(message.topic()), []).append(message)
            else:
                self._hear(message)
        found = [self._tried(feed, by_topic[held.topic]) for feed, held in list(self._held.items()) if held.topic in by_topic]
        self._note()
        return [taken for taken in found if taken is not None]

    def _waited_for(self) -> "list[Message]":
        """The records that have come, as soon as there is one; the consumer itself would wait for as many as are taken at once."""
        first = self._consumer.consume(1, WAIT_SECONDS)
        return [*first, *self._consumer.consume(RECORDS_AT_ONCE - 1, GATHER_SECONDS)] if first else first

    def _look(self) -> None:
        """Takes up feeds that were built, lets go of those that are no more or were built anew, and asks where topics end."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        with self._online.use() as connection:
            found = {feed: store.find(connection, feed) for feed in self.courses}
        live = {feed: kept for feed, kept in found.items() if kept is not None and kept.is_live}
        gone = [feed for feed, held in self._held.items() if feed not in live or live[feed].id != held.session.kept.id]
        for feed in gone:
            self._let_go(feed)
        new = [feed for feed in live if feed not in self._held and time.monotonic() >= self._again_at.get(feed, 0.0)]
        for feed in new:
            self._take_up(feed, live[feed])
        for feed in self.courses.keys() - live.keys():
            self.courses[feed].let_go()
        if gone or new:
            self._subscribe()
        self._ask_ends()

    def _take_up(self, feed: Feed, kept: Kept) -> None:
        stack = ExitStack()
        try:
            session = stack.enter_context(open_session(self.settings, kept))
            self._held[feed] = Held(session=session, reader=_reader(self.settings, feed, self.streams), stack=stack, topic=_topic(feed))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a feed, the others go on
            stack.close()
            self._failed(feed, error)

    def _let_go(self, feed: Feed) -> None:
        held = self._held.pop(feed)
        held.stack.close()

    def _failed(self, feed: Feed, error: Exception) -> None:
        """Stops a feed alone; it is tried again after a while from where its states are."""
        self.courses[feed].failed(f"{error}" or type(error).__name__)
        self._again_at[feed] = time.monotonic() + PAUSE_SECONDS
        if feed in self._held:
            self._let_go(feed)
            self._subscribe()

    def _subscribe(self) -> None:
        """Has the group assign the partitions anew, so that each is read from where the states of all its feeds are."""
        for held in self._held.values():
            held.is_assigned = False
        self._consumer.unsubscribe()
        topics = sorted({held.topic for held in self._held.values()})
        if topics:
            self._consumer.subscribe(topics, on_assign=self._assigned)

    def _assigned(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        """Has each partition read from where the states are; of several feeds of one topic from the least."""
        with online(self.settings) as connection:
            known = {feed: store.offsets(connection, held.session.kept) for feed, held in self._held.items()}
        for feed, held in self._held.items():
            own = [one.partition for one in partitions if one.topic == held.topic]
            held.position, held.ends = {one: known[feed].get(one, 0) for one in own}, {}
            held.is_assigned, held.mark = True, None
        for one in partitions:
            one.offset = min((held.position[one.partition] for held in self._held.values() if held.topic == one.topic), default=0)
        consumer.assign(partitions)

    def _tried(self, feed: Feed, messages: "Sequence[Message]") -> Taken | None:
        if not self._held[feed].is_assigned:
            return None
        try:
            return self._take(feed, self._held[feed], messages)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a feed, the others go on
            self._failed(feed, error)
            return None

    def _take(self, feed: Feed, held: Held, messages: "Sequence[Message]") -> Taken:
        records = landed_records(messages, held.reader.headers)
        good = pa.Table.from_batches([held.reader.read(records).checked.good])
        offsets: dict[int, int] = {}
        for message in messages:
            partition, offset = message.partition() or 0, message.offset() or 0
            offsets[partition] = max(offsets.get(partition, 0), offset + 1)
        keep_records(held.session, good, offsets)
        for partition, offset in offsets.items():
            held.position[partition] = max(held.position.get(partition, 0), offset)
        self.courses[feed].took(len(messages), good.num_rows, datetime.now(UTC))
        self._changes += 1
        if self._changes % CHANGES_BETWEEN_CLEANING == 0:
            forget_old(held.session)
        return Taken(feed=feed.name, records=len(messages), rows=good.num_rows)

    def _hear(self, message: "Message") -> None:
        """Takes in what Kafka says instead of a record; a topic that is not there is waited for."""
        from confluent_kafka import KafkaError

        problem, partition, offset = message.error(), message.partition() or 0, message.offset() or 0
        if problem is None or problem.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return
        of_topic = {feed: held for feed, held in self._held.items() if held.topic == message.topic() and partition in held.position}
        if problem.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the name that the library documents
            # Marks of transactions are no records, and end here too.
            for held in of_topic.values():
                held.position[partition] = max(held.position[partition], offset)
        elif problem.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - likewise
            self._lack(of_topic, partition)
        else:
            raise SourceUnavailable("Kafka", f"did not answer: {problem}")

    def _lack(self, of_topic: Mapping[Feed, Held], partition: int) -> None:
        """Stops those feeds of a topic that are the furthest behind, as their next records are gone."""
        remedy = "the topic keeps them no more; build the feed anew: `pipeline features online build --anew`"
        least = min((held.position[partition] for held in of_topic.values()), default=0)
        for feed, held in of_topic.items():
            if held.position[partition] == least:
                self._failed(feed, OffsetsMissing(held.topic, partition, least, least, remedy))

    def _ask_ends(self) -> None:
        """Notes where the partitions end now; by a connection of its own, as the consumer's waits for records."""
        now, assigned = datetime.now(UTC), [held for held in self._held.values() if held.is_assigned and held.position]
        asked = end_offsets(self.settings, sorted({held.topic for held in assigned})) if assigned else {}
        for held in assigned:
            held.ends = {partition: asked.get((held.topic, partition), at) for partition, at in held.position.items()}
            held.mark = held.mark or (now, held.ends)

    def _note(self) -> None:
        """Notes in the courses what is still to take; a worker that has no partition of a topic has nothing to take of it."""
        for feed, held in self._held.items():
            if held.is_assigned:
                self.courses[feed].stands(held.behind(held.ends), held.reached())

    def _end(self) -> None:
        for feed in list(self._held):
            self._let_go(feed)


def _reader(settings: Settings, feed: Feed, streams: Sequence[EventStream]) -> RecordReader:
    stream = feed.stream
    if stream is None:
        raise ValueError(f"Feed {feed.name} has no records.")
    return RecordReader(stream, share_of(stream, streams), schemas_of(settings, stream.format))


def _topic(feed: Feed) -> str:
    return "" if feed.stream is None else feed.stream.topic
