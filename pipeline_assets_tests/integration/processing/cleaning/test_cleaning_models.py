"""The dbt models on a real warehouse: built by days in any order, after corrections and after kills, they are what a full refresh makes."""

import json
import multiprocessing
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import psutil
import psycopg
import pyarrow as pa
import pytest
import stamina
from psycopg.sql import SQL, Identifier

from pipeline_assets.core import connections, names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.staging.partitions import write_staged
from pipeline_assets.processing.cleaning.dbt import PROGRAM, project_folder, variables
from pipeline_assets.processing.cleaning.models import Built
from pipeline_assets.processing.cleaning.parts import apart
from pipeline_assets.processing.cleaning.publish import publish
from pipeline_assets.processing.cleaning.raw_schema import follow_contract
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days
from pipeline_assets.processing.lake import tables
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets_tests.cleaning_runs import failure, run
from pipeline_assets_tests.flight_rows import DEPARTURES, Row, at, cleaned_rows, day, departure, departures, expected_departures, put_raw
from pipeline_assets_tests.flipped_bits import damage_two_days

DAYS = 6
STAGING, CLEANED = (names.STAGING, names.stg(DEPARTURES.name)), names.cleaned("departures_history")


def build(platform: Platform, days: tuple[int, int], *, full_refresh: bool = False) -> None:
    """Builds the departures of the days so many after the first."""
    assert run(platform, days, STAGING, CLEANED, full_refresh=full_refresh).success


def build_in(home: str, days: tuple[int, int]) -> None:
    """The same in a process of its own, which reads where the stores are from the folder `home`."""
    build(Platform(home=home), days)


def raw_departures() -> dict[int, list[Row]]:
    """Raw rows by day: plain ones, and flights whose departure was published again on another day."""
    rows = {on: departures(on, 20, seed=on) for on in range(DAYS)}
    # Known later on a later day, known later on an earlier day, and known at the same time on two days: then the greater row counts.
    rows[1].append(departure("moved-on", at(1, 600), at(1, 601), 5))
    rows[4].append(departure("moved-on", at(4, 600), at(4, 601), 50))
    rows[4].append(departure("moved-back", at(4, 60), at(4, 61), 5))
    rows[2].append(departure("moved-back", at(2, 60), at(5, 0), 50))
    rows[0].append(departure("tied", at(0, 30), at(3, 0), 7))
    rows[3].append(departure("tied", at(3, 0), at(3, 0), 9))
    return rows


def put(settings: Settings, rows: dict[int, list[Row]], first: int, last: int) -> None:
    """Puts the raw rows of some days in the place of what was there."""
    put_raw(settings, DEPARTURES, day(first), day(last), [row for on in range(first, last + 1) for row in rows[on]])


def expected(rows: dict[int, list[Row]]) -> list[Row]:
    """What the cleaned departures of these raw rows are."""
    return expected_departures(row for on in sorted(rows) for row in rows[on])


def in_lake(settings: Settings) -> list[Row]:
    """The cleaned departures of the lake, in the order of the warehouse's."""
    found = tables.read_all(settings, CLEANED, [*cleaned_rows(settings, "departures_history")[0]]).read_all()
    return list(found.sort_by([("flight_id", "ascending"), ("known_at", "ascending")]).to_pylist())


def noted(settings: Settings) -> list[date]:
    """The days of departures that dbt has changed and the lake does not have yet."""
    query = "select day from publishing.changed_days where table_name = 'departures_history' order by day"
    with connections.warehouse(settings) as connection:
        return [day for (day,) in connection.execute(query).fetchall()]


def test_any_order_of_days_gives_what_a_full_refresh_gives(isolated: Settings, platform: Platform) -> None:
    """Ranges in odd order, days again, corrections that move a flight to another day and are taken back: always the same rows.

    The lake has the same, also of days that were not asked for and changed.
    """
    rows = raw_departures()
    put(isolated, rows, 0, DAYS - 1)
    for days in ((4, 5), (0, 1), (2, 3)):
        build(platform, days)
    assert cleaned_rows(isolated, "departures_history") == in_lake(isolated) == expected(rows)

    rows[4] = departures(4, 15, seed=7)  # of two moved flights the newer and the only version are gone with the old rows of the day
    rows[5] = []
    put(isolated, rows, 4, 5)
    build(platform, (4, 5))
    by_days, published = cleaned_rows(isolated, "departures_history"), in_lake(isolated)
    snapshot = tables.snapshot_id(isolated, CLEANED)
    build(platform, (0, 0), full_refresh=True)

    assert by_days == published == expected(rows)
    assert cleaned_rows(isolated, "departures_history") == in_lake(isolated) == by_days
    assert (noted(isolated), tables.snapshot_id(isolated, CLEANED)) == ([], snapshot)


