"""A small contract, its rows by day, and the lock that holds back every commit to a lake table; shared by the tests of the lake."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from threading import Event
from time import monotonic

import psycopg
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.contracts import Contract, Field

FIRST = date(2013, 1, 1)
TRIPS = Contract(
    name="trips",
    version="1.0.0",
    owner="trips@lake.example",
    description="Trips that began, one row per trip.",
    fields=(
        Field(name="trip_id", type="string", required=True, description="Identifier of the trip."),
        Field(name="began_at", type="timestamp", required=True, description="When the trip began."),
        Field(name="recorded_at", type="timestamp", required=True, description="When the row was written."),
        Field(name="seats", type="integer", description="Seats taken; null if not counted."),
        Field(name="fare", type="number", description="What was paid, in euros."),
        Field(name="is_return", type="boolean", required=True, description="The trip goes back."),
    ),
    primary_key=("trip_id",),
    event_at="began_at",
    known_at="recorded_at",
    lateness=timedelta(hours=1),
    freshness=timedelta(days=1),
    broken_share=0.0,
)


def trips(name: str = TRIPS.name, *added: Field) -> Contract:
    """The contract of trips under another name, with further fields."""
    return replace(TRIPS, name=name, fields=(*TRIPS.fields, *added))


def day(offset: int) -> date:
    """The day so many after the first."""
    return FIRST + timedelta(days=offset)


def trip_rows(on: date, count: int = 5, seats: int | None = 1, first_id: int = 0) -> pa.Table:
    """Trips of one day, the first at midnight and the last a microsecond before the next, all with the same number of seats."""
    start = datetime.combine(on, time(), UTC)
    whole = timedelta(days=1) - timedelta(microseconds=1)
    times = [start + whole * position // max(count - 1, 1) for position in range(count)]
    columns = {
        "trip_id": [f"{on}/{first_id + position}" for position in range(count)],
        "began_at": times,
        "recorded_at": [at + timedelta(minutes=1) for at in times],
        "seats": [seats] * count,
        "fare": [position / 4 for position in range(count)],
        "is_return": [position % 2 == 1 for position in range(count)],
    }
    return pa.table(columns, schema=arrow_schema(TRIPS))


def stage(settings: Settings, contract: Contract, on: date | None, rows: pa.Table) -> staging.Manifest:
    """The manifest of a partition staged with these rows in one file; columns that the rows lack are null."""
    schema = arrow_schema(contract)
    columns = [rows.column(f.name) if f.name in rows.column_names else pa.nulls(len(rows), f.type) for f in schema]
    table = pa.Table.from_arrays(columns, schema=schema)
    return staging.write_staged(settings, contract, staging.partition_of(on), table, run_id="test")


def stage_in_files(settings: Settings, contract: Contract, on: date, parts: Iterable[pa.Table]) -> staging.Manifest:
    """The manifest of a day staged in several files."""
    files = [file for part in parts for file in stage(settings, contract, on, part).files]
    manifest = staging.manifest_of(contract, staging.partition_of(on), files, run_id="test")
    return staging.publish(object_store(settings), settings.s3_bucket, manifest)


def in_lake(settings: Settings, contract: Contract) -> pa.Table:
    """All rows of a contract's lake table, by key."""
    return tables.read_all(settings, names.lake(contract.name)).read_all().sort_by(contract.primary_key[0])


class Waiting:
    """Waits for writers that stand before a lock of the catalog's database."""

    def __init__(self, settings: Settings) -> None:
        self._dsn = settings.catalog_dsn.get_secret_value()

    def for_writers(self, count: int) -> None:
        """Returns once `count` writers wait; raises AssertionError if they do not within two minutes."""
        query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        deadline, pause = monotonic() + 120, Event()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while (found := connection.execute(query).fetchone()) != (count,):
                assert monotonic() < deadline, f"{found} writers wait, expected {count}"
                pause.wait(0.02)


@contextmanager
def commits_held_back(settings: Settings, table: str) -> Iterator[Waiting]:
    """Nobody can commit to a lake table of this name before the block ends; the value waits until so many try to."""
    with psycopg.connect(settings.catalog_dsn.get_secret_value()) as holder:
        holder.execute("select from iceberg_tables where table_name = %s for update", (table,))
        yield Waiting(settings)
