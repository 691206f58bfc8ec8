"""Raw tables on real services: copies of the lake's days, replaced whole, whatever happens in the middle."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from multiprocessing.connection import Connection

import psycopg
import pyarrow as pa
import pytest
from psycopg.sql import SQL, Identifier

from pipeline_assets.core import connections, names
from pipeline_assets.core.errors import SchemaConflict, UnknownName
from pipeline_assets.core.lake_errors import RowsLost
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.batch.load import stage_snapshot
from pipeline_assets.processing.cleaning import raw_tables
from pipeline_assets.processing.cleaning.models import Built
from pipeline_assets.processing.cleaning.publish import publish
from pipeline_assets.processing.cleaning.raw_schema import follow_contract, qualified
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets_tests.lake_rows import TRIPS, day, in_lake, stage, trip_rows, trips
from pipeline_assets_tests.postgres_edges import KEY, edge_rows, edges_contract, edges_ddl
from pipeline_assets_tests.readings import World

RAW_TRIPS = ".".join(names.raw(TRIPS.name))


def put_in_lake(settings: Settings, contract: Contract, days: int, seats: int | None = 1, count: int = 5) -> None:
    """Publishes so many days from the first on."""
    for offset in range(days):
        stage(settings, contract, day(offset), trip_rows(day(offset), seats=seats, count=count))
    tables.publish_days(settings, contract, day(0), day(days - 1))


def in_raw(settings: Settings, contract: Contract) -> pa.Table:
    """All rows of a contract's raw table, by key, without the time of the load."""
    columns = ", ".join(field.name for field in contract.fields)
    table = ".".join(names.raw(contract.name))
    query = f"select {columns} from {table} order by {contract.primary_key[0]}"  # noqa: S608 - names of a contract of the test
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetch_arrow_table()


def load_times(settings: Settings) -> dict[date, set[object]]:
    """When the rows of each day of the trips were loaded."""
    with connections.warehouse(settings) as connection:
        found: dict[date, set[object]] = {}
        for on, at in connection.execute("select distinct (began_at at time zone 'UTC')::date, _loaded_at from raw.trips"):
            found.setdefault(on, set()).add(at)
    return found


def same_rows(left: pa.Table, right: pa.Table) -> bool:
    """Whether two tables hold the same rows, column by column."""
    return bool(left.to_pylist() == right.to_pylist())


def test_raw_holds_what_the_lake_holds(isolated: Settings) -> None:
    """The rows of the asked days arrive with all their values, and the load reports from which snapshot."""
    put_in_lake(isolated, TRIPS, days=3)

    loaded = raw_tables.load_raw_days(isolated, TRIPS, day(0), day(2))

    assert (loaded.table, loaded.rows, loaded.replaced) == (RAW_TRIPS, 15, 0)
    assert loaded.snapshot_id == tables.snapshot_id(isolated, names.lake(TRIPS.name))
    assert same_rows(in_raw(isolated, TRIPS), in_lake(isolated, TRIPS))


def test_only_the_asked_days_are_replaced(isolated: Settings) -> None:
    """A day's first and last microsecond belong to it; days around it keep their rows, and no row is ever there twice."""
    put_in_lake(isolated, TRIPS, days=3)
    raw_tables.load_raw_days(isolated, TRIPS, day(0), day(2))
    before = load_times(isolated)

    loaded = raw_tables.load_raw_days(isolated, TRIPS, day(1), day(1))

    assert (loaded.rows, loaded.replaced) == (5, 5)
    assert same_rows(in_raw(isolated, TRIPS), in_lake(isolated, TRIPS))
    after = load_times(isolated)
    assert {on for on, times in after.items() if times != before[on]} == {day(1)}


def test_a_day_that_became_empty_becomes_empty(isolated: Settings) -> None:
    """Rows that the lake no longer has are gone after the next load of their day."""
    put_in_lake(isolated, TRIPS, days=2)
    raw_tables.load_raw_days(isolated, TRIPS, day(0), day(1))
    stage(isolated, TRIPS, day(1), trip_rows(day(1), count=0))
    tables.publish_days(isolated, TRIPS, day(1), day(1))

    loaded = raw_tables.load_raw_days(isolated, TRIPS, day(1), day(1))

    assert (loaded.rows, loaded.replaced) == (0, 5)
    assert same_rows(in_raw(isolated, TRIPS), trip_rows(day(0)))


