"""Workers as processes, records that are sent to them, and how far they are, for the tests of the online store."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import online
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets_tests.online_worker import departures_of

PARTITIONS = 3


def departures_topic(settings: Settings) -> Feed:
    """Departures from a topic of its own, of which the store has nothing."""
    declared = departures_of(f"departures-{token_hex(4)}")
    assert declared.stream is not None
    admin = AdminClient(client_config(settings))
    admin.create_topics([NewTopic(declared.stream.topic, PARTITIONS, 1)])[declared.stream.topic].result()
    return declared


def send(settings: Settings, declared: Feed, rows: list[dict[str, Any]], random: np.random.Generator) -> int:
    """Sends rows as records, some of them twice and some broken ones between; gives how many records there are."""
    assert declared.stream is not None
    producer, count = Producer({**client_config(settings), "acks": "all"}), 0
    for row in rows:
        value = json.dumps({name: one.isoformat() if isinstance(one, datetime) else one for name, one in row.items()}).encode()
        at = int(row["recorded_at"].timestamp() * 1000)
        copies = [value] * (2 if random.integers(0, 5) == 0 else 1) + [b"{broken"] * int(random.integers(0, 8) == 0)
        for one in copies:
            producer.produce(declared.stream.topic, one, partition=int(random.integers(0, 3)), timestamp=at)
            count += 1
    producer.flush(30)
    return count


@contextmanager
def worker_process(declared: Feed, folder: Path, *arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker in a process of its own, which writes to `worker.log`; killed in the end."""
    assert declared.stream is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | {f"{PREFIX}HOME": str(folder)}
    command = [sys.executable, "-m", "pipeline_assets_tests.online_worker", declared.stream.topic, *map(str, arguments)]
    with (folder / "worker.log").open("ab") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def taken(settings: Settings, declared: Feed) -> int:
    """How many offsets the states have seen."""
    with online(settings) as connection:
        return sum(store.offsets(connection, store.live(connection, declared)).values())
