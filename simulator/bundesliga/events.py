"""The event producer: matches as they were announced and as they ended, as messages of two Kafka topics.

    python -m simulator.bundesliga.events --bootstrap 127.0.0.1:9092 --first 2006-07-01 --last 2007-06-30
        [--config .pipeline/producer.properties]

The topics must be there; a missing one is an error. A record's time is when the event could be known.
"""

import argparse
import sys
from datetime import date
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from simulator.bundesliga.messages import FIXTURES, RESULTS, messages
from simulator.properties import read_properties

ANSWER_SECONDS, DELIVERY_SECONDS = 10.0, 60.0


def send(bootstrap: str, config: dict[str, Any], first: date, last: date) -> int:
    """Sends the messages of the days `first` to `last` (UTC, inclusive) and returns how many; raises RuntimeError if one is refused."""
    producer = _connect(bootstrap, config)
    refused: list[str] = []

    def check(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            refused.append(error.str())

    sent = messages(first, last)
    for one in sent:
        at = round(one.known_at.timestamp() * 1000)
        producer.produce(one.topic, one.value, one.key.encode(), timestamp=at, on_delivery=check)
        producer.poll(0)
    left = producer.flush(DELIVERY_SECONDS)
    if refused or left:
        raise RuntimeError(f"{len(refused) + left} of {len(sent)} messages were not delivered: {', '.join(refused[:1]) or 'no answer'}")
    return len(sent)


def _connect(bootstrap: str, config: dict[str, Any]) -> Producer:
    """A producer for the two topics; raises RuntimeError where no broker answers or a topic is missing."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 0, **config})
    try:
        known = producer.list_topics(timeout=ANSWER_SECONDS).topics
    except KafkaException as error:
        raise RuntimeError(f"no broker answers at {bootstrap}: {error.args[0].str()}") from error
    missing = [topic for topic in (FIXTURES, RESULTS) if topic not in known]
    if missing:
        raise RuntimeError(f"the broker at {bootstrap} has no topic {', '.join(missing)}; create it first")
    return producer


def main() -> None:
    """Send the span that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m simulator.bundesliga.events")
    parser.add_argument("--bootstrap", required=True, help="HOST:PORT of a broker")
    parser.add_argument(
        "--config", type=read_properties, default={}, help="file of client properties, as librdkafka names them: how to log in"
    )
    parser.add_argument("--first", type=date.fromisoformat, required=True, help="first UTC day of events, YYYY-MM-DD")
    parser.add_argument("--last", type=date.fromisoformat, required=True, help="last UTC day of events (inclusive), YYYY-MM-DD")
    asked = parser.parse_args()
    if asked.first > asked.last:
        parser.error(f"--first {asked.first} comes after --last {asked.last}")
    try:
        sys.stdout.write(f"{send(asked.bootstrap, asked.config, asked.first, asked.last):,} messages\n")
    except RuntimeError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
