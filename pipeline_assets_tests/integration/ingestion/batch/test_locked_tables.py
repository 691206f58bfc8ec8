"""Statements that wait for a lock which another session holds: bounded, named, and ended by signals, with real locks and processes."""

import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from threading import Event

import psycopg
import pytest
from adbc_driver_manager import dbapi

from pipeline_assets.core import connections, waits
from pipeline_assets.core.postgres import ArrowCursor, ArrowSession
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.wait_errors import LockTimedOut, StatementTimedOut
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.batch.proposals.tables import propose_table
from pipeline_assets_tests.readings import DATABASE, World, day, process, reading, wait_until

STAGED = """
from datetime import date
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets_tests.readings import World
stage_days(settings, World(settings=settings, name={name!r}).table, date(2013, 5, 1), date(2013, 5, 3), run_id="locked")
"""
RUN = """
from dataclasses import replace
from datetime import date
import dagster as dg
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.ingestion.batch import assets as batch
from pipeline_assets.ingestion.sources import assets as sources
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.readings import World
from pipeline_assets_tests.stream_records import without_sensors
own = (World(settings=settings, name={name!r}).table,)
project = Project(use_cases=(replace(flights, first_day=date(2013, 5, 1), last_day=date(2013, 5, 31), sources=own, streams=()),))
defs = dg.Definitions.merge(
    sources.defs(project), without_sensors(batch.defs(project)), dg.Definitions(resources={{"platform": Platform()}})
)
tags = {{"dagster/asset_partition_range_start": "2013-05-01", "dagster/asset_partition_range_end": "2013-05-03"}}
with dg.instance_for_test() as instance:
    job = defs.resolve_implicit_global_asset_job_def()
    job.execute_in_process(instance=instance, tags=tags, asset_selection=[dg.AssetKey(["staged", {name!r}])])
"""
COMMAND = """
import sys
from pipeline_assets import cli
sys.argv = ["pipeline", "sources", "propose", "table", "{database}", "{name}"]
cli.main()
"""
WAITING = "select count(*) from pg_locks where not granted and relation = %s::regclass"
# A process ends in a second; a busy machine takes longer.
ENDS_SECONDS = 30.0


@contextmanager
def locked(world: World) -> Iterator[int]:
    """The table of the readings, locked by a session whose query looks like a sequence for a terminal; its server process."""
    with world.database() as connection:
        connection.execute("set application_name = 'nightly'")
        connection.execute(f"lock table {world.name} in access exclusive mode /* \x1b[2J */")
        yield connection.info.backend_pid


def waiting(world: World) -> int:
    """How many sessions wait for the table of the readings: not those of other tests, which wait for theirs at the same server."""
    with world.database() as connection:
        ((found,),) = connection.execute(WAITING, [world.name]).fetchall()
    return int(found)


def limited(world: World, **limits: float) -> Settings:
    """The settings of a world with other limits."""
    return world.settings.model_copy(update=limits)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [STAGED, RUN, COMMAND], ids=["staged", "run", "command"])
def test_a_signal_ends_a_process_that_waits_for_a_lock(world: World, code: str, sent: signal.Signals) -> None:
    """Within seconds, as a run and as a command; what was asked of the server is cancelled, so that nobody waits behind it."""
    world.fill([reading(offset) for offset in range(3)])
    with locked(world), process(world.settings, code.format(name=world.name, database=DATABASE)) as started:
        wait_until(lambda: waiting(world) > 0, "it waits for the table")
        started.send_signal(sent)
        status = started.wait(ENDS_SECONDS)
        if code != STAGED or sent == signal.SIGINT:  # else Python has no handler of it, and ends at once
            wait_until(lambda: waiting(world) == 0, "nobody waits for the table any more")

    assert status != 0


def test_a_lock_that_is_not_released_is_an_error_that_names_its_holder(world: World) -> None:
    """With process id, user and application; who may see it also sees the beginning of its query, without its control characters."""
    world.fill([reading(offset) for offset in range(3)])
    short = limited(world, postgres_lock_seconds=2)
    owner = short.model_copy(update={"databases": short.owners})

    with locked(world) as holder, pytest.raises(LockTimedOut) as raised:
        stage_days(short, world.table, day(0), day(2), run_id="locked")
    with locked(world) as again, pytest.raises(LockTimedOut) as seen:
        stage_days(owner, world.table, day(0), day(2), run_id="locked")

    assert [(one.pid, one.user, one.application) for one in raised.value.blockers] == [(holder, DATABASE, "nightly")]
    assert f"pid {holder} (user 'airline_ops', application 'nightly': " in str(raised.value)
    assert f"pid {again} (user 'airline_ops', application 'nightly', query since 20" in str(seen.value)
    assert "\\x1b[2J" in str(seen.value)
    assert "PIPELINE_DATABASES__AIRLINE_OPS" in str(raised.value)
    assert "PIPELINE_POSTGRES_LOCK_SECONDS" in str(raised.value)
    assert world.keys() == []


