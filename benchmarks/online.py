"""How fast the online store takes events and answers questions, beside Feast: the seven views of the reference model.

    python -m benchmarks.online [--no-peers]

On a stack of its own, four weeks of departures, arrivals, weather and aircraft are put into the store, which says how fast states are made
without decoding. Then one worker takes a backlog from Kafka, decoding and contract included. Then one row, and a hundred, are asked for 200
times a second in an open loop: an answer is late from the time at which its request was due, whatever the one before it did. Random
entities are asked for as they are now, each of which the process has asked for before, and which it keeps or asks for each time; then as
they are a day later, when every window has moved on, so that tiles are added up for each key that is asked for the first time. Then a
worker in a process of its own takes 2,000 events a second, and single events are looked for until they can be read, while another process
reads. Last, Feast has the same values under the same keys, in an environment of its own, on the same Postgres and on Valkey, and is asked
one question after the other, as is this store.
"""

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.shared.online_feast import measure_feast
from benchmarks.shared.online_rows import a_reader, at, declared, events, questions, shown, table_rows, times
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import online
from pipeline_assets.core.instants import microseconds_at
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import KAFKA, POSTGRES
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.course import Course
from pipeline_assets.model_lifecycle.feature_store.online.facts import facts_of
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_days, keep_records
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.model_lifecycle.feature_store.online.worker import Worker

if TYPE_CHECKING:
    from confluent_kafka import Producer

HISTORY, BATCH, BACKLOG, SPAN = 300_000, 20_000, 200_000, timedelta(days=28)
REQUESTS_A_SECOND, EVENTS_A_SECOND, SECONDS = 200, 2_000, 12
PATIENCE_SECONDS, TICKS, PARTITIONS = 60.0, 20, 4


def fill(settings: Settings, feeds: Sequence[Feed], start: datetime, end: datetime) -> None:
    """Puts the history of all feeds into the store, and prints how fast."""
    for feed in feeds:
        with online(settings) as connection:
            kept = store.begin(connection, feed)
            store.go_live(connection, kept)
        with open_session(settings, kept) as session:
            if feed.stream is None:
                keep_days(session, table_rows(feed, start, end), microseconds_at(start), microseconds_at(end))
            else:
                fill_stream(session, start, end)


