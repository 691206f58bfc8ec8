"""The consumer of the topics that keep feeds, and its records as rows of landing."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.brokers import strict_config
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.landing import tables as landing

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

GROUP = "pipeline-online"


def open_consumer(settings: Settings) -> "Consumer":
    """A consumer of the group of all workers. Offsets are those of the states, so it commits none; ends of partitions are said."""
    from confluent_kafka import Consumer

    return Consumer(
        {
            **strict_config(settings),
            "group.id": GROUP,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "session.timeout.ms": 10_000,
            "topic.metadata.refresh.interval.ms": 5_000,
        }
    )


def landed_records(messages: "Sequence[Message]", headers: Sequence[str]) -> pa.Table:
    """Records as they would land, with the headers that are asked for, the last of each name."""
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
