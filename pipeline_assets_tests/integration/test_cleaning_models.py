"""The dbt models on a real warehouse: built by days in any order, after corrections and after kills, they are what a full refresh makes."""

import multiprocessing
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import stamina

from pipeline_assets.core import connections
from pipeline_assets.core.errors import CleaningFailed
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning import dbt
from pipeline_assets.processing.cleaning.manifest import ensure_manifest
from pipeline_assets.processing.cleaning.project import PROJECT, Project, read_project
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.flight_rows import DEPARTURES, Row, at, cleaned_rows, day, departure, departures, expected_departures, put_raw

DAYS = 6
MODELS = {"stg_flight_departures", "departures"}


@pytest.fixture(scope="session")
def project() -> Project:
    """The models of the use case as dbt knows them."""
    return read_project(ensure_manifest(), use_case)


def build(
    settings: Settings, project: Project, days: tuple[int, int] | None, tests: Sequence[str] = (), *, full_refresh: bool = False
) -> list[dbt.Built | dbt.Tested]:
    """Builds the departures of the days so many after the first."""
    models = [model for model in project.models if model.name[1] in MODELS]
    chosen = [test for test in project.tests if test.name in tests]
    asked = (day(days[0]), day(days[1])) if days is not None else None
    return list(dbt.build(settings, models, chosen, asked, full_refresh=full_refresh))


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


def test_any_order_of_days_gives_what_a_full_refresh_gives(isolated: Settings, project: Project) -> None:
    """Ranges in odd order, days again, corrections that move a flight to another day and are taken back: always the same rows."""
    rows = raw_departures()
    put(isolated, rows, 0, DAYS - 1)
    for days in ((4, 5), (0, 1), (2, 3)):
        build(isolated, project, days)
    assert cleaned_rows(isolated, "departures") == expected(rows)

    rows[4] = departures(4, 15, seed=7)  # of two moved flights the newer and the only version are gone with the old rows of the day
    rows[5] = []
    put(isolated, rows, 4, 5)
    build(isolated, project, (4, 5))
    by_days = cleaned_rows(isolated, "departures")
    build(isolated, project, None, full_refresh=True)

    assert by_days == expected(rows)
    assert cleaned_rows(isolated, "departures") == by_days


def test_a_first_build_holds_the_asked_days_alone(isolated: Settings, project: Project) -> None:
    """Where there is no table yet, only rows of the asked days are built, the first and last microsecond of the days included."""
    rows = {on: departures(on, 5, seed=on) for on in range(3)}
    put(isolated, rows, 0, 2)

    build(isolated, project, (1, 1))

    assert cleaned_rows(isolated, "departures") == expected({1: rows[1]})


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


def test_a_build_killed_in_the_middle_leaves_the_table_as_it_was(isolated: Settings, project: Project) -> None:
    """After a kill -9 of dbt and of who started it the old rows are all there; the same build again ends with the new ones."""
    rows = raw_departures()
    put(isolated, rows, 0, DAYS - 1)
    build(isolated, project, (0, DAYS - 1))
    before = cleaned_rows(isolated, "departures")
    rows[2] = departures(2, 30, seed=3)
    put(isolated, rows, 2, 2)

    with locked(isolated, "cleaned.departures"):
        builder = multiprocessing.get_context("spawn").Process(target=build, args=(isolated, project, (2, 2)))
        builder.start()
        wait_for_writer(isolated)
        for process in [psutil.Process(builder.pid), *psutil.Process(builder.pid).children(recursive=True)]:
            process.kill()
        builder.join()

    assert cleaned_rows(isolated, "departures") == before
    build(isolated, project, (2, 2))
    assert cleaned_rows(isolated, "departures") == expected(rows)


def test_tests_tell_of_rows_that_break_a_rule_and_stop_what_hangs_on_them(isolated: Settings, project: Project) -> None:
    """A failed test that blocks is told with the number of rows, the cleaned table keeps its rows, and models above fare as before."""
    rows = {0: departures(0, 5, seed=1)}
    put(isolated, rows, 0, 0)
    build(isolated, project, (0, 0))
    before = cleaned_rows(isolated, "departures")
    too_late = "stg_flight_departures_delay_minutes_in_range"
    rows[0].append(departure("never-left", at(0), at(0), 99_999))
    put(isolated, rows, 0, 0)

    told = build(isolated, project, (0, 0), [too_late])

    assert [(done.test.name, done.passed, done.failures) for done in told if isinstance(done, dbt.Tested)] == [(too_late, False, 1)]
    assert [done.model.name[1] for done in told if isinstance(done, dbt.Built)] == ["stg_flight_departures"]
    assert cleaned_rows(isolated, "departures") == before


def test_a_model_that_cannot_be_built_is_an_error_with_its_cause(isolated: Settings, project: Project) -> None:
    """Without a raw table dbt fails; the error tells why in dbt's words and names the folder with log and SQL."""
    with pytest.raises(CleaningFailed, match=r'"raw"\."flight_departures" because the relation doesn\'t exist') as failed:
        build(isolated, project, None)

    assert (failed.value.folder / "dbt.log").exists()


def test_dbt_agrees_that_a_source_just_loaded_is_fresh(isolated: Settings, tmp_path: Path) -> None:
    """`dbt source freshness` judges the rendered sources by the time of the load: one just loaded passes."""
    put(isolated, {0: departures(0, 5, seed=1)}, 0, 0)

    command = [
        "source",
        "freshness",
        "--select",
        "source:raw.flight_departures",
        "--target-path",
        str(tmp_path),
        "--log-path",
        str(tmp_path),
    ]
    told = subprocess.run(
        [dbt.PROGRAM, *command],
        cwd=PROJECT,
        env=os.environ | dbt.variables(isolated),
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 0, told.stdout
    assert "PASS freshness of raw.flight_departures" in told.stdout
