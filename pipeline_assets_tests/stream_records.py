"""Records put on and taken from topics, and conditions waited for; shared by the tests of streams."""

from collections.abc import Callable, Sequence
from threading import Event
from time import monotonic
from typing import TypeVar

import dagster as dg
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.topics import end_offsets

PATIENCE_SECONDS = 120.0
Found = TypeVar("Found")
Headers = list[tuple[str, str | bytes | None]]


def without_sensors(defs: dg.Definitions) -> dg.Definitions:
    """The same assets without the sensors, whose jobs only the whole code location has, and without the checks of their progress."""
    return dg.Definitions(assets=defs.assets)


def until(find: Callable[[], Found], is_enough: Callable[[Found], bool] = bool, seconds: float = PATIENCE_SECONDS) -> Found:
    """What is found, once it is enough; an AssertionError that shows the last finding after a while."""
    pause, deadline = Event(), monotonic() + seconds
    while not is_enough(found := find()):
        assert monotonic() < deadline, f"still not enough after {seconds:.0f} s: {found!r}"[:2000]
        pause.wait(0.2)
    return found


def produce(
    settings: Settings, topic: str, values: Sequence[bytes | None], partitions: int = 1, headers: Sequence[Headers] | None = None
) -> None:
    """Put the values on the topic, each with its headers, in turn on each partition, and return once the broker has them all."""
    producer = Producer({**client_config(settings), "acks": "all", "linger.ms": 20})
    for number, value in enumerate(values):
        producer.produce(topic, value=value, partition=number % partitions, headers=None if headers is None else headers[number])
        producer.poll(0)
    assert producer.flush(PATIENCE_SECONDS) == 0


def consume(settings: Settings, topic: str) -> list[Message]:
    """Every record of the topic that is committed now, partition by partition."""
    consumer = Consumer({**client_config(settings), "group.id": "tests", "enable.auto.commit": False, "enable.partition.eof": True})
    ends = {number: end for (_, number), end in end_offsets(settings, [topic]).items()}
    found: list[Message] = []
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        left: set[int | None] = {number for number, end in ends.items() if end > 0}
        deadline = monotonic() + PATIENCE_SECONDS
        while left:
            assert monotonic() < deadline, f"topic '{topic}' has records up to {ends}, read were {len(found)}"
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                found.append(message)
            elif message is not None:
                left -= {message.partition()}
    finally:
        consumer.close()
    return found