def test_a_snapshot_replaces_the_whole_table(isolated: Settings) -> None:
    """A register is loaded as a whole: what the newest snapshot lacks is gone."""
    for count in (5, 2):
        stage(isolated, TRIPS, None, trip_rows(day(0), count=count))
        tables.publish_snapshot(isolated, TRIPS)
        loaded = raw_tables.load_raw_snapshot(isolated, TRIPS)

    assert (loaded.rows, loaded.replaced) == (2, 5)
    assert same_rows(in_raw(isolated, TRIPS), trip_rows(day(0), count=2))


def test_a_contract_without_a_lake_table_is_named(isolated: Settings) -> None:
    """Loading what was never published is an error that names the table, and those there are."""
    put_in_lake(isolated, trips("other_trips"), days=1)

    with pytest.raises(UnknownName, match=r"'lake\.trips'.*lake\.other_trips"):
        raw_tables.load_raw_days(isolated, TRIPS, day(0), day(0))


def test_raw_follows_a_growing_contract(isolated: Settings) -> None:
    """A new optional field is null in older rows; a field that is not required any more may be null."""
    put_in_lake(isolated, TRIPS, days=1)
    raw_tables.load_raw_days(isolated, TRIPS, day(0), day(0))
    grown = trips(TRIPS.name, Field(name="note", type="string", description="A remark."))
    grown = replace(grown, fields=tuple(replace(field, required=False) if field.name == "is_return" else field for field in grown.fields))
    rows = trip_rows(day(1)).append_column("note", pa.array(["late"] * 5))
    stage(isolated, grown, day(1), rows.set_column(5, "is_return", pa.nulls(5, pa.bool_())))
    tables.publish_days(isolated, grown, day(1), day(1))

    raw_tables.load_raw_days(isolated, grown, day(1), day(1))

    found = in_raw(isolated, grown)
    assert found["note"].to_pylist() == [None] * 5 + ["late"] * 5
    assert found["is_return"].to_pylist() == [False, True, False, True, False] + [None] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda field: replace(field, type="number"), "'seats' is bigint and would have to be double precision"),
        (lambda field: replace(field, required=True), "'seats' would have to be required"),
    ],
    ids=["retyped", "required"],
)
def test_raw_does_not_follow_a_breaking_contract(isolated: Settings, change: Callable[[Field], Field], message: str) -> None:
    """A changed type or a new requirement is a conflict that names the field; nothing is changed."""
    follow_contract(isolated, TRIPS)
    broken = replace(TRIPS, fields=tuple(change(field) if field.name == "seats" else field for field in TRIPS.fields))

    with pytest.raises(SchemaConflict, match=message):
        follow_contract(isolated, broken)
    follow_contract(isolated, TRIPS)

    assert in_raw(isolated, TRIPS).num_rows == 0


def half_of_a_load(settings: Settings, pipe: "Connection[str, str]") -> None:
    """Removes the rows of a day and writes some of the new ones, says so, and waits for its end."""
    half = trip_rows(day(0), seats=2, count=100_000)

    def batches() -> "pa.RecordBatchReader":
        def endless() -> object:
            yield from half.to_batches(max_chunksize=10_000)
            pipe.send("half written")
            pipe.recv()

        return pa.RecordBatchReader.from_batches(half.schema, endless())

    raw_tables.replace_rows(settings, TRIPS, (day(0), day(0)), batches)


def test_a_load_killed_in_the_middle_leaves_no_trace(isolated: Settings) -> None:
    """After a kill -9 between delete and commit the old rows are all there; the same load again ends as if nothing had happened."""
    put_in_lake(isolated, TRIPS, days=2)
    raw_tables.load_raw_days(isolated, TRIPS, day(0), day(1))
    before = in_raw(isolated, TRIPS)
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    loader = spawn.Process(target=half_of_a_load, args=(isolated, theirs))
    loader.start()

    assert mine.poll(60)
    assert mine.recv() == "half written"
    loader.kill()
    loader.join()

    assert same_rows(in_raw(isolated, TRIPS), before)
    raw_tables.load_raw_days(isolated, TRIPS, day(0), day(1))
    assert same_rows(in_raw(isolated, TRIPS), before)


