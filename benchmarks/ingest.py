"""How long a large Postgres table takes to the lake, contract included, beside dlt with ConnectorX to Parquet files in the same run.

    python benchmarks/ingest.py

A table of five million rows and eight columns over thirty days is made in a stack of its own. Both sides take turns, each round in a
process of its own which reports its peak memory, imports not timed; then ours on a fifth of the table, to see whether memory grows with
it, in turn with a table of as many rows whose delay is an exact decimal and not a float. The peer gets an environment of its own, reads
the same table of the same server, checks nothing and writes plain files; ours checks every row, stages it on the object store beside its
quarantine, and commits the lake table.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg import sql

from pipeline_assets.core.settings import PREFIX, Settings, StackSettings, load_settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import POSTGRES, S3
from pipeline_assets.processing.lake.tables import publish_days
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import PostgresTable, Source

ROUNDS, DAYS = 3, 30
ROWS, FEWER_ROWS = 5_000_000, 1_000_000
FIRST = date(2013, 1, 1)
DATABASE = "airline_ops"
EXACT = "exact"
DELAY = Field(name="delay_minutes", type="number", minimum=-120, maximum=3000, description="Delay.")
EXACT_DELAY = replace(DELAY, type="decimal", precision=7, scale=3)
DLT = ("dlt[filesystem,parquet,sql_database]==1.31.0", "connectorx==0.4.6", "psycopg[binary]==3.3.4")
LOADED_WHEN_USED = ("adbc_driver_postgresql.dbapi", "boto3", "pyiceberg.catalog.sql", "pyiceberg.io.pyarrow")
PEER = Path(__file__).parent / "peers" / "dlt_connectorx.py"
TABLE = """
    create table {table} as
    select
        'flight-' || n as flight_id,
        (array['EWR', 'JFK', 'LGA'])[1 + n % 3] as origin,
        (array['AA', 'B6', 'DL', 'UA', 'WN'])[1 + n % 5] as carrier,
        (n % 9999 + 1)::bigint as flight_number,
        (random() * 100)::{delay} as delay_minutes,
        n % 7 = 0 as is_cancelled,
        at as event_at,
        at + interval '5 minutes' as recorded_at
    from generate_series(0, {rows} - 1) as n,
        lateral (select timestamptz '2013-01-01Z' + n * (interval '30 days' / {rows}) as at) as times;
    create index on {table} (event_at);
    analyze {table};
