"""Records whose senders wait for Kafka: each is answered once the broker has acknowledged it, or has not in time."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.settings import BrokerSettings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

SECONDS = 5.0
MOST_WAITING = 10_000
NOT_IN_TIME = "was not acknowledged by Kafka in time"
TOO_MANY = "was not sent, as too many wait for Kafka"
TOGETHER, BY_ITSELF = 0, 1
ALONE: dict[str, Any] = {"batch.num.messages": 1}
LARGEST_RECORD = 8 << 20
# What all producers of the service have in common.
SAFE: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "compression.type": "lz4",
    "message.max.bytes": LARGEST_RECORD,
    "reconnect.backoff.max.ms": 1_000,
    # Keys go to the partitions that a producer in Java would choose.
    "partitioner": "murmur2_random",
    # Who uses a producer says what failed; the library would print each connection that ends.
    "log_level": 0,
}
CONFIG: dict[str, Any] = {
    **SAFE,
    "linger.ms": 5,
    "queue.buffering.max.messages": MOST_WAITING,
    "message.timeout.ms": int(SECONDS * 1000),
}


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A record for a topic; `at_ms` is its time in milliseconds of Unix' time (0: when it is sent)."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)
    at_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Acked:
    """The place of a record that Kafka acknowledged."""

    partition: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Unacked:
    """Why a record has no place. `is_final`: it is not in the topic, and never will be; else it may be there, and may be sent again."""

    problem: str
    is_final: bool = False


Outcome = Acked | Unacked


class _Batch:
    """The outcomes of records that were sent together; `done` is called, in any thread, once each has one."""

    def __init__(self, records: int, done: Callable[[], object]) -> None:
        self.outcomes: list[Outcome | None] = [None] * records
        self._left, self._done, self._lock = records, done, Lock()

    def settle(self, place: int, outcome: Outcome) -> None:
        """The outcome of one record."""
        with self._lock:
            self.outcomes[place], self._left = outcome, self._left - 1
            is_last = self._left == 0
        if is_last:
            # The loop of a caller that no longer waits may be closed.
            with suppress(RuntimeError):
                self._done()


class AckedProducer:
    """A producer for callers of event loops; a thread of its own takes what Kafka answers. Its maker closes it."""

    def __init__(self, settings: BrokerSettings) -> None:
        from confluent_kafka import Producer

        config = {**CONFIG, **client_config(settings)}
        # The second one sends each record by itself: Kafka refuses all that are sent together where one is too large.
        self._producers = (Producer(config), Producer(config | ALONE))
        self._closed = Event()
        self._thread = Thread(target=self._poll, name="acked-producer", daemon=True)
        self._thread.start()

    async def send(self, records: Sequence[Outgoing]) -> list[Outcome]:
        """The outcomes of some records, in their order, once each has one: after some more than `SECONDS` at most.

        They are sent even where the caller no longer waits.
        """
        if not records:
            return []
        done = asyncio.Event()
        batch = _Batch(len(records), partial(asyncio.get_running_loop().call_soon_threadsafe, done.set))
        for place, record in enumerate(records):
            self._produce(TOGETHER, record, batch, place)
        with suppress(TimeoutError):
            # The producer itself gives up after SECONDS; where it does not, nobody waits for ever.
            await asyncio.wait_for(done.wait(), SECONDS + 1)
        return [one or Unacked(problem=NOT_IN_TIME) for one in batch.outcomes]

    def close(self) -> None:
        """Waits for what is on its way, `SECONDS` at most, and ends the thread."""
        for one in self._producers:
            one.flush(SECONDS)
        self._closed.set()
        self._thread.join()

    def _produce(self, which: int, record: Outgoing, batch: _Batch, place: int) -> None:
        from confluent_kafka import KafkaException

        try:
            self._producers[which].produce(
                record.topic,
                record.value,
                record.key,
                on_delivery=partial(self._answered, which, record, batch, place),
                timestamp=record.at_ms,
                headers=dict(record.headers),
            )
        except KafkaException as error:
            batch.settle(place, _unacked(error.args[0]))
        except BufferError:
            batch.settle(place, Unacked(problem=TOO_MANY))

    def _answered(self, which: int, record: Outgoing, batch: _Batch, place: int, error: "KafkaError | None", message: "Message") -> None:
        if error is None:
            batch.settle(place, Acked(partition=message.partition() or 0, offset=message.offset() or 0))
        elif is_too_large(error) and which == TOGETHER:
            self._produce(BY_ITSELF, record, batch, place)
        else:
            batch.settle(place, _unacked(error))

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producers[TOGETHER].poll(0.05)
            self._producers[BY_ITSELF].poll(0)


def is_too_large(error: "KafkaError") -> bool:
    """Whether a record, or all that were sent together with it, are larger than Kafka takes."""
    from confluent_kafka import KafkaError

    return bool(error.code() == KafkaError.MSG_SIZE_TOO_LARGE)


def _unacked(error: "KafkaError") -> Unacked:
    from confluent_kafka import KafkaError

    if is_too_large(error):
        return Unacked(problem="is larger than Kafka takes", is_final=True)
    is_late = error.code() in {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT}  # noqa: SLF001 - so the library names its own errors
    return Unacked(problem=NOT_IN_TIME if is_late else f"was not taken by Kafka: {error.str()}")