def test_a_catalog_that_is_older_than_its_files_empties_no_day(isolated: Settings) -> None:
    """Days whose files are staged and that the lake has lost are named and kept; published again they load, and on purpose they go."""
    put_in_lake(isolated, TRIPS, days=1)
    older = metadata_of_trips(isolated)
    put_in_lake(isolated, TRIPS, days=3)
    raw_tables.load_raw_days(isolated, TRIPS, day(0), day(2))
    before = in_raw(isolated, TRIPS)
    newest = metadata_of_trips(isolated, older)

    with pytest.raises(RowsLost, match=rf"{RAW_TRIPS} would lose rows.*{day(1)} from 5 to 0, and staged/trips has 5") as caught:
        raw_tables.load_raw_days(isolated, TRIPS, day(0), day(2))
    assert [lost.day for lost in caught.value.days] == [day(1), day(2)]
    assert same_rows(in_raw(isolated, TRIPS), before)

    assert raw_tables.load_raw_days(isolated, TRIPS, day(2), day(2), may_shrink=True).replaced == 5
    assert in_raw(isolated, TRIPS).num_rows == 10
    tables.publish_days(isolated, TRIPS, day(0), day(2))
    raw_tables.load_raw_days(isolated, TRIPS, day(0), day(2))
    assert same_rows(in_raw(isolated, TRIPS), before)
    assert newest != older


def test_a_cleaned_day_is_not_emptied_in_the_lake_while_it_has_the_rows_behind_it(isolated: Settings) -> None:
    """The day keeps what it had until its rows are gone from what it is made from, or it is said that it may shrink."""
    put_in_lake(isolated, TRIPS, days=2, count=20)
    built = Built(
        name="seen", columns={"trip_id": "string", "began_at": "timestamp"}, event_at="began_at", keys=("trip_id",), is_noted=False,
        made_from=(TRIPS.name,),
    )  # fmt: skip
    raw_tables.load_raw_days(isolated, TRIPS, day(0), day(1))
    with connections.warehouse(isolated) as connection:
        connection.execute("create schema cleaned")
        connection.execute("create table cleaned.seen as select trip_id, began_at from raw.trips")
    publish(isolated, built)
    with connections.warehouse(isolated) as connection:
        connection.execute("delete from cleaned.seen where trip_id like %s", [f"{day(1)}/%"])

    with pytest.raises(RowsLost, match=rf"cleaned\.seen would lose rows.*{day(1)} from 20 to 0, and lake/trips has 20"):
        publish(isolated, built)
    assert tables.row_count(isolated, ("cleaned", "seen")) == 40
    publish(isolated, built, may_shrink=True)
    assert tables.row_count(isolated, ("cleaned", "seen")) == 20


def metadata_of_trips(settings: Settings, put: str | None = None) -> str:
    """Where the catalog has the metadata of the trips; with `put` that is another place from now on."""
    with psycopg.connect(settings.catalog_dsn.get_secret_value()) as connection:
        ((found,),) = connection.execute("select metadata_location from iceberg_tables where table_name = %s", [TRIPS.name]).fetchall()
        if put is not None:
            connection.execute("update iceberg_tables set metadata_location = %s where table_name = %s", [put, TRIPS.name])
    return str(found)


def test_two_loads_at_once_leave_each_row_once(isolated: Settings) -> None:
    """Loads of the same days wait for each other."""
    put_in_lake(isolated, TRIPS, days=2, count=2_000)
    follow_contract(isolated, TRIPS)

    with ThreadPoolExecutor(4) as loaders:
        loads = list(loaders.map(lambda _: raw_tables.load_raw_days(isolated, TRIPS, day(0), day(1)), range(4)))

    assert sorted(loaded.replaced for loaded in loads) == [0, 4_000, 4_000, 4_000]
    assert same_rows(in_raw(isolated, TRIPS), in_lake(isolated, TRIPS))


def test_values_at_the_edges_of_their_types_reach_the_warehouse_as_they_are(world: World) -> None:
    """From a table through staged files and lake to the raw table: decimals with all digits, whole numbers beyond all floats."""
    contract, rows = edges_contract(world.name), [row for row in edge_rows() if row.fault is None]
    world.fill([{KEY: str(number), **row.texts} for number, row in enumerate(rows)], edges_ddl("{table}"))

    stage_snapshot(world.settings, replace(world.table, contract=contract), run_id="r")
    tables.publish_snapshot(world.settings, versioned(contract))
    raw_tables.load_raw_snapshot(world.settings, versioned(contract))
    with connections.warehouse(world.settings) as connection:
        cursor = connection.execute(SQL("select * from {} order by {}").format(qualified(contract), Identifier(KEY)))
        columns = [column.name for column in cursor.description or ()]
        found = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]

    assert [{name: each[name] for name in row.values} for each, row in zip(found, rows, strict=True)] == [row.values for row in rows]
