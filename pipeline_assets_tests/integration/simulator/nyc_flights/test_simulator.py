"""The operational database and the weather service as they really run: loaded again, at once, killed, refused."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Event

import httpx
import polars as pl
import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from pipeline_assets.core.settings import Settings
from simulator.nyc_flights import api, data, database

ROOT = Path(__file__).resolve().parents[4]
MONDAY, TUESDAY, WEDNESDAY = date(2013, 3, 11), date(2013, 3, 12), date(2013, 3, 13)
Expect = Callable[[date, date], dict[str, pl.DataFrame]]
KEY = "a key of the tests"


@pytest.fixture
def dsn(stores: Settings, fresh_database: Callable[[SecretStr], SecretStr]) -> str:
    """An empty operational database."""
    return fresh_database(stores.owners["airline_ops"]).get_secret_value()


def _stored(dsn: str) -> dict[str, pl.DataFrame]:
    """The rows of every table, by key; times in UTC."""
    with psycopg.connect(dsn, options="-c timezone=UTC") as connection:
        return {
            table: pl.DataFrame(
                connection.execute(SQL("SELECT * FROM {}").format(Identifier(table))).fetchall(),
                schema=database.schema(table),
                orient="row",
            ).sort(*database.PRIMARY_KEYS[table])
            for table in database.TABLES
        }


@pytest.fixture(scope="module")
def expect() -> Expect:
    """A function that gives the rows of every table for the days of a span, by key."""
    whole = database.tables(data.FIRST_DAY, data.LAST_DAY, broken=True)

    def of_span(first: date, last: date) -> dict[str, pl.DataFrame]:
        frames = dict(whole)
        for table, column in database.EVENT_TIMES.items():
            frames[table] = whole[table].filter(pl.col(column).dt.date().is_between(first, last))
        return {table: frame.sort(*database.PRIMARY_KEYS[table]) for table, frame in frames.items()}

    return of_span


def _assert_stored(dsn: str, expected: dict[str, pl.DataFrame]) -> None:
    for table, frame in _stored(dsn).items():
        assert frame.equals(expected[table]), table


def test_a_load_stores_the_rows_of_the_span(dsn: str, expect: Expect) -> None:
    """The tables hold what the data has for these days, broken rows included, and the load says how many rows."""
    counts = database.load(dsn, MONDAY, TUESDAY)

    _assert_stored(dsn, expect(MONDAY, TUESDAY))
    assert counts == {table: frame.height for table, frame in expect(MONDAY, TUESDAY).items()}


def test_loading_again_writes_nothing(dsn: str) -> None:
    """The same span again leaves every row where it is: not one is written, so nothing downstream sees a change."""
    database.load(dsn, MONDAY, TUESDAY)
    before = _writers(dsn)
    database.load(dsn, MONDAY, TUESDAY)

    assert _writers(dsn) == before
    assert all(len(writers) == 1 for writers in before.values())


def _writers(dsn: str) -> dict[str, set[tuple[object, ...]]]:
    """The transactions that wrote the rows of each table."""
    with psycopg.connect(dsn) as connection:
        return {
            table: set(connection.execute(SQL("SELECT DISTINCT xmin::text FROM {}").format(Identifier(table))).fetchall())
            for table in database.TABLES
        }


def test_overlapping_spans_end_as_one(dsn: str, expect: Expect) -> None:
    """Spans that overlap, in any order, leave the rows of the whole."""
    database.load(dsn, TUESDAY, WEDNESDAY)
    database.load(dsn, MONDAY, TUESDAY)

    _assert_stored(dsn, expect(MONDAY, WEDNESDAY))


def test_a_load_repairs_its_span_and_leaves_other_days(dsn: str, expect: Expect) -> None:
    """Rows that were changed, removed or added inside the span become what they were; what was done outside it stays done."""
    database.load(dsn, MONDAY, TUESDAY)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE flight_schedule SET tailnum = NULL WHERE scheduled_departure_at < '2013-03-12Z'")
        connection.execute("DELETE FROM flight_history WHERE event_type = 'arrival' OR event_at >= '2013-03-12Z'")
        connection.execute("INSERT INTO airlines VALUES ('QQ', 'Nobody Airways', now())")
    database.load(dsn, MONDAY, MONDAY)

    _assert_stored(dsn, expect(MONDAY, TUESDAY) | {"flight_history": expect(MONDAY, MONDAY)["flight_history"]})


def test_broken_rows_can_be_left_out(dsn: str) -> None:
    """Without broken rows a span has the real ones alone, also where the broken ones stood before."""
    database.load(dsn, MONDAY, MONDAY)
    database.load(dsn, MONDAY, MONDAY, broken=False)
    expected = database.tables(MONDAY, MONDAY, broken=False)

    _assert_stored(dsn, {table: frame.sort(*database.PRIMARY_KEYS[table]) for table, frame in expected.items()})


def test_loads_at_the_same_time_wait_for_each_other(dsn: str, expect: Expect) -> None:
    """Two loads at once into an empty database both succeed, and end with the rows of all their days."""
    spans = [(MONDAY, TUESDAY), (TUESDAY, WEDNESDAY)]
    with ThreadPoolExecutor(len(spans)) as pool:
        counts = list(pool.map(lambda span: database.load(dsn, *span), spans))

    assert len(counts) == 2
    _assert_stored(dsn, expect(MONDAY, WEDNESDAY))


def test_a_load_killed_in_the_middle_leaves_nothing_half(dsn: str, expect: Expect) -> None:
    """A load that is killed after it wrote most tables leaves all as they were; the same command again ends as if nothing had happened."""
    database.load(dsn, MONDAY, MONDAY)
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE airlines IN SHARE ROW EXCLUSIVE MODE")
        with subprocess.Popen(_load_command(MONDAY, TUESDAY), cwd=ROOT, env=_environment(dsn)) as loading:
            _wait_until_blocked(dsn)
            loading.kill()
    _wait_until_gone(dsn)

    _assert_stored(dsn, expect(MONDAY, MONDAY))
    subprocess.run(_load_command(MONDAY, TUESDAY), cwd=ROOT, env=_environment(dsn), check=True)
    _assert_stored(dsn, expect(MONDAY, TUESDAY))


def _load_command(first: date, last: date) -> list[str]:
    return [sys.executable, "-m", "simulator.nyc_flights.database", "--first", first.isoformat(), "--last", last.isoformat()]


def _environment(dsn: str) -> dict[str, str]:
    return os.environ | {database.DSN_VARIABLE: dsn}


def _wait_until_blocked(dsn: str) -> None:
    """Return when a session of this database waits for the table `airlines`, the last one of a load."""
    waiting = "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'airlines'::regclass AND NOT granted"
    _wait(dsn, waiting)


def _wait_until_gone(dsn: str) -> None:
    """Return when no other session is left in this database."""
    _wait(dsn, "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")


def _wait(dsn: str, condition: str) -> None:
    deadline = time.monotonic() + 60
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute(SQL(condition)).fetchone() != (True,):
            assert time.monotonic() < deadline, condition
            Event().wait(0.05)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--first", "2013-05-02", "--last", "2013-05-01"], "No days 2013-05-02..2013-05-01"),
        (["--first", "2012-12-31", "--last", "2013-01-01"], "the data has 2013-01-01..2014-01-01"),
        (["--first", "2013-02-30", "--last", "2013-03-01"], "'2013-02-30'"),
        (["--first", "2013-05-01"], "--last"),
    ],
)
def test_a_span_that_does_not_exist_is_refused(options: list[str], problem: str) -> None:
    """A span outside the data, or one that is none, ends with exit code 2 and a sentence; no database is needed to know that."""
    done = subprocess.run(
        [sys.executable, "-m", "simulator.nyc_flights.database", *options],
        cwd=ROOT,
        env=_environment("postgresql://nowhere"),
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert problem in done.stderr


def test_a_missing_dsn_is_named() -> None:
    """Without the variable that holds the DSN the load ends with exit code 2 and names it."""
    environment = {name: value for name, value in os.environ.items() if name != database.DSN_VARIABLE}
    done = subprocess.run(_load_command(MONDAY, MONDAY), cwd=ROOT, env=environment, check=False, capture_output=True, text=True)

    assert done.returncode == 2
    assert "PIPELINE_OWNERS__AIRLINE_OPS" in done.stderr


def test_a_database_that_does_not_answer_is_an_error_without_a_trace() -> None:
    """Where no database is, the load ends with exit code 1 and names the variable that should hold another DSN."""
    environment = _environment("postgresql://nobody@127.0.0.1:1/airline_ops")
    done = subprocess.run(_load_command(MONDAY, MONDAY), cwd=ROOT, env=environment, check=False, capture_output=True, text=True)

    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert database.DSN_VARIABLE in done.stderr


@pytest.fixture
def weather_url(tmp_path: Path) -> Iterator[str]:
    """The weather service as a process of its own on a free port."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    command = [
        sys.executable,
        "-m",
        "simulator.nyc_flights.api",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--api-key-file",
        str(tmp_path / "key"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        started = next(line for line in service.stderr if "running on" in line)
        yield started.split("running on ")[1].split()[0]
        service.terminate()


def test_the_weather_service_gives_a_month_as_the_data_has_it(weather_url: str) -> None:
    """Followed by its cursors, and asked again when refused, the service gives each observation of a month once."""
    query: dict[str, str | None] = {"since": "2013-01-01T00:00:00Z", "until": "2013-02-01T00:00:00Z", "limit": "200", "cursor": None}
    found: list[dict[str, object]] = []
    refusals = []
    with httpx.Client(base_url=weather_url, headers={api.KEY_HEADER: KEY}) as client:
        while True:
            answer = client.get("/v1/observations", params={name: value for name, value in query.items() if value is not None})
            if answer.status_code != httpx.codes.OK:
                refusals.append(answer.status_code)
                Event().wait(float(answer.headers.get("Retry-After", "0")))
                continue
            found += answer.json()["observations"]
            query["cursor"] = answer.json()["next_cursor"]
            if query["cursor"] is None:
                break
    january = [observation.record for observation in api.observations() if observation.observed_at.month == 1]

    assert found == january
    assert refusals == [429, 503]


@pytest.mark.parametrize("content", [None, " \n"])
def test_a_weather_service_without_a_key_does_not_start(content: str | None, tmp_path: Path) -> None:
    """A key file that is missing or empty is an error that names the file, with exit code 2."""
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    command = [sys.executable, "-m", "simulator.nyc_flights.api", "--host", "127.0.0.1", "--port", "0", "--api-key-file", str(file)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    assert done.returncode == 2
    assert str(file) in done.stderr
