"""A run that is cancelled in the web page ends with all its processes, whatever its step waits for, and frees its pool."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from dagster import DagsterInstance

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.settings import Settings
from pipeline_assets_tests.stack_env import environment_of
from pipeline_assets_tests.stream_records import until
from pipeline_assets_tests.web_servers import WebServer, web_server

# Until the pool is free; a busy machine takes longer than the few seconds that it takes.
ENDS_SECONDS = 30.0
CODE = """
import subprocess, sys
from pathlib import Path
import dagster as dg
from pipeline_assets.core.connections import arrow_warehouse
from pipeline_assets.core.resources import Platform

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"

@dg.asset(pool="one")
def waiting(platform: Platform) -> None:
    child = subprocess.Popen([sys.executable, "-c", DEAF])
    (Path(platform.settings.home) / "child").write_text(str(child.pid))
    with arrow_warehouse(platform.settings) as connection, connection.cursor() as cursor:
        cursor.execute("insert into held values (2)")
        cursor.execute("lock table locked in access exclusive mode")
        connection.commit()

defs = dg.Definitions(
    assets=[waiting], jobs=[dg.define_asset_job("greeting", selection=[waiting])], resources={"platform": Platform()}
)
"""
DEAF_CODE = """
import os, time
from pathlib import Path
import dagster as dg
from pipeline_assets.core.resources import Platform

@dg.asset(pool="one")
def deaf(platform: Platform) -> None:
    (Path(platform.settings.home) / "begun").write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue

defs = dg.Definitions(
    assets=[deaf],
    jobs=[dg.define_asset_job("greeting", selection=[deaf])],
    resources={"platform": Platform()},
    executor=dg.in_process_executor,
)
"""
WAITING = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


@pytest.fixture
def server(isolated: Settings, tmp_path: Path) -> Iterator[WebServer]:
    """A web server with one job, whose step waits for a lock with a process beside it that hears nothing."""
    with closing(warehouse(isolated)) as connection:
        connection.execute("create table held (number integer); create table locked (number integer)")
        connection.commit()
    with web_server(tmp_path, code=CODE, **environment_of(isolated)) as started:
        yield started


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Nobody can use the table before the block ends."""
    with closing(warehouse(settings)) as holder:
        holder.execute("lock table locked in access exclusive mode")
        yield


def test_a_cancelled_step_that_waits_for_a_lock_frees_its_pool_within_seconds(isolated: Settings, server: WebServer) -> None:
    """Run, process of the step, its child and its place in the queue of Postgres are gone; nothing of its transaction is left."""
    with locked(isolated), closing(psycopg.connect(isolated.warehouse_dsn.get_secret_value(), autocommit=True)) as looking:
        run = server.start()
        until(lambda: looking.execute(WAITING).fetchall())
        child = psutil.Process(int((server.home / "child").read_text()))
        server.ask(f'mutation {{ terminateRun(runId: "{run}") {{ __typename }} }}')
        until(lambda: server.runs()[run], lambda state: state == "CANCELED", ENDS_SECONDS)
        with DagsterInstance.from_config(str(server.home)) as instance:
            until(lambda: instance.event_log_storage.get_concurrency_info("one").active_slot_count, lambda active: active == 0)
        until(lambda: looking.execute(WAITING).fetchall(), lambda found: not found)
        gone = until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        rows = looking.execute("select number from held").fetchall()

    assert gone
    assert rows == []


@pytest.mark.parametrize(("by", "end"), [("page", "CANCELED"), ("machine", "FAILURE")])
def test_a_run_that_hears_nothing_is_cancelled_by_people_and_crashes_by_others(
    isolated: Settings, tmp_path: Path, by: str, end: str
) -> None:
    """Regression: its process was killed after the grace, so that it failed, was tried again, and held its pool for a minute.

    What ends because its machine does has failed, and is tried again.
    """
    with web_server(tmp_path, code=DEAF_CODE, **environment_of(isolated)) as server:
        run = server.start()
        until(lambda: (server.home / "begun").exists() and (server.home / "begun").read_text())
        if by == "page":
            server.ask(f'mutation {{ terminateRun(runId: "{run}") {{ __typename }} }}')
        else:
            os.kill(int((server.home / "begun").read_text()), signal.SIGTERM)
        ended = until(lambda: server.runs()[run], lambda state: state not in ("STARTED", "CANCELING"), ENDS_SECONDS)
        with DagsterInstance.from_config(str(server.home)) as instance:
            active = instance.event_log_storage.get_concurrency_info("one").active_slot_count

    assert ended == end
    assert by == "machine" or active == 0
