"""Records that did not land, asked of the topic itself."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline_assets.core.brokers import strict_config
from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.stream_errors import OffsetsMissing, TransactionOpen
from pipeline_assets.ingestion.streaming.capture.topics import end_offsets

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

ANSWER_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Refetched:
    """A record as the topic holds it; `received_at` (aware) is its time, None where the topic keeps none.

    Of several headers with one name it has the last, as the landing has.
    """

    offset: int
    payload: bytes | None
    received_at: datetime | None
    headers: Mapping[str, bytes | None] = field(default_factory=dict)


# Asked with topic, partition, first and last offset (inclusive), it gives the records that there are, in order. An offset that it leaves
# out holds no record: a mark of a transaction, or one that was aborted. It raises where it cannot know.
Refetch = Callable[[str, int, int, int], Iterable[Refetched]]


def refetch_from(settings: Settings) -> Refetch:
    """How the broker of these settings is asked for records that did not land."""

    def fetch(topic: str, partition: int, first: int, last: int) -> Iterator[Refetched]:
        from confluent_kafka import Consumer, KafkaException

        # It commits no offset, so the group is shared with nobody.
        config = {**strict_config(settings), "group.id": "pipeline-refetch", "enable.auto.commit": False}
        consumer = Consumer({**config, "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "error"})
        try:
            _check_kept(settings, consumer, topic, partition, first, last)
            yield from _records(consumer, topic, partition, first, last)
        except KafkaException as error:
            raise SourceUnavailable("Kafka", f"did not answer: {error.args[0]}") from error
        finally:
            consumer.close()

    return fetch


def _check_kept(settings: Settings, consumer: "Consumer", topic: str, partition: int, first: int, last: int) -> None:
    """Raises OffsetsMissing where the topic keeps not all offsets, TransactionOpen while nobody can say whether they are records."""
    from confluent_kafka import TopicPartition

    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_SECONDS)
    end = high if last < high else end_offsets(settings, [topic]).get((topic, partition), 0)
    if first < low or last >= end:
        raise OffsetsMissing(topic, partition, first, last, _kept(topic, partition, (first, last), (low, end)))
    # One that reads what was committed sees a partition end where the first open transaction begins.
    if last >= high:
        place = f"partition {partition} of topic '{topic}'"
        raise TransactionOpen("Kafka", f"has a transaction at offset {high} of {place} that has not ended")


def _kept(topic: str, partition: int, asked: tuple[int, int], kept: tuple[int, int]) -> str:
    """Which offsets a topic keeps, and what to do where those before them are lost for good."""
    low, end = kept
    known = f"the topic keeps {low} to {end - 1} alone"
    gone = (asked[0], min(asked[1], low - 1))
    if gone[0] > gone[1]:
        return known
    return f"{known}; if they are lost for good: `pipeline streams accept-loss {topic} {partition} {gone[0]} {gone[1]} --reason …`"


def _records(consumer: "Consumer", topic: str, partition: int, first: int, last: int) -> Iterator[Refetched]:
    from confluent_kafka import KafkaError, KafkaException, TopicPartition

    consumer.assign([TopicPartition(topic, partition, first)])
    while True:
        record = consumer.poll(ANSWER_SECONDS)
        if record is None:
            raise SourceUnavailable("Kafka", f"gave no record of topic '{topic}' within {ANSWER_SECONDS:.0f} s")
        problem = record.error()
        if problem is not None and problem.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the name that the library documents
            raise KafkaException(problem)
        offset = record.offset()
        if problem is not None or offset is None or offset > last:
            return
        kind, at = record.timestamp()
        received_at = datetime.fromtimestamp(at / 1000, UTC) if kind else None
        yield Refetched(offset=offset, payload=record.value(), received_at=received_at, headers=_headers(record))


def _headers(record: "Message") -> dict[str, bytes | None]:
    # Of a list of pairs, which is what a consumer gets, the last of a name wins.
    last = dict(record.headers() or ())
    return {name: value.encode() if isinstance(value, str) else value for name, value in last.items()}


def refuse(topic: str, partition: int, first: int, last: int) -> Iterable[Refetched]:
    """Raises OffsetsMissing: there is nobody to ask."""
    raise OffsetsMissing(topic, partition, first, last, "there is no connection to Kafka to fetch them from")
