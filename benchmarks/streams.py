"""How fast events of a topic become landed bytes and typed rows: one million of 130 bytes, through real Kafka and Kafka Connect.

    python benchmarks/streams.py

In a stack of its own the million is put on a topic, then the connector that lands it is put. What broker, worker and object store hold in
memory is looked at meanwhile, and every offset must be there once. Then single events, one after the other at random times, each until a
reader sees its row. Then the million is typed in rounds, each in a process of its own which reports its peak memory, imports not timed; and
once a fifth of it, to see whether memory grows with the backlog. One event in ten thousand is broken. Contract, quarantine, proof of the
offsets and commits are included. Exit code 1 where an event is lost, duplicated or not counted as broken.
"""

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from confluent_kafka import Producer
from pyiceberg.table import Table

from pipeline_assets.core import names
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.settings import PREFIX, Settings, StackSettings, load_settings
from pipeline_assets.ingestion.streaming.capture import configs as connectors
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import EVENT_PARTITIONS
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.ingestion.streaming.typed.table import rows_of
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.plan import CONNECT, KAFKA, POSTGRES, S3
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import EventStream

ROUNDS, SINGLE_EVENTS, BROKEN_EVERY = 3, 40, 10_000
EVENTS, FEWER_EVENTS, QUEUED = 1_000_000, 200_000, 100_000
MANY, FEWER, SINGLE = "events", "fewer-events", "single-events"
FIRST = datetime(2013, 6, 1, tzinfo=UTC)
# The records' own time: what a record says was known must have been known by then.
SENT_AT = FIRST + timedelta(days=1)
POLL_SECONDS, PATIENCE_SECONDS, LONGEST_PAUSE = 0.05, 180.0, 2.0
WANTED_LANDED, WANTED_TYPED, WANTED_GIB, WANTED_SECONDS = 80_000, 300_000, 1.8, 5.0
LOADED_WHEN_USED = ("boto3", "duckdb", "psycopg", "pyiceberg.catalog.sql", "pyiceberg.io.pyarrow")


def stream(name: str, topic: str) -> EventStream:
    """Generated departures, with a contract that looks at every field."""
    fields = (
        Field(name="flight", type="string", required=True, max_length=40, description="Identifier."),
        Field(name="origin", type="string", required=True, allowed=("EWR", "JFK", "LGA"), description="Airport."),
        Field(name="delay", type="integer", minimum=-120, maximum=3000, description="Delay, in minutes."),
        Field(name="is_off", type="boolean", required=True, description="Called off."),
        Field(name="at", type="timestamp", required=True, description="When it happened."),
        Field(name="known", type="timestamp", required=True, description="When it was known."),
    )
    contract = Contract(
        name=name,
        version="1.0.0",
        owner="bench@example.com",
        description="Generated departures.",
        fields=fields,
        primary_key=("flight",),
        event_at="at",
        known_at="known",
        lateness=timedelta(hours=1),
        freshness=timedelta(days=1),
        broken_share=0.01,
    )
    return EventStream(contract=contract, topic=topic)


def event(number: int, events: int) -> bytes:
    """One event of a day; each so many is broken."""
    at = FIRST + timedelta(days=1) * number / events
    fields = {
        "flight": f"2013-06-01-{number:08}",
        "origin": ("EWR", "JFK", "LGA")[number % 3],
        "delay": number % 100,
        "is_off": False,
        "at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "known": f"{at:%Y-%m-%dT%H:%M:%SZ}",
    }
    text = json.dumps(fields, separators=(",", ":")).encode()
    return text[:-1] if number % BROKEN_EVERY == 0 else text


def send(settings: Settings, topic: str, payloads: Iterable[bytes]) -> None:
    """Puts payloads on a topic, in turn on each of its partitions, and returns once the broker has them all.

    They are made one by one: the peak memory of a process is not less than that of the one that started it, so this one stays small.
    """
    producer = Producer({**client_config(settings), "acks": "all", "queue.buffering.max.messages": QUEUED})
    for number, payload in enumerate(payloads):
        if number % QUEUED == QUEUED - 1:
            producer.flush(PATIENCE_SECONDS)
        producer.produce(topic, value=payload, partition=number % EVENT_PARTITIONS, timestamp=int(SENT_AT.timestamp() * 1000))
    if producer.flush(PATIENCE_SECONDS):
        raise SystemExit("The broker did not take all events.")


def prepared(settings: Settings, topic: str) -> Table:
    """The landing table of a new topic."""
    ensure_topics(settings, [Topic(name=topic, partitions=EVENT_PARTITIONS), *connectors.landing_topics(topic)])
    return landing.ensure_landing_table(catalog(settings), topic)


def connect(settings: Settings, topic: str) -> None:
    """Puts the connector that lands a topic."""
    with open_connect(settings) as worker:
        worker.put(names.landing_connector(topic), connectors.landing(settings, topic))


def memory_gib(home: Path) -> float:
    """Resident memory of broker, worker and object store."""
    running = [processes.running(home, name) for name in (KAFKA, CONNECT, S3)]
    return sum(psutil.Process(one.pid).memory_info().rss for one in running if one is not None) / 2**30


def landed_by(table: Table, rows: int, home: Path) -> float:
    """Returns once so many records have landed, with the most memory that was seen meanwhile, in GiB."""
    most, deadline = 0.0, time.monotonic() + PATIENCE_SECONDS
    while rows_of(table.refresh()) < rows:
        if time.monotonic() > deadline:
            raise SystemExit(f"{rows_of(table):,} of {rows:,} records have landed in {PATIENCE_SECONDS:.0f} s.")
        most = max(most, memory_gib(home))
        time.sleep(POLL_SECONDS)
    return max(most, memory_gib(home))


