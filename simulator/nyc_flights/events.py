"""The event producer: departures and arrivals of 2013 as messages of Kafka topics, as fast as they go or at a multiple of their own pace.

    python -m simulator.nyc_flights.events --bootstrap 127.0.0.1:9092 --first 2013-06-01 --last 2013-06-30
        [--speed 3600] [--only departures] [--config .pipeline/producer.properties]

The topics `flight-departures` and `flight-arrivals` must be there. A record's time is when the event could be known in 2013. Interrupted
(Ctrl+C), it delivers what it has handed over, says how far it came, and ends with exit code 130.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from threading import Event
from time import monotonic
from typing import Any

import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from simulator.nyc_flights import data
from simulator.nyc_flights.database import check_span
from simulator.nyc_flights.messages import ARRIVALS, DEPARTURES, messages
from simulator.properties import read_properties

ONLY = {"departures": (DEPARTURES,), "arrivals": (ARRIVALS,), None: (DEPARTURES, ARRIVALS)}
ANSWER_SECONDS, DELIVERY_SECONDS = 10.0, 60.0
BATCH, WAITING = 5_000, 100_000
INTERRUPTED = 130
PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "compression.type": "lz4",
    "queue.buffering.max.messages": 2 * WAITING,
    # Keys go to the partitions that a producer in Java would choose.
    "partitioner": "murmur2_random",
    "delivery.report.only.error": True,
    # Failures are reported at the end, once.
    "log_level": 0,
}


class DeliveryFailedError(Exception):
    """The broker did not take all messages."""


@dataclass(kw_only=True)
class Replay:
    """Sends messages to the broker in their order; `sent` counts those that were handed over, `reached` is when the last was sent, in 2013.

    speed: seconds of 2013 that pass in a second, None for as fast as it goes. `stop` ends it early; `report` is called after each step.
    """

    producer: Producer
    frame: pl.DataFrame
    speed: float | None
    stop: Event = field(default_factory=Event)
    report: Callable[["Replay"], None] = lambda _: None
    sent: int = 0
    reached: datetime | None = None
    begun: float = field(default_factory=monotonic)
    refused: list[KafkaError] = field(default_factory=list)

    def run(self) -> None:
        """Sends all messages and waits until they are delivered; raises DeliveryFailedError if some were not."""
        due_at = self._due_at()
        while self.sent < self.frame.height and not self.stop.is_set() and not self.refused:
            end = min(int(due_at.search_sorted(monotonic() - self.begun, side="right")), self.sent + BATCH)
            if end == self.sent:
                self.stop.wait(min(0.2, max(0.0, due_at[self.sent] - (monotonic() - self.begun))))
                continue
            self._hand_over(self.frame[self.sent : end])
            self.sent = end
            self.report(self)
        self._deliver()

    def _due_at(self) -> pl.Series:
        """When each message is due, in seconds since the begin."""
        times = self.frame["sent_at"]
        if self.speed is None or times.is_empty():
            return pl.zeros(times.len(), pl.Float64, eager=True)
        return pl.select((times - times[0]).dt.total_microseconds() / 1e6 / self.speed).to_series()

    def _hand_over(self, part: pl.DataFrame) -> None:
        while len(self.producer) > WAITING and not self.refused:
            self.producer.poll(0.05)
        self.producer.poll(0)
        # One by one: the client's batches take no time of a record.
        produce, refuse = self.producer.produce, self._refuse
        for topic, key, value, time in part.select("topic", "key", "value", pl.col("recorded_at").dt.epoch("ms")).iter_rows():
            produce(topic, value, key, timestamp=time, on_delivery=refuse)
        self.reached = part["sent_at"][-1]

    def _refuse(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.refused.append(error)

    def _deliver(self) -> None:
        left = self.producer.flush(DELIVERY_SECONDS)
        if self.refused:
            raise DeliveryFailedError(f"{len(self.refused)} messages were refused, the first: {self.refused[0].str()}")
        if left:
            raise DeliveryFailedError(f"{left} messages were not delivered within {DELIVERY_SECONDS:.0f} s")


def connect(bootstrap: str, topics: Sequence[str], settings: dict[str, Any] | None = None) -> Producer:
    """A producer for topics that are there; raises DeliveryFailedError where no broker answers or a topic is missing."""
    producer = Producer({**PRODUCER, "bootstrap.servers": bootstrap, **(settings or {})})
    try:
        known = producer.list_topics(timeout=ANSWER_SECONDS).topics
    except KafkaException as error:
        raise DeliveryFailedError(f"no broker answers at {bootstrap}: {error.args[0].str()}") from error
    missing = [topic for topic in topics if topic not in known]
    if missing:
        raise DeliveryFailedError(f"the broker at {bootstrap} has no topic {', '.join(missing)}; create it first")
    return producer


class _Progress:
    """One line that is written over, a few times a second; none without a terminal."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, replay: Replay) -> None:
        if sys.stderr.isatty() and monotonic() >= self._next:
            sys.stderr.write(f"\r{_progress(replay)}\x1b[K")
            self._next = monotonic() + 0.25


def _progress(replay: Replay) -> str:
    seconds = max(monotonic() - replay.begun, 1e-9)
    reached = f"up to {replay.reached:%Y-%m-%d %H:%M} UTC, " if replay.reached else ""
    return f"{reached}{replay.sent:,} of {replay.frame.height:,} messages in {seconds:.1f} s, {replay.sent / seconds:,.0f}/s"


def main() -> None:
    """Replay the span that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.nyc_flights.events", description="Replay departures and arrivals of 2013 to Kafka."
    )
    parser.add_argument("--bootstrap", required=True, help="HOST:PORT of a broker")
    parser.add_argument("--config", type=read_properties, help="file of client properties, as librdkafka names them: how to log in")
    parser.add_argument("--first", type=date.fromisoformat, required=True, help="first UTC day of events, YYYY-MM-DD")
    parser.add_argument("--last", type=date.fromisoformat, required=True, help="last UTC day of events (inclusive), YYYY-MM-DD")
    parser.add_argument("--speed", type=_speed, help="seconds of 2013 in a second; without it, as fast as possible")
    parser.add_argument("--only", choices=[name for name in ONLY if name], help="one topic instead of both")
    asked = parser.parse_args()
    try:
        check_span(asked.first, asked.last)
    except ValueError as error:
        parser.error(str(error))
    stop, topics = Event(), ONLY[asked.only]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        producer = connect(asked.bootstrap, topics, asked.config)
        frame = messages(data.flights(), asked.first, asked.last, topics)
        replay = Replay(producer=producer, frame=frame, speed=asked.speed, stop=stop, report=_Progress())
        replay.run()
    except DeliveryFailedError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    sys.stderr.write("\r\x1b[K" if sys.stderr.isatty() else "")
    sys.stdout.write(f"{_progress(replay)}\n")
    if replay.sent < frame.height:
        parser.exit(INTERRUPTED, f"{parser.prog}: interrupted; what was handed over is delivered\n")


def _speed(text: str) -> float:
    speed = float(text)
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no positive number")
    return speed


if __name__ == "__main__":
    main()
