"""How fast landed records become typed rows: one million JSON events of 130 bytes, from the landing table to the commit.

    python benchmarks/stream_typing.py

The events land in a stack of its own, in ten appends as Kafka Connect makes them, with one broken record in ten thousand. Each round types
them in a process of its own, which reports its peak memory, imports not timed; then once more a fifth of them, to see whether memory grows
with the backlog. Contract, quarantine, proof of the offsets and commits are included.
"""

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from pipeline_assets.core.connections import catalog
from pipeline_assets.core.settings import PREFIX, Ports, Settings, StackSettings, load_settings
from pipeline_assets.ingestion.streaming import landing
from pipeline_assets.ingestion.streaming.typed_rows import type_landed
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import POSTGRES, S3
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import EventStream, PostgresTable, Source

ROUNDS, APPENDS, BROKEN_EVERY = 3, 10, 10_000
EVENTS, FEWER_EVENTS = 1_000_000, 200_000
WANTED_EVENTS_PER_SECOND = 300_000
FIRST = datetime(2013, 6, 1, tzinfo=UTC)
LOADED_WHEN_USED = ("boto3", "duckdb", "psycopg", "pyiceberg.catalog.sql", "pyiceberg.io.pyarrow")


def stream(name: str) -> EventStream:
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
    history = Source(contract=contract, origin=PostgresTable(database="bench", table="none"), load="daily")
    return EventStream(contract=contract, topic=name, history=history, history_field="origin", history_value="EWR")


def event(number: int, events: int) -> bytes:
    """One event of a day; each so many is broken."""
    at = FIRST + timedelta(days=1) * number / events
    told = {
        "flight": f"2013-06-01-{number:08}",
        "origin": ("EWR", "JFK", "LGA")[number % 3],
        "delay": number % 100,
        "is_off": False,
        "at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "known": f"{at:%Y-%m-%dT%H:%M:%SZ}",
    }
    text = json.dumps(told, separators=(",", ":")).encode()
    return text[:-1] if number % BROKEN_EVERY == 0 else text


def fill(settings: Settings, name: str, events: int) -> float:
    """Lands the events of a topic, and gives their mean size in bytes."""
    step, total = events // APPENDS, 0
    with catalog(settings) as lake, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parquet writer option")
        table = landing.ensure_landing_table(lake, name)
        for start in range(0, events, step):
            payloads = [event(number, events) for number in range(start, start + step)]
            total += sum(map(len, payloads))
            columns = [payloads, [name] * step, [0] * step, list(range(start, start + step)), [FIRST] * step]
            table.append(pa.table(columns, schema=landing.SCHEMA))
    return total / events


def run(name: str) -> None:
    """Types the events of a topic, and prints seconds, peak memory in megabytes, rows, broken records and commits."""
    settings = load_settings()
    for library in LOADED_WHEN_USED:
        import_module(library)
    began = time.perf_counter()
    typed = type_landed(settings, stream(name), run_id="bench")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(seconds, peak, typed.rows, sum(typed.broken.values()), typed.commits)


def measured(home: Path, name: str) -> list[float]:
    """What `run` prints in a process of its own."""
    environment = os.environ | {f"{PREFIX}HOME": str(home)}
    done = subprocess.run([sys.executable, __file__, name], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(number) for number in done.stdout.split()]


def measure(home: Path, settings: Settings) -> None:
    """Prints events a second and peak memory, the best of some rounds."""
    sizes = [fill(settings, f"events_{number}", EVENTS) for number in range(ROUNDS)]
    fill(settings, "fewer_events", FEWER_EVENTS)
    rounds = [measured(home, f"events_{number}") for number in range(ROUNDS)]
    seconds, peak, rows, broken, commits = min(rounds)
    if rows + broken != EVENTS:
        raise SystemExit(f"{rows:,.0f} rows and {broken:,.0f} broken records came of {EVENTS:,}.")
    print(f"Typing {EVENTS:,} JSON events of {sizes[0]:.0f} bytes, {broken:.0f} of them broken")
    print(f"  {EVENTS / seconds:,.0f} events/s ({seconds:.2f} s, {commits:.0f} commits); wanted {WANTED_EVENTS_PER_SECOND:,}")
    print(f"  rounds: {', '.join(f'{one[0]:.2f} s' for one in rounds)}")
    print(f"  peak memory {peak:.0f} MB, and {measured(home, 'fewer_events')[1]:.0f} MB for {FEWER_EVENTS:,} events")


def main() -> None:
    """Starts a stack, measures, and stops it; with a topic's name, the process that is measured."""
    if len(sys.argv) > 1:
        run(sys.argv[1])
        return
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        ports = Ports(dagster=0, dagster_code=0, mlflow=0, postgres=0, s3=0, weather=0)
        try:
            settings = stack.up(home, only=(POSTGRES, S3), with_history=False, stack=StackSettings(ports=ports, given={}))
            measure(home, settings)
        finally:
            stack.down(home, purge=True)


if __name__ == "__main__":
    main()