def test_a_first_build_holds_the_asked_days_alone(isolated: Settings, platform: Platform) -> None:
    """Where there is no table yet, only rows of the asked days are built, the first and last microsecond of the days included."""
    rows = {on: departures(on, 5, seed=on) for on in range(3)}
    put(isolated, rows, 0, 2)

    build(platform, (1, 1))

    assert cleaned_rows(isolated, "departures_history") == expected({1: rows[1]})


@contextmanager
def locked(settings: Settings, table: str) -> Iterator[psycopg.Connection]:
    """Nobody can read or write a table before the block ends."""
    with connections.warehouse(settings) as holder:
        holder.execute(f"lock table {table} in access exclusive mode")
        yield holder


def wait_for_writer(settings: Settings) -> None:
    """Returns once a connection waits for a lock; raises AssertionError if none does within a minute."""
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    with psycopg.connect(settings.warehouse_dsn.get_secret_value(), autocommit=True) as connection:
        for attempt in stamina.retry_context(on=AssertionError, attempts=None, timeout=60, wait_initial=0.05, wait_max=0.2):
            with attempt:
                assert connection.execute(query).fetchone() != (0,)


def test_a_build_killed_in_the_middle_leaves_the_table_as_it_was(isolated: Settings, platform: Platform) -> None:
    """After a kill -9 of the run dbt ends too, and the old rows are all there; the same build again ends with the new ones."""
    rows = raw_departures()
    put(isolated, rows, 0, DAYS - 1)
    build(platform, (0, DAYS - 1))
    before = cleaned_rows(isolated, "departures_history")
    rows[2] = departures(2, 30, seed=3)
    put(isolated, rows, 2, 2)

    with locked(isolated, "cleaned.departures_history"):
        builder = multiprocessing.get_context("spawn").Process(target=build_in, args=(platform.home, (2, 2)))
        builder.start()
        wait_for_writer(isolated)
        started = psutil.Process(builder.pid).children(recursive=True)
        builder.kill()
        _, left = psutil.wait_procs(started, timeout=10)
        builder.join()

    assert started
    assert left == []
    assert cleaned_rows(isolated, "departures_history") == before
    build(platform, (2, 2))
    assert cleaned_rows(isolated, "departures_history") == expected(rows)


def test_a_build_killed_before_the_lake_has_it_is_made_up_for_by_the_next(isolated: Settings, platform: Platform) -> None:
    """The warehouse has the new rows, the lake the old ones; a build of any other day brings the days that are still noted.

    A build of days whose files in the lake are damaged writes them anew, though their rows have not changed.
    """
    rows = raw_departures()
    put(isolated, rows, 0, DAYS - 1)
    build(platform, (0, DAYS - 1))
    before = in_lake(isolated)
    rows[2] = departures(2, 30, seed=3)
    put(isolated, rows, 2, 2)

    with connections.warehouse(isolated) as holder:
        holder.execute("select pg_advisory_xact_lock(hashtext('cleaned.departures_history'))")
        builder = multiprocessing.get_context("spawn").Process(target=build_in, args=(platform.home, (2, 2)))
        builder.start()
        wait_for_writer(isolated)
        builder.kill()
        builder.join()

    assert cleaned_rows(isolated, "departures_history") == expected(rows)
    assert in_lake(isolated) == before != expected(rows)
    assert day(2) in noted(isolated)
    build(platform, (0, 0))
    assert (in_lake(isolated), noted(isolated)) == (expected(rows), [])
    damage_two_days(isolated, CLEANED)
    build(platform, (0, 1))
    assert in_lake(isolated) == expected(rows)


