"""A run that is cancelled while dbt changes a table ends with dbt and its session, frees its pool, and leaves the table as it was."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from dagster import DagsterInstance

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.settings import Settings
from pipeline_assets_tests.flight_rows import DEPARTURES, Row, cleaned_rows, day, departures, expected_departures, put_raw
from pipeline_assets_tests.stack_env import environment_of
from pipeline_assets_tests.stream_records import until
from pipeline_assets_tests.web_servers import WebServer, web_server

# Ten are wanted, which `benchmarks.cancel` looks at; a busy machine takes longer.
ENDS_SECONDS = 30.0
TABLE = "departures_history"
CODE = """
import dagster as dg
from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, key
from pipeline_assets_tests.cleaning_runs import assets_of_room, room
from pipeline_assets_tests.flight_rows import DEPARTURES, day

chosen = [key((names.STAGING, names.stg(DEPARTURES.name))), key(names.cleaned("departures_history"))]
defs = dg.Definitions(
    assets=assets_of_room(room()),
    jobs=[dg.define_asset_job("greeting", selection=dg.AssetSelection.assets(*chosen), tags=names.range_tags(day(0), day(1)))],
    resources={"platform": Platform(), **room().resources},
    executor=dg.in_process_executor,
)
"""
ANEW = f"{{ops: {{{names.cleaned_by_day('nyc_flights')}: {{config: {{full_refresh: true}}}}}}}}"
# How a run builds the table, what another session does meanwhile, and what dbt's statement has begun with, which waits for it.
WAYS = {
    # Its transaction has deleted the rows of the days, and not put in those that take their place.
    "by days": ("{}", f"insert into publishing.changed_days values ('{TABLE}', '{day(1)}')", "with gone as ( delete from"),  # noqa: S608
    # Its transaction has made the table that takes the place of this one.
    "anew": (ANEW, f"lock table cleaned.{TABLE} in access share mode", "alter table"),
}
WAITING = """
select pid, client_port, application_name, regexp_replace(query, '\\s+', ' ', 'g') from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock'
"""
SESSIONS = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'dbt'"
LEFT = "select relname from pg_class where relname like %s and relname != %s and relkind in ('r', 'v', 'm', 'p')"


@pytest.fixture
def server(isolated: Settings, tmp_path: Path) -> Iterator[WebServer]:
    """A web server whose one job has dbt build two days of departures."""
    with web_server(tmp_path, code=CODE, **environment_of(isolated)) as started:
        yield started


def put(settings: Settings, seed: int) -> list[Row]:
    """Puts other raw rows into the two days; what is cleaned of them."""
    rows = [row for on in range(2) for row in departures(on, 20, seed=seed + on)]
    put_raw(settings, DEPARTURES, day(0), day(1), rows)
    return expected_departures(rows)


def client(port: int) -> psutil.Process:
    """The process below this one that has a connection from a port."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if port in (connection.laddr.port for connection in process.net_connections("tcp")):
                return process
    raise AssertionError(f"no process below this one has a connection from port {port}")


def slots(server: WebServer) -> int:
    """How many slots of the pool of dbt are taken."""
    with DagsterInstance.from_config(str(server.home)) as instance:
        return instance.event_log_storage.get_concurrency_info(names.CLEANING).active_slot_count


@pytest.mark.timeout(600)
def test_a_run_cancelled_inside_dbt_leaves_nothing_of_it(isolated: Settings, server: WebServer) -> None:
    """In the middle of a transaction that replaces days, and of one that makes the table anew; the next run builds what is right."""
    with DagsterInstance.from_config(str(server.home)) as instance:
        instance.event_log_storage.set_concurrency_slots(names.CLEANING, 1)
    before = put(isolated, seed=1)
    server.launch()
    after = put(isolated, seed=3)
    assert cleaned_rows(isolated, TABLE) == before != after
    with psycopg.connect(isolated.warehouse_dsn.get_secret_value(), autocommit=True) as looking:
        for way in WAYS:
            cancel_inside_dbt(isolated, server, looking, way)
            left = looking.execute(LEFT, [f"{TABLE}%", TABLE]).fetchall()

            assert (way, left, cleaned_rows(isolated, TABLE)) == (way, [], before)
    server.launch()

    assert cleaned_rows(isolated, TABLE) == after


def cancel_inside_dbt(settings: Settings, server: WebServer, looking: psycopg.Connection[Any], way: str) -> None:
    """Starts a run, and cancels it while a statement of its dbt waits; returns once nothing of it is there, though it would wait still."""
    config, meanwhile, statement = WAYS[way]
    with closing(warehouse(settings)) as holder:
        holder.execute(meanwhile)
        run = server.start(config=config)
        ((_, port, application, query),) = until(lambda: looking.execute(WAITING).fetchall())
        dbt, taken = client(port), slots(server)
        command = dbt.cmdline()
        assert (application, taken, server.runs()[run]) == ("dbt", 1, "STARTED")
        assert query.startswith('/* {"app": "dbt"'), query
        assert f"*/ {statement} " in query, query
        assert "build" in command, command
        server.ask(f'mutation {{ terminateRun(runId: "{run}") {{ __typename }} }}')
        until(lambda: server.runs()[run], lambda state: state == "CANCELED", ENDS_SECONDS)
        until(lambda: slots(server), lambda active: active == 0, ENDS_SECONDS)
        until(lambda: not dbt.is_running() or dbt.status() == psutil.STATUS_ZOMBIE, seconds=ENDS_SECONDS)
        until(lambda: looking.execute(SESSIONS).fetchall(), lambda found: found == [(0,)], ENDS_SECONDS)