def test_who_waits_says_so_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A second after it began, long before it gives up, once a minute."""
    world.fill([reading()])

    with locked(world) as holder, caplog.at_level(logging.WARNING), pytest.raises(LockTimedOut):
        stage_days(limited(world, postgres_lock_seconds=4), world.table, day(0), day(0), run_id="locked")

    (said,) = [record.getMessage() for record in caplog.records if "waits for a lock" in record.getMessage()]
    assert said.startswith("PIPELINE_DATABASES__AIRLINE_OPS waits for a lock since 1 s: pid")
    assert str(holder) in said


def by_psycopg(settings: Settings, statement: str) -> None:
    """Runs a statement in the warehouse by psycopg."""
    with connections.warehouse(settings) as connection:
        connection.execute(statement)


def by_adbc(settings: Settings, statement: str) -> None:
    """Runs a statement in the warehouse by ADBC."""
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.fetchall()


@pytest.mark.parametrize("run", [by_psycopg, by_adbc])
def test_a_statement_of_the_warehouse_is_bounded(stores: Settings, run: Callable[[Settings, str], None]) -> None:
    """By both drivers: one that takes too long, and one that waits for a lock; the error says which limit it was."""
    short = stores.model_copy(update={"postgres_lock_seconds": 2, "postgres_statement_seconds": 3})

    with pytest.raises(StatementTimedOut, match=r"PIPELINE_WAREHOUSE_DSN: a statement took longer than 3 s \(PIPELINE_POSTGRES_STATEMENT"):
        run(short, "select pg_sleep(30)")
    with closing(connections.warehouse(stores)) as holder:
        holder.execute("select pg_advisory_xact_lock(20130501)")
        pid = holder.info.backend_pid
        with pytest.raises(LockTimedOut) as raised:
            run(short, "select pg_advisory_xact_lock(20130501)")

    assert [one.pid for one in raised.value.blockers] == [pid]


def test_a_proposal_of_a_locked_table_names_the_holder(world: World) -> None:
    """Its own limit is the shorter one."""
    world.fill([reading()])

    with locked(world) as holder, pytest.raises(LockTimedOut) as raised:
        propose_table(limited(world, postgres_lock_seconds=2), world.origin, None, 100)

    assert [one.pid for one in raised.value.blockers] == [holder]


@pytest.mark.parametrize("run", [by_psycopg, by_adbc])
def test_an_error_of_a_driver_is_not_its_own_cause(stores: Settings, run: Callable[[Settings, str], None]) -> None:
    """What the product has no error for is raised as it is; whoever goes through the causes of one comes to an end."""
    with pytest.raises((psycopg.Error, dbapi.Error), match="division by zero") as raised:
        run(stores, "select 1 / 0")

    assert raised.value.__cause__ is None


def test_a_statement_that_does_not_end_keeps_its_handle(stores: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: where the server did not hear that it was cancelled, the cursor was closed while the driver worked on its statement."""
    stop, closed, close = Event(), list[str](), dbapi.Cursor.close

    def noted(cursor: dbapi.Cursor) -> None:
        closed.append("by the driver")
        close(cursor)

    def sleep(session: ArrowSession, cursor: ArrowCursor) -> None:
        with session, cursor, waits.ending_at(stop):
            cursor.execute("select pg_sleep(2)")

    session = connections.arrow_warehouse(stores)
    cursor = session.cursor()
    # The network to the server is gone, so that it hears of nothing.
    monkeypatch.setattr(session, "adbc_cancel", lambda: None)
    monkeypatch.setattr(waits, "CANCEL_SECONDS", 0.3)
    monkeypatch.setattr(dbapi.Cursor, "close", noted)
    stop.set()
    with pytest.raises(CancelledError):
        sleep(session, cursor)
    before = (session.is_abandoned, list(closed))
    session.worker.begin(lambda: None).result(30)
    session.is_abandoned = False
    session.close()

    assert before == (True, [])
    assert closed == ["by the driver"]
