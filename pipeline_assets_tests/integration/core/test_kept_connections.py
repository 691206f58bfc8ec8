"""Connections that a process keeps: those of Dagster's storage, and of the lake's catalog."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import yaml
from dagster import AssetKey, DagsterInstance
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from pipeline_assets.core import connections
from pipeline_assets.core.settings import Settings
from pipeline_assets_tests.graph_runs import ROOT
from pipeline_assets_tests.stream_records import until

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
