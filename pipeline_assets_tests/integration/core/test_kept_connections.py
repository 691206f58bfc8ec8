"""Connections that a process keeps: those of Dagster's storage, and of the lake's catalog."""

from collections.abc import Callable
from functools import partial
from os import getpid
from pathlib import Path

import psycopg
import pytest
import yaml
from dagster import AssetKey, DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from sqlalchemy.event import listen

from pipeline_assets.core import connections
from pipeline_assets.core.kept_sessions import KeptSession
from pipeline_assets.core.pooled_storage import Schedules, engines, is_open
from pipeline_assets.core.settings import Settings
from pipeline_assets_tests.graph_runs import ROOT
from pipeline_assets_tests.stream_records import until

ORIGIN = RemoteInstigatorOrigin(
    repository_origin=RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1, location_name="tried"), "tried"),
    instigator_name="tried",
)
OPEN = "select pid from pg_stat_activity where datname = %s and backend_type = 'client backend'"


def open_ones(cluster: psycopg.Connection, dsn: SecretStr) -> set[int]:
    """The server processes of a database's clients."""
    return {pid for (pid,) in cluster.execute(OPEN, [conninfo_to_dict(dsn.get_secret_value())["dbname"]])}


def end(cluster: psycopg.Connection, pids: set[int]) -> None:
    """Closes connections from the side of the server."""
    ended = cluster.execute("select pg_terminate_backend(pid, 5000) from unnest(%s::int[]) as pid", [list(pids)]).fetchall()
    assert ended == [(True,)] * len(pids)


@pytest.fixture
def events(stores: Settings, fresh_database: Callable[..., SecretStr], tmp_path: Path) -> SecretStr:
    """The database of a Dagster instance in the test's folder, configured as the project has it."""
    dsn = fresh_database(stores.dagster_dsn)
    storage = yaml.safe_load((ROOT / "dagster.yaml").read_text())["storage"]
    storage["custom"]["config"]["postgres_url"] = dsn.get_secret_value().replace("postgresql://", "postgresql+psycopg2://", 1)
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage}))
    return dsn


def test_instances_of_a_process_share_connections(events: SecretStr, cluster: psycopg.Connection, tmp_path: Path) -> None:
    """Ten instances that want runs, events and ticks leave as many connections as one did; those that the server closed are made anew."""
    found = []
    for _ in range(10):
        with DagsterInstance.from_config(str(tmp_path)) as instance:
            assert instance.get_runs() == []
            assert instance.get_latest_materialization_event(AssetKey("nothing")) is None
            assert list(instance.all_instigator_state()) == []
            found.append(open_ones(cluster, events))
    end(cluster, found[-1])
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("tried", ["a"])
        again = instance.get_dynamic_partitions("tried")

    assert 1 <= len(found[0]) <= 2
    assert found == [found[0]] * 10
    assert list(again) == ["a"]


@pytest.mark.usefixtures("events")
def test_what_hardly_changes_is_asked_for_once(tmp_path: Path) -> None:
    """A tick like the one before writes its state without a look at the tables, at its connection or at old ticks."""
    states = [InstigatorState(ORIGIN, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData(cursor=one)) for one in "ab"]
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        storage = instance.schedule_storage
        assert isinstance(storage, Schedules)
        instance.add_instigator_state(states[0])
        assert list(instance.all_instigator_state()) == states[:1]
        storage.purge_ticks(ORIGIN.get_id(), ORIGIN.get_selector().get_id(), 0.0)
        asked = list[str]()
        engine = engines[storage.postgres_url, getpid()]
        listen(engine, "before_cursor_execute", lambda _one, _two, statement, *_rest: asked.append(statement))
        instance.update_instigator_state(states[1])
        storage.purge_ticks(ORIGIN.get_id(), ORIGIN.get_selector().get_id(), 0.0)
        found = instance.get_instigator_state(ORIGIN.get_id(), ORIGIN.get_selector().get_id())

    assert [one.split()[0].lower() for one in asked] == ["select", "update", "insert", "select"]
    assert not [one for one in asked if "pg_catalog" in one]
    assert found is not None
    assert found.instigator_data == SensorInstigatorData(cursor="b")


def test_a_connection_is_asked_only_where_the_server_said_something(events: SecretStr, cluster: psycopg.Connection) -> None:
    """One that is silent is open; one that the server has closed is asked, and so found out."""
    asked = list[object]()

    def ask(connection: object) -> bool:
        asked.append(connection)
        return False

    with psycopg.connect(events.get_secret_value(), autocommit=True) as connection:
        connection.execute("select 1")
        before = is_open(ask, connection), list(asked)
        end(cluster, {connection.info.backend_pid})
        after = is_open(ask, connection)

    assert before == (True, [])
    assert (after, asked) == (False, [connection])


def test_a_kept_session_is_one_connection_until_the_server_ends_it(isolated: Settings, cluster: psycopg.Connection) -> None:
    """Each use is a transaction of its own; after an error, and where the server has ended it, the next use connects anew."""
    kept, pids = KeptSession(partial(connections.online, isolated)), list[int]()
    for statement in ("create table looks (at int)", "insert into looks values (1)"):
        with kept.use() as session:
            session.execute(statement)
            pids.append(session.pid)
    with pytest.raises(psycopg.errors.DivisionByZero), kept.use() as session:
        session.execute("insert into looks values (2 / 0)")
    with kept.use() as session:
        counts = session.execute("select count(*) from looks").fetchone()
        pids.append(session.pid)
    end(cluster, {pids[-1]})
    with kept.use() as session:
        pids.append(session.pid)

    assert counts == (1,)
    assert (pids[0] == pids[1], len(set(pids))) == (True, 3)


def test_the_catalog_of_a_process_stays_open(isolated: Settings, cluster: psycopg.Connection) -> None:
    """Who asks again gets the same one on the same connection, which is opened again where the server closed it."""
    found = []
    for _ in range(3):
        with connections.catalog(isolated) as lake:
            assert lake.list_namespaces() == []
            found.append((id(lake), open_ones(cluster, isolated.catalog_dsn)))
    end(cluster, found[0][1])
    with connections.catalog(isolated) as lake:
        lake.create_namespace("raw")
        namespaces = lake.list_namespaces()

    assert found == [found[0]] * 3
    assert len(found[0][1]) == 1
    assert namespaces == [("raw",)]


def test_catalogs_of_others_are_closed_in_their_order(
    isolated: Settings, stores: Settings, cluster: psycopg.Connection, fresh_database: Callable[..., SecretStr]
) -> None:
    """With two more the first is no longer connected, and it can still be had."""
    others = [isolated.model_copy(update={"catalog_dsn": fresh_database(stores.catalog_dsn)}) for _ in range(2)]
    for settings in (isolated, *others):
        connections.catalog(settings)

    # A server process ends a moment after its client has left.
    counts = until(lambda: [len(open_ones(cluster, one.catalog_dsn)) for one in (isolated, *others)], lambda found: found[0] == 0)
    assert counts == [0, 1, 1]
    assert connections.catalog(isolated).list_namespaces() == []