def refuse_other_offsets(table: Table, events: int) -> None:
    """Ends the bench unless every offset of each partition is there once."""
    found = table.scan(selected_fields=(landing.PARTITION, landing.OFFSET)).to_arrow()
    wanted = dict.fromkeys(range(EVENT_PARTITIONS), ((0, events // EVENT_PARTITIONS),))
    if found.num_rows != events or landing.offsets_in(found) != wanted:
        raise SystemExit(f"{found.num_rows:,} records have landed of {events:,}: {landing.offsets_in(found)}")


def measure_landing(home: Path, settings: Settings) -> None:
    """Prints how fast a million events land, and the memory that it takes."""
    table, size = prepared(settings, MANY), len(event(1, EVENTS))
    send(settings, MANY, (event(number, EVENTS) for number in range(EVENTS)))
    began = time.time()
    connect(settings, MANY)
    most = landed_by(table, EVENTS, home)
    refuse_other_offsets(table, EVENTS)
    commits = table.snapshots()
    first, last, summary = commits[0].timestamp_ms / 1000, commits[-1].timestamp_ms / 1000, commits[0].summary
    before = 0 if summary is None else int(summary["added-records"] or 0)
    rate = (EVENTS - before) / (last - first)
    print(f"Landing {EVENTS:,} events of {size} bytes, in {len(commits)} commits")
    print(f"  {rate:,.0f} events/s after the first commit ({EVENTS - before:,} in {last - first:.1f} s); wanted {WANTED_LANDED:,}")
    print(f"  {last - began:.1f} s from putting the connector, {first - began:.1f} s of them to the first commit")
    print(f"  broker, worker and object store: {most:.2f} GiB at most; wanted at most {WANTED_GIB}")


def measure_single_events(home: Path, settings: Settings) -> None:
    """Prints how long single events take until a reader sees their row; the first, for which the connector starts, is not counted."""
    table, pause = prepared(settings, SINGLE), random.Random(2013)  # noqa: S311 - no secret
    connect(settings, SINGLE)
    waited = []
    for number in range(SINGLE_EVENTS + 1):
        time.sleep(pause.uniform(0, LONGEST_PAUSE))
        began = time.monotonic()
        send(settings, SINGLE, [event(number + 1, EVENTS)])
        landed_by(table, number + 1, home)
        waited.append(time.monotonic() - began)
    print(f"From a single event to its landed row, {SINGLE_EVENTS} times: {spread(waited[1:])}; wanted p95 {WANTED_SECONDS:.0f} s")


def spread(seconds: Sequence[float]) -> str:
    """Median, 95th percentile (a value that was measured) and maximum."""
    middle, high = np.percentile(seconds, (50, 95), method="inverted_cdf")
    return f"median {middle:.1f} s, p95 {high:.1f} s, most {max(seconds):.1f} s"


def run(name: str, topic: str) -> None:
    """Types the events of a topic, and prints seconds, peak memory in megabytes, rows, broken records and commits."""
    settings = load_settings()
    for library in LOADED_WHEN_USED:
        import_module(library)
    began = time.perf_counter()
    typed = type_landed(settings, stream(name, topic), run_id="bench")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(seconds, peak, typed.rows, sum(typed.broken.values()), typed.commits)


def measured(home: Path, name: str, topic: str) -> list[float]:
    """What `run` prints in a process of its own."""
    environment = os.environ | {f"{PREFIX}HOME": str(home)}
    done = subprocess.run([sys.executable, __file__, name, topic], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(number) for number in done.stdout.split()]


def measure_typing(home: Path, settings: Settings) -> None:
    """Prints events a second and peak memory, the best of some rounds."""
    rounds = [measured(home, f"events_{number}", MANY) for number in range(ROUNDS)]
    table = prepared(settings, FEWER)
    send(settings, FEWER, (event(number, FEWER_EVENTS) for number in range(FEWER_EVENTS)))
    connect(settings, FEWER)
    landed_by(table, FEWER_EVENTS, home)
    fewer = measured(home, "fewer_events", FEWER)
    for numbers, events in ((fewer, FEWER_EVENTS), *((one, EVENTS) for one in rounds)):
        if (numbers[2], numbers[3]) != (events - events // BROKEN_EVERY, events // BROKEN_EVERY):
            raise SystemExit(f"{numbers[2]:,.0f} rows and {numbers[3]:,.0f} broken records came of {events:,}.")
    seconds, peak, _, broken, commits = min(rounds)
    print(f"Typing them, {broken:.0f} of them broken")
    print(f"  {EVENTS / seconds:,.0f} events/s ({seconds:.2f} s, {commits:.0f} commits); wanted {WANTED_TYPED:,}")
    print(f"  rounds: {', '.join(f'{one[0]:.2f} s' for one in rounds)}")
    print(f"  peak memory {peak:.0f} MB, and {fewer[1]:.0f} MB for {FEWER_EVENTS:,} events")


def main() -> None:
    """Starts a stack, measures, and stops it; with names of a table and a topic, the process that is measured."""
    if len(sys.argv) > 1:
        run(*sys.argv[1:])
        return
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        wanted, ports = (POSTGRES, S3, KAFKA, CONNECT), stack.free_ports()
        try:
            settings = stack.up(home, only=wanted, with_history=False, stack=StackSettings(ports=ports, given={}))
            measure_landing(home, settings)
            measure_single_events(home, settings)
            measure_typing(home, settings)
        finally:
            stack.down(home, purge=True)


if __name__ == "__main__":
    main()
