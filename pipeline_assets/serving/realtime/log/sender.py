"""Records in the hands of Kafka's producer: each is kept until Kafka has acknowledged it, and handed to a new one where that gives up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.brokers import client_config, refusal
from pipeline_assets.core.settings import BrokerSettings
from pipeline_assets.serving.realtime.log.acked import ALONE, SAFE, is_too_large
from pipeline_assets.serving.realtime.log.spool import Record, Segment

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

# The producer's own time.
NOW = 0
TRACEPARENT = "traceparent"
MOST_RECORDS, MOST_BYTES = 2_000, 16 << 20
RESTART_SECONDS = 1.0
CONFIG = {
    **SAFE,
    "linger.ms": 10,
    # A record waits here as long as Kafka is away: others wait on disk meanwhile.
    "message.timeout.ms": 0,
    "topic.metadata.refresh.interval.ms": 10_000,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A record that was handed over, since when, and the file that has it (None: none has)."""

    record: Record
    segment: Segment | None
    since: float


class Sender:
    """A producer of one topic, for one thread; `failed` is why it was last given up, if it was.

    settled: called with the file of each record that Kafka acknowledged (None), or refused, with the reason.
    """

    def __init__(self, settings: BrokerSettings, topic: str, settled: Callable[[Segment | None, str | None], None]) -> None:
        self.failed: str | None = None
        self._settings, self._topic, self._settled = settings, topic, settled
        self._sent: dict[int, Sent] = {}
        self._bytes, self._number = 0, 0
        self._restart_at: float | None = None
        self._producer = self._connected({})
        # Sends each record by itself: Kafka refuses all that are sent together where one is too large.
        self._alone = self._connected(ALONE)

    @property
    def room(self) -> int:
        """How many more records may be handed over now."""
        return MOST_RECORDS - len(self._sent) if self._bytes < MOST_BYTES and self._restart_at is None else 0

    @property
    def in_memory(self) -> int:
        """How many of its records no file has."""
        return sum(one.segment is None for one in tuple(self._sent.values()))

    @property
    def waits_since(self) -> float | None:
        """Since when, by the monotonic clock, the oldest of its records waits; None where none does."""
        return next(iter(self._sent.values())).since if self._sent else None

    def send(self, record: Record, segment: Segment | None) -> None:
        """Hands a record over."""
        self._number += 1
        self._sent[self._number] = Sent(record=record, segment=segment, since=monotonic())
        self._bytes += record.size
        self._produce(self._producer, self._number, record)

    def poll(self, seconds: float = 0.0) -> None:
        """Takes what Kafka has answered, waiting for it at most so long; makes a new producer where the last one gave up."""
        self._producer.poll(seconds)
        self._alone.poll(0)
        if self._restart_at is not None and monotonic() >= self._restart_at:
            self._restart()

    def close(self) -> None:
        """Takes what Kafka has answered, and drops the rest."""
        for one in (self._producer, self._alone):
            one.purge()
            one.poll(0)

    def _connected(self, more: Mapping[str, Any]) -> "Producer":
        from confluent_kafka import Producer

        return Producer({**CONFIG, **more, **client_config(self._settings), "error_cb": self._hear})

    def _hear(self, error: "KafkaError") -> None:
        """Notes that Kafka refuses the login. Records wait as where it is away: who corrects it there loses none."""
        self.failed = refusal(error) or self.failed

    def _produce(self, producer: "Producer", number: int, record: Record) -> None:
        from confluent_kafka import KafkaException

        try:
            producer.produce(
                self._topic,
                record.value,
                record.key,
                on_delivery=partial(self._answered, producer, number),
                timestamp=record.at_ms,
                headers={TRACEPARENT: record.trace} if record.trace else None,
            )
        except KafkaException as error:
            self._fail(self._alone, number, error.args[0])
        except BufferError:
            self._give_up("its queue is full")

    def _answered(self, producer: "Producer", number: int, error: "KafkaError | None", _: "Message") -> None:
        if error is not None:
            self._fail(producer, number, error)
        elif number in self._sent:
            self._settle(number, None)

    def _fail(self, producer: "Producer", number: int, error: "KafkaError") -> None:
        from confluent_kafka import KafkaError

        one = self._sent.get(number)
        if is_too_large(error) and one is not None:
            if producer is self._alone:
                self._settle(number, "is larger than Kafka takes")
            else:
                self._produce(self._alone, number, one.record)
        elif error.code() == KafkaError.INVALID_TIMESTAMP and one is not None and one.record.at_ms != NOW:
            # A broker may refuse records that are old, as those of a spool are.
            self._sent[number] = replace(one, record=one.record._replace(at_ms=NOW))
            self._produce(producer, number, self._sent[number].record)
        else:
            self._give_up(error.str())

    def _settle(self, number: int, problem: str | None) -> None:
        one = self._sent.pop(number)
        self._bytes -= one.record.size
        self._settled(one.segment, problem)

    def _give_up(self, problem: str) -> None:
        if self._restart_at is None:
            self.failed, self._restart_at = problem, monotonic() + RESTART_SECONDS

    def _restart(self) -> None:
        """A new producer gets all that waits, in order: one that lost its place (or its topic) takes no more."""
        self.close()
        self._producer, self._alone, self._restart_at = self._connected({}), self._connected(ALONE), None
        for number, one in tuple(self._sent.items()):
            self._produce(self._producer, number, one.record)