"""


def source(table: str) -> Source:
    """The generated table, with a contract that looks at every column."""
    fields = (
        Field(name="flight_id", type="string", required=True, max_length=40, description="Identifier."),
        Field(name="origin", type="string", required=True, allowed=("EWR", "JFK", "LGA"), description="Airport."),
        Field(name="carrier", type="string", required=True, max_length=2, description="Airline."),
        Field(name="flight_number", type="integer", required=True, minimum=1, maximum=9999, description="Number."),
        EXACT_DELAY if table == EXACT else DELAY,
        Field(name="is_cancelled", type="boolean", required=True, description="Called off."),
        Field(name="event_at", type="timestamp", required=True, description="When it happened."),
        Field(name="recorded_at", type="timestamp", required=True, description="When it was known."),
    )
    contract = Contract(
        name=table,
        version="1.0.0",
        owner="bench@example.com",
        description="Generated flights.",
        fields=fields,
        primary_key=("flight_id",),
        event_at="event_at",
        known_at="recorded_at",
        lateness=timedelta(hours=1),
        freshness=timedelta(days=1),
        broken_share=0.0,
    )
    return Source(contract=contract, origin=PostgresTable(database=DATABASE, table=table), load="daily")


def fill(settings: Settings, table: str, rows: int) -> None:
    """Makes the table in the operational database."""
    delay = sql.SQL("numeric(7, 3)" if table == EXACT else "float8")
    with psycopg.connect(settings.owners[DATABASE].get_secret_value()) as connection:
        connection.execute(sql.SQL(TABLE).format(table=sql.Identifier(table), rows=sql.Literal(rows), delay=delay))


def load(table: str) -> None:
    """Takes the table to the lake, and prints seconds of staging, of publishing, peak memory in megabytes and rows."""
    settings, last = load_settings(), FIRST + timedelta(days=DAYS - 1)
    for library in LOADED_WHEN_USED:
        import_module(library)
    began = time.perf_counter()
    staged = stage_days(settings, source(table), FIRST, last, run_id="bench")
    between = time.perf_counter()
    publish_days(settings, versioned(source(table).contract), FIRST, last)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(between - began, ended - between, peak, sum(one.manifest.rows for one in staged))


def ours(home: Path, table: str) -> list[float]:
    """What `load` prints in a process of its own."""
    environment = os.environ | {f"{PREFIX}HOME": str(home)}
    done = subprocess.run([sys.executable, __file__, table], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def theirs(settings: Settings, table: str) -> list[float] | None:
    """Seconds, peak memory in megabytes and rows of the peer; None, and a line that says why, where it cannot run."""
    uv = shutil.which("uv") or shutil.which("uv", path=".uv/bin")
    if uv is None:
        print("  dlt: not measured, there is no uv to make its environment")
        return None
    dsn = settings.databases[DATABASE].get_secret_value()
    packages = [word for package in DLT for word in ("--with", package)]
    with TemporaryDirectory() as folder:
        environment = os.environ | {"HOME": folder, "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))}
        command = [uv, "run", "--no-project", "--isolated", *packages, "python", str(PEER), dsn, table, folder]
        environment["RUNTIME__DLTHUB_TELEMETRY"] = "false"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  dlt: not measured, {done.stderr.strip().splitlines()[-1]}")
        return None
    return [float(number) for number in done.stdout.split()[-3:]]


def measure(home: Path, settings: Settings) -> None:
    """Prints rows a second and peak memory of both sides, the best of some rounds."""
    own, peer = [], []
    for _ in range(ROUNDS):
        own.append(ours(home, "big"))
        peer.append(theirs(settings, "big"))
    stage, publish, peak, rows = min(own, key=lambda one: one[0] + one[1])
    print(f"  ours, contract and lake included: {rows / (stage + publish):,.0f} rows/s ({stage:.2f} s staged, {publish:.2f} s published)")
    small, exact = zip(*((ours(home, "small"), ours(home, EXACT)) for _ in range(ROUNDS)), strict=True)
    floats, decimals = (min(stage + publish for stage, publish, *_ in one) for one in (small, exact))
    print(f"  peak memory {peak:.0f} MB, and {small[0][2]:.0f} MB for {FEWER_ROWS:,} rows")
    print(f"  with a decimal for the float, {FEWER_ROWS:,} rows: {floats / decimals:.2f} times as fast ({decimals:.2f} s, {floats:.2f} s)")
    measured = [one for one in peer if one is not None]
    if measured:
        seconds, peak, loaded = min(measured)
        if loaded != rows:
            raise SystemExit(f"dlt loaded {loaded:,.0f} rows, ours {rows:,.0f}.")
        print(f"  dlt with ConnectorX to Parquet: {rows / seconds:,.0f} rows/s, peak memory {peak:.0f} MB")
        print(f"  ours is {seconds / (stage + publish):.2f} times as fast")


def main() -> None:
    """Starts a stack, measures, and stops it; with a table's name, the process that is measured."""
    if len(sys.argv) > 1:
        load(sys.argv[1])
        return
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        ports = stack.free_ports()
        try:
            settings = stack.up(home, only=(POSTGRES, S3), with_history=False, stack=StackSettings(ports=ports, given={}))
            fill(settings, "big", ROWS)
            fill(settings, "small", FEWER_ROWS)
            fill(settings, EXACT, FEWER_ROWS)
            print(f"Postgres to the lake, {ROWS:,} rows of eight columns")
            measure(home, settings)
        finally:
            stack.down(home, purge=True)


if __name__ == "__main__":
    main()
