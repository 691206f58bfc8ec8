"""The event producer: matches as they were announced and as they ended, as messages of two Kafka topics.

    python -m simulator.bundesliga.events --bootstrap 127.0.0.1:9092 --first 2006-07-01 --last 2007-06-30

The topics must be there. A record's time is when the event could be known.
"""

import argparse
import sys
from datetime import date

from confluent_kafka import KafkaError, Message, Producer

from simulator.bundesliga.messages import messages

DELIVERY_SECONDS = 60.0


def send(bootstrap: str, first: date, last: date) -> int:
    """Sends the messages of the days `first` to `last` (UTC, inclusive) and returns how many; raises RuntimeError if one is refused."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 0})
    refused: list[str] = []

    def check(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            refused.append(error.str())

    sent = messages(first, last)
    for one in sent:
        at = round(one.known_at.timestamp() * 1000)
        producer.produce(one.topic, one.value.encode(), one.key.encode(), timestamp=at, on_delivery=check)
        producer.poll(0)
    left = producer.flush(DELIVERY_SECONDS)
    if refused or left:
        raise RuntimeError(f"{len(refused) + left} of {len(sent)} messages were not delivered: {', '.join(refused[:1]) or 'no answer'}")
    return len(sent)


def main() -> None:
    """Send the span that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m simulator.bundesliga.events")
    parser.add_argument("--bootstrap", required=True, help="HOST:PORT of a broker")
    parser.add_argument("--first", type=date.fromisoformat, required=True, help="first UTC day of events, YYYY-MM-DD")
    parser.add_argument("--last", type=date.fromisoformat, required=True, help="last UTC day of events (inclusive), YYYY-MM-DD")
    asked = parser.parse_args()
    sys.stdout.write(f"{send(asked.bootstrap, asked.first, asked.last):,} messages\n")


if __name__ == "__main__":
    main()