def fill_stream(session: Session, start: datetime, end: datetime) -> None:
    """Takes the history of a stream in batches, as a build does, and prints how fast."""
    feed = session.kept.feed
    parts = [events(feed, number * BATCH, at) for number, at in enumerate(np.split(times(start, end, HISTORY), HISTORY // BATCH))]
    began, ours, slowest = time.perf_counter(), time.process_time(), 0.0
    for part in parts:
        since = time.perf_counter()
        keep_records(session, part, {})
        slowest = max(slowest, time.perf_counter() - since)
    seconds, ours = time.perf_counter() - began, time.process_time() - ours
    print(f"  {HISTORY:,} of {feed.name} into {len(feed.views)} views: {HISTORY / seconds:,.0f} rows/s, slowest {BATCH:,} {slowest:.2f} s,")
    print(f"    {1e6 * seconds / HISTORY:.1f} µs a row, of these {1e6 * ours / HISTORY:.1f} of this process")


def produce(producer: "Producer", feed: Feed, rows: pa.Table) -> None:
    """Sends rows as the records of a stream, and waits until the broker has them."""
    if feed.stream is None:
        raise ValueError(f"{feed.name} has no topic.")
    shown = {
        field.name: pc.strftime(rows[field.name], "%Y-%m-%dT%H:%M:%SZ") if pa.types.is_timestamp(field.type) else rows[field.name]
        for field in rows.schema
    }
    for row in pa.table(shown).to_pylist():
        producer.produce(feed.stream.topic, json.dumps(row))
    producer.flush(PATIENCE_SECONDS)


def take_backlog(settings: Settings, project: Project, feeds: Sequence[Feed], start: datetime, end: datetime) -> None:
    """Has one worker take records that are there already, and prints how fast, decoding and contract included."""
    from confluent_kafka import Producer

    producer = Producer({**client_config(settings), "linger.ms": 50, "queue.buffering.max.messages": BACKLOG + 1})
    each = BACKLOG // len(feeds)
    for feed in feeds:
        produce(producer, feed, events(feed, HISTORY, times(start, end, each)))
    with ExitStack() as opened:
        worker = Worker(settings, {feed: Course() for feed in feeds}, project.streams, opened)
        taken = rows = 0
        began = ours = 0.0
        while taken < each * len(feeds):
            now, used = time.perf_counter(), time.process_time()
            found = worker.step()
            if found and not began:
                began, ours = now, used
            taken, rows = taken + sum(one.records for one in found), rows + sum(one.rows for one in found)
        seconds, ours = time.perf_counter() - began, time.process_time() - ours
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    rate = (
        f"{taken / seconds:,.0f} events/s (20,000 wanted), {1e6 * ours / taken:.1f} µs of the worker an event, peak memory {memory:.0f} MB"
    )
    print(f"  one worker, {taken:,} events of two topics into {sum(len(feed.views) for feed in feeds)} views: {rate}")
    if rows != taken:
        raise SystemExit(f"{taken - rows} of the events broke their contract.")


def ask(settings: Settings, rows: int, seconds: float, after: timedelta, keeps: bool) -> list[float]:  # noqa: FBT001 - sent to a process
    """Asks for entities at a fixed rate, as they are now or a while `after`, and gives how late each answer was, in milliseconds.

    As they are now, all have been asked for before. A second of questions counts for nothing.
    """
    random, late = np.random.default_rng(rows), list[float]()
    asked = [questions(random, rows) for _ in range(int((seconds + 1) * REQUESTS_A_SECOND))]
    with a_reader(settings, keeps=keeps) as reader:
        began = time.perf_counter()
        for number, one in enumerate(asked):
            due = began + number / REQUESTS_A_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            reader.read(at(one, datetime.now(UTC) + after))
            late.append(1000 * (time.perf_counter() - due))
    return late[REQUESTS_A_SECOND:]


def in_own_process(settings: Settings, rows: int, after: timedelta = timedelta(0), *, keeps: bool = True) -> list[float]:
    """The same, in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(ask, settings, rows, SECONDS, after, keeps).result()


def work(settings: Settings) -> None:
    """A worker, until it is ended."""
    project, feeds = declared()
    with ExitStack() as opened:
        worker = Worker(settings, {feed: Course() for feed in feeds if feed.stream is not None}, project.streams, opened)
        while True:
            worker.step()


@contextmanager
def a_worker(settings: Settings) -> Iterator[None]:
    """A worker in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(settings,))
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def send(settings: Settings, seconds: float) -> None:
    """Sends events at the rate wanted, of the streams in turn, as they happen."""
    from confluent_kafka import Producer

    producer = Producer({**client_config(settings), "linger.ms": 5})
    feeds = [feed for feed in declared()[1] if feed.stream is not None]
    each, began = EVENTS_A_SECOND // len(feeds) // TICKS, time.perf_counter()
    for tick in range(int(seconds * TICKS)):
        now = datetime.now(UTC)
        for feed in feeds:
            produce(producer, feed, events(feed, 10 * HISTORY + tick * each, times(now - timedelta(seconds=1 / TICKS), now, each)))
        time.sleep(max(0.0, began + (tick + 1) / TICKS - time.perf_counter()))
    behind = time.perf_counter() - began - seconds
    if behind > 1:
        print(f"  Events were sent {behind:.0f} s late: this machine has no time for more.")


def single_events(settings: Settings, feed: Feed, most: int, seconds: float) -> list[float]:
    """Sends an event of an aircraft of its own and looks for it until it can be read, again and again; gives the milliseconds of each."""
    from confluent_kafka import Producer

    producer = Producer({**client_config(settings), "linger.ms": 0})
    view = next(view for view in feed.views if view.entity.keys == ("tailnum",))
    late, ends = list[float](), time.perf_counter() + seconds
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        reader = Reader(Stored(connection, [feed]), [view])
        while len(late) < most and time.perf_counter() < ends:
            tail = token_hex(5)
            row = events(feed, 0, times(datetime.now(UTC), datetime.now(UTC), 1)).to_pylist()[0]
            row = pa.Table.from_pylist([{**row, "flight_id": tail, "tailnum": tail}], arrow_schema(feed.contract))
            sent, status = time.perf_counter(), "unknown"
            produce(producer, feed, row)
            while status == "unknown" and time.perf_counter() < ends:
                time.sleep(0.005)
                asked = pa.table({"tailnum": [tail], "decision_at": pa.array([datetime.now(UTC)], pa.timestamp("us", "UTC"))})
                status = reader.read(asked).statuses[view.name][0]
            if status != "unknown":
                late.append(1000 * (time.perf_counter() - sent))
    return late


def measure_live(settings: Settings, feeds: Sequence[Feed]) -> None:
    """Prints how long events take to be readable, and reads meanwhile."""
    feed = next(feed for feed in feeds if len(feed.views) > 1)
    with a_worker(settings), ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        if not single_events(settings, feed, 1, PATIENCE_SECONDS):
            raise SystemExit("The worker takes no events.")
        sending = pool.submit(send, settings, SECONDS + 10)
        reading = pool.submit(ask, settings, 1, SECONDS, timedelta(0), True)
        late = single_events(settings, feed, HISTORY, SECONDS)
        print(f"  {EVENTS_A_SECOND:,} events/s: {len(late)} single ones until they can be read: {shown(late)} (300 and 1,000 wanted)")
        print(f"    one row, {REQUESTS_A_SECOND} a second meanwhile: {shown(reading.result())}")
        sending.result()


def measure_size(settings: Settings, feeds: Sequence[Feed]) -> None:
    """Prints what is kept of a key."""
    with online(settings) as connection:
        for feed in feeds:
            facts = facts_of(connection, feed, datetime.now(UTC))
            keys = max(facts["keys"], 1)
            print(f"  {feed.name}: {facts['keys']:,} keys of {len(feed.views)} views, {facts['bytes'] / keys:,.0f} bytes of state a key")


def measure_reads(settings: Settings) -> None:
    """Prints how late answers are."""
    for rows, wanted in ((1, "1 and 3 wanted"), (100, "10 wanted at p99")):
        late, asked = (in_own_process(settings, rows, keeps=keeps) for keeps in (True, False))
        print(f"  {rows} rows of all views, {REQUESTS_A_SECOND} a second: {shown(late)} ({wanted}); by a query each: {shown(asked)}")
    late = in_own_process(settings, 1, timedelta(days=1))
    print(f"  1 rows from tiles, as each window has moved on since the last event: {shown(late)}")


def main() -> None:
    """Starts Postgres and Kafka, measures, and stops them."""
    project, feeds = declared()
    streams, end = [feed for feed in feeds if feed.stream is not None], datetime.now(UTC) - timedelta(hours=1)
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        try:
            settings = stack.up(home, only=(POSTGRES, KAFKA), with_history=False, stack=StackSettings(ports=stack.free_ports(), given={}))
            ensure_topics(settings, [Topic(name=feed.stream.topic, partitions=PARTITIONS) for feed in streams if feed.stream is not None])
            print("Events, online")
            fill(settings, feeds, end - SPAN, end)
            take_backlog(settings, project, streams, end, datetime.now(UTC))
            measure_size(settings, feeds)
            print("Questions, online")
            measure_reads(settings)
            measure_live(settings, streams)
            if "--no-peers" not in sys.argv:
                measure_feast(settings, Path(name))
        finally:
            stack.down(home, purge=True)


if __name__ == "__main__":
    main()
