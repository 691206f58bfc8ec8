"""How fast the online store takes events and answers questions, in one process on a Postgres of its own.

    python -m benchmarks.online

Departures of 28 days (four views of the reference model) are taken in batches of ten thousand, contract and decoding left out; then one
row, and a hundred, are asked for all four views, some seconds each, between batches of two hundred events.
"""

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psycopg
import pyarrow as pa

from pipeline_assets.core.connections import online
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import POSTGRES
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.session import open_session
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest

EVENTS, BATCH, ASKED = 400_000, 10_000, 2_000
START, SPAN = datetime(2013, 5, 1, tzinfo=UTC), timedelta(days=28)
TEXTS = {"carrier": 16, "tailnum": 4_000, "origin": 3, "dest": 100}


def events(feed: Feed, first: int, count: int) -> pa.Table:
    """Events in the order of their time, each a flight of its own."""
    random, schema = np.random.default_rng(first), arrow_schema(feed.contract)
    step = SPAN / EVENTS
    start = np.datetime64(START.replace(tzinfo=None), "us")
    at = start + np.timedelta64(step) * np.arange(first, first + count)
    columns: dict[str, object] = {
        "flight_id": [f"flight-{number}" for number in range(first, first + count)],
        **{name: [f"{name[0].upper()}{one}" for one in random.integers(0, kinds, count)] for name, kinds in TEXTS.items()},
        "event_at": at,
        "delay_minutes": random.integers(-20, 200, count),
        "is_cancelled": random.integers(0, 50, count) == 0,
        "recorded_at": at + np.timedelta64(30, "s"),
    }
    return pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in schema}, schema=schema)


def questions(random: np.random.Generator, rows: int, at: datetime) -> pa.Table:
    """Random entities at a time."""
    texts = {name: [f"{name[0].upper()}{one}" for one in random.integers(0, kinds, rows)] for name, kinds in TEXTS.items()}
    return pa.table({**texts, "decision_at": pa.array([at] * rows, pa.timestamp("us", "UTC"))})


def measure(settings: Settings, feed: Feed, total: int) -> None:
    """Prints events a second, and the time of questions."""
    with online(settings) as connection:
        kept = store.begin(connection, feed)
        store.go_live(connection, kept)
    with open_session(settings, kept) as session:
        parts = [events(feed, first, BATCH) for first in range(0, total, BATCH)]
        began, slowest = time.perf_counter(), 0.0
        for number, part in enumerate(parts):
            since = time.perf_counter()
            keep_records(session, part, {0: (number + 1) * BATCH})
            slowest = max(slowest, time.perf_counter() - since)
        seconds = time.perf_counter() - began
        rate = f"{total / seconds:,.0f} events/s (20,000 wanted)"
        print(f"  {total:,} events into {len(feed.views)} views: {rate}, slowest batch {slowest:.2f} s")
        with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
            reader, random, sent = Reader(Stored(connection, [feed]), feed.views), np.random.default_rng(1), total
            for rows in (1, 100):
                times = []
                for asked in range(ASKED if rows == 1 else ASKED // 10):
                    if asked % 50 == 0:
                        keep_records(session, events(feed, sent, 200), {0: sent})
                        sent += 200
                    requests = questions(random, rows, START + SPAN / EVENTS * sent + timedelta(minutes=1))
                    since = time.perf_counter()
                    reader.read(requests)
                    times.append(1000 * (time.perf_counter() - since))
                p50, p99 = np.percentile(times, [50, 99])
                print(f"  {rows} rows of {len(feed.views)} views: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def main() -> None:
    """Starts a Postgres, measures, and stops it."""
    feed = next(one for one in feeds_of(load_project(), read_manifest(project_folder())) if one.table.name == "departures_history")
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        try:
            settings = stack.up(home, only=(POSTGRES,), with_history=False, stack=StackSettings(ports=stack.free_ports(), given={}))
            print("Departures, online")
            measure(settings, feed, int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
        finally:
            stack.down(home, purge=True)


if __name__ == "__main__":
    main()
