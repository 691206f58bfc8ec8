"""Databases that are reached by TLS alone: what a DSN says of certificates holds for every library that connects."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import SecretStr

from pipeline_assets.core.connections import arrow_warehouse, catalog, warehouse
from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.postgres import open_table
from pipeline_assets.ingestion.streaming.capture import configs as connectors
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.local_stack.connect import password_file
from pipeline_assets_tests.readings import DATABASE, World, reading
from pipeline_assets_tests.tls import HOST, Authority, server_context, tls_before

# The certificate is for the address at which the server listens; a wrong one is for another.
WRONG_HOST = "127.0.0.2"


@pytest.fixture
def secure_port(stores: Settings, trusted: Authority, tmp_path: Path) -> Iterator[int]:
    """The port of a server that takes TLS alone, before the PostgreSQL of the session."""
    with tls_before(_port(stores), server_context(tmp_path, trusted, HOST)) as port:
        yield port


def _port(settings: Settings) -> int:
    return int(urlsplit(settings.warehouse_dsn.get_secret_value()).port or 0)


def over_tls(settings: Settings, port: int, query: str) -> Settings:
    """The settings with all databases at another port, and more in the query of each DSN."""

    def secured(dsn: SecretStr) -> SecretStr:
        return SecretStr(dsn.get_secret_value().replace(f":{_port(settings)}/", f":{port}/") + f"?{query}")

    return settings.model_copy(
        update={
            "warehouse_dsn": secured(settings.warehouse_dsn),
            "catalog_dsn": secured(settings.catalog_dsn),
            "databases": {name: secured(dsn) for name, dsn in settings.databases.items()},
            "replication": {name: secured(dsn) for name, dsn in settings.replication.items()},
        }
    )


def verified_by(authority: Authority) -> str:
    """The query of a DSN that trusts an authority alone."""
    return f"sslmode=verify-full&sslrootcert={authority.certificate}"


def test_every_library_of_the_platform_verifies_the_server(
    isolated: Settings, secure_port: int, trusted: Authority, stranger: Authority
) -> None:
    """Over TLS psycopg, ADBC and SQLAlchemy connect where the certificate is right, and refuse where nobody trusted has signed it."""
    right, wrong = (over_tls(isolated, secure_port, verified_by(each)) for each in (trusted, stranger))

    with warehouse(right) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("show timezone").fetchone() == ("UTC",)
    with arrow_warehouse(right) as arrow, arrow.cursor() as cursor:
        cursor.execute("select 1")
        assert cursor.fetchall() == [(1,)]
    lake = catalog(right)
    assert lake.list_namespaces() == []
    lake.close()
    for connect in (warehouse, arrow_warehouse, catalog):
        with pytest.raises(Exception, match="certificate verify failed"):
            connect(wrong)


def test_a_source_is_read_over_tls_or_not_at_all(isolated: Settings, secure_port: int, trusted: Authority, stranger: Authority) -> None:
    """Both readers of a batch verify the server; a wrong certificate stops the load before a row is read."""
    World(settings=isolated, name="readings").fill([reading()])
    right, wrong = (World(settings=over_tls(isolated, secure_port, verified_by(each)), name="readings") for each in (trusted, stranger))

    with open_table(right.settings, right.contract, right.origin) as table, table.reader() as reader:
        assert sum(part.good.num_rows for part in reader(None)) == 1
    with pytest.raises(SourceUnavailable, match="certificate verify failed"), open_table(wrong.settings, wrong.contract, wrong.origin):
        pass


def test_a_certificate_for_another_host_is_refused(stores: Settings, trusted: Authority, tmp_path: Path) -> None:
    """`verify-full` compares the host; `verify-ca` does not."""
    with tls_before(_port(stores), server_context(tmp_path, trusted, WRONG_HOST)) as port:
        with pytest.raises(psycopg.OperationalError, match="does not match host"):
            warehouse(over_tls(stores, port, verified_by(trusted)))
        with warehouse(over_tls(stores, port, verified_by(trusted).replace("verify-full", "verify-ca"))) as connection:
            assert connection.pgconn.ssl_in_use


def test_debezium_verifies_the_server(streams: Settings, secure_port: int, trusted: Authority, stranger: Authority) -> None:
    """The connector that reads changes connects over TLS, and refuses a certificate that nobody trusted has signed, as it does no TLS."""
    reader = urlsplit(streams.replication[DATABASE].get_secret_value())
    with password_file(streams.home).open("a") as file:
        file.write(f"{reader.hostname}:{secure_port}:*:{reader.username}:{reader.password}\n")
    refused = f"{verified_by(trusted)}&options=-c%20nosuch%3D1"

    assert problems(over_tls(streams, secure_port, verified_by(trusted))) == []
    assert any("PKIX" in each or "path" in each for each in problems(over_tls(streams, secure_port, verified_by(stranger))))
    assert problems(over_tls(streams, secure_port, "sslmode=disable")) != []
    # As does what a DSN says beside that: the server refuses options that it does not know.
    assert any("nosuch" in each for each in problems(over_tls(streams, secure_port, refused)))


def problems(settings: Settings) -> list[str]:
    """What Debezium says of its configuration after it has connected to the database."""
    config = connectors.changes(settings, DATABASE, []) | {"name": "tls"}
    with open_connect(settings) as connect:
        found = connect.client.put(f"/connector-plugins/{config['connector.class'].rpartition('.')[2]}/config/validate", json=config).json()
    return [error for each in found["configs"] for error in each["value"]["errors"]]
