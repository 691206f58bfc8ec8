"""Connections of Postgres: what is reported where none is left."""

from collections.abc import Callable
from contextlib import ExitStack, closing

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from pipeline_assets.core import connections
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.wait_errors import DatabaseFull


def database_of(dsn: str) -> str:
    """The name of the database of a DSN."""
    return dsn.rpartition("/")[2]


OPENED: dict[str, Callable[[Settings], object]] = {
    "warehouse": connections.warehouse,
    "arrow_warehouse": connections.arrow_warehouse,
    "online": connections.online,
    "arrow_online": connections.arrow_online,
    "catalog": connections.catalog,
}


@pytest.mark.parametrize("kind", OPENED)
def test_a_database_without_a_connection_left_says_so(isolated: Settings, cluster: psycopg.Connection, kind: str) -> None:
    """By each driver: with the setting of the database, what the server said, and what to do."""
    name = f"{kind.removeprefix('arrow_')}_dsn"
    cluster.execute(SQL("alter database {} connection limit 0").format(Identifier(database_of(getattr(isolated, name).get_secret_value()))))

    with pytest.raises(DatabaseFull) as raised:
        OPENED[kind](isolated)

    assert f"The database of PIPELINE_{name.upper()} has no connection left: " in str(raised.value)
    assert "too many connections for database" in str(raised.value)
    assert "CONNECTION LIMIT" in str(raised.value)


def test_a_limit_ends_new_connections_alone(isolated: Settings, cluster: psycopg.Connection) -> None:
    """The connection beyond it is the same error; those that there are go on."""
    database = database_of(isolated.warehouse_dsn.get_secret_value())
    with ExitStack() as stack:
        kept = [stack.enter_context(closing(connections.warehouse(isolated))) for _ in range(2)]
        cluster.execute(SQL("alter database {} connection limit 2").format(Identifier(database)))
        with pytest.raises(DatabaseFull):
            connections.warehouse(isolated)

        assert [one.execute("select 1").fetchall() for one in kept] == [[(1,)], [(1,)]]