def test_parts_that_are_of_different_times_are_named_and_brought_together(isolated: Settings, platform: Platform) -> None:
    """After an older warehouse, and after an older catalog: the days, and what to materialize; then all have the same rows."""
    for on in range(3):
        staged = pa.Table.from_pylist(departures(on, 15, seed=on), schema=arrow_schema(DEPARTURES))
        write_staged(isolated, DEPARTURES, str(day(on)), staged, run_id="test")
    tables.publish_days(isolated, DEPARTURES, day(0), day(1))
    for last in (1, 2):
        tables.publish_days(isolated, DEPARTURES, day(0), day(last))
        load_raw_days(isolated, DEPARTURES, day(0), day(last))
        build(platform, (0, last))
    streams = tuple(one for one in nyc_flights.use_case.streams if one.contract.name == DEPARTURES.name)
    asked = replace(load_project(), use_cases=(replace(nyc_flights.use_case, sources=(), streams=streams),))
    assert list(apart(isolated, asked)) == []

    with connections.warehouse(isolated) as connection:
        lost = SQL("delete from raw.flight_departures where {} >= %s").format(Identifier(DEPARTURES.event_at))
        connection.execute(lost, [at(2)])
    (older_warehouse,) = apart(isolated, asked)
    load_raw_days(isolated, DEPARTURES, day(2), day(2))
    assert list(apart(isolated, asked)) == []

    with psycopg.connect(isolated.catalog_dsn.get_secret_value()) as connection:
        older = "update iceberg_tables set metadata_location = previous_metadata_location where table_name = 'departures_history'"
        connection.execute(older)
    (older_catalog,) = apart(isolated, asked)
    build(platform, (0, 2))

    assert (older_warehouse.asset, older_warehouse.days, older_warehouse.rows, older_warehouse.rows_before) == (
        names.raw("flight_departures"), [day(2)], 0, 15,
    )  # fmt: skip
    assert (older_catalog.asset, older_catalog.days, older_catalog.rows, older_catalog.rows_before) == (CLEANED, [day(2)], 0, 15)
    assert list(apart(isolated, asked)) == []


def test_a_row_without_a_time_stops_the_table_by_name(isolated: Settings, platform: Platform) -> None:
    """A table that is built by the day has a day for each row; the lake keeps what it had."""
    put(isolated, {0: departures(0, 5, seed=1)}, 0, 0)
    build(platform, (0, 0))
    built = Built(
        name="departures_history",
        columns={"flight_id": "string", "event_at": "timestamp"},
        event_at="event_at",
        keys=("flight_id",),
        is_noted=False,
    )
    with connections.warehouse(isolated) as connection:
        connection.execute("alter table cleaned.departures_history alter column event_at drop not null")
        connection.execute("update cleaned.departures_history set event_at = null where flight_id like %s", [f"{day(0)}/0"])

    with pytest.raises(TableMismatch, match=r"'cleaned\.departures_history' has 1 rows without 'event_at'"):
        publish(isolated, built)
    assert tables.row_count(isolated, CLEANED) == 5


def test_a_model_that_cannot_be_built_fails_the_run_with_its_cause(platform: Platform) -> None:
    """Without a raw table dbt fails; the run says why in dbt's words and names its log."""
    result = run(platform, (0, 0), STAGING, CLEANED)

    log = re.search(r"view the dbt debug log: (.*?dbt\.log)", failure(result))
    assert not result.success
    assert 'relation "raw.flight_departures" does not exist' in failure(result)
    assert log is not None
    assert Path(log[1]).exists()


def dbt(settings: Settings, platform: Platform, *command: str) -> "subprocess.CompletedProcess[str]":
    """A command of dbt by hand, on what runs of this platform have left."""
    folder = ["--target-path", f"{platform.home}/dbt", "--log-path", f"{platform.home}/dbt"]
    environment = os.environ | variables(settings)
    return subprocess.run([PROGRAM, *command, *folder], cwd=project_folder(), env=environment, capture_output=True, text=True, check=False)


def test_the_unit_tests_of_all_models_pass(isolated: Settings, platform: Platform) -> None:
    """Of all use cases, on empty tables: what macros and models make of the rows that stand in the tests."""
    for contract, _ in load_project().lake_contracts:
        follow_contract(isolated, contract)

    done = dbt(isolated, platform, "build", "--exclude-resource-type", "test")
    results = json.loads((Path(platform.home) / "dbt" / "run_results.json").read_text())["results"]
    passed = {one["unique_id"].rpartition(".")[2] for one in results if one["status"] == "pass"}

    assert done.returncode == 0, done.stdout
    assert {
        "fixtures_know_of_clubs_what_was_known_when_they_were_announced", "stg_planes_gives_deletions_and_repeats_their_times",
    } <= passed  # fmt: skip


def test_dbt_agrees_that_a_source_just_loaded_is_fresh(isolated: Settings, platform: Platform) -> None:
    """`dbt source freshness` judges the rendered sources by the time of the load: one just loaded passes."""
    put(isolated, {0: departures(0, 5, seed=1)}, 0, 0)

    done = dbt(isolated, platform, "source", "freshness", "--select", "source:raw.flight_departures")

    assert done.returncode == 0, done.stdout
    assert "PASS freshness of raw.flight_departures" in done.stdout
