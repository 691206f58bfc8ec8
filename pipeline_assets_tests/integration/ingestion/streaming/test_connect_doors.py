"""The REST interface of Kafka Connect is no way to the secrets of the platform, neither for strangers nor for who knows its password."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture import configs as connectors
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.local_stack.connect import password_file

DATABASE = "airline_ops"
VALIDATE = "/connector-plugins/PostgresConnector/config/validate"
# As PostgreSQL's protocol has them: no TLS; send the password as it is.
NO_TLS, ASKS_FOR_PASSWORD, PASSWORD = b"N", b"R" + struct.pack("!II", 8, 3), b"p"
# Requests that open a connection send their length and one of these codes.
WANTS_TLS = {80877103, 80877104}
PATIENCE_SECONDS = 5.0


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """The port of a false PostgreSQL that asks for the password in clear, and all that arrives there."""
    arrived: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        asked = Thread(target=listen, args=(server, arrived), daemon=True)
        asked.start()
        yield server.getsockname()[1], arrived
    asked.join(PATIENCE_SECONDS)


def listen(server: socket.socket, arrived: list[bytes]) -> None:
    """Answer whoever connects until the server is closed."""
    while server.fileno() != -1:
        with suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(PATIENCE_SECONDS)
                while data := connection.recv(65_536):
                    arrived.append(data)
                    if data[:1] == PASSWORD:
                        break
                    is_tls = len(data) == 8 and struct.unpack("!II", data)[1] in WANTS_TLS
                    connection.sendall(NO_TLS if is_tls else ASKS_FOR_PASSWORD)


def pointed_elsewhere(settings: Settings, port: int, **more: str) -> dict[str, str]:
    """The configuration of the connector that reads changes, with the address of the false server."""
    place = {"name": "elsewhere", "database.hostname": "127.0.0.1", "database.port": str(port)}
    return {**connectors.changes(settings, DATABASE, []), **place, **more}


def secrets_of(settings: Settings) -> list[bytes]:
    """The secrets that the worker has, or had in its files."""
    dsns = (settings.catalog_dsn, *settings.replication.values())
    passwords = [urlsplit(dsn.get_secret_value()).password or "" for dsn in dsns]
    return [each.encode() for each in (*passwords, settings.s3_secret_key.get_secret_value())]


@pytest.mark.parametrize("login", [None, ("pipeline", "guessed"), ("", "")])
def test_a_user_of_the_machine_without_the_password_has_the_worker_do_nothing(streams: Settings, login: tuple[str, str] | None) -> None:
    """Each request ends with status 401, that for the health too, and nothing arrives where the configuration points to."""
    with listener() as (port, arrived), httpx.Client(base_url=streams.connect_url, auth=login) as stranger:
        config = pointed_elsewhere(streams, port)
        answers = [
            stranger.put(VALIDATE, json=config),
            stranger.put("/connectors/elsewhere/config", json=config),
            stranger.get("/connectors"),
            stranger.get("/health"),
            stranger.get("/admin/loggers"),
        ]

    assert [answer.status_code for answer in answers] == [401] * len(answers)
    assert arrived == []


@pytest.mark.parametrize("password", [None, "${file:%s:x}", "${env:AWS_SECRET_ACCESS_KEY}", "${directory:/proc/self:environ}"])
def test_who_knows_the_password_cannot_have_a_secret_sent_elsewhere(streams: Settings, password: str | None) -> None:
    """The worker connects to where it is pointed, and sends what was given: a password is one of its own server, names stay names."""
    given = {} if password is None else {"database.password": password.replace("%s", str(password_file(streams.home)))}
    with listener() as (port, arrived), open_connect(streams) as connect:
        answer = connect.client.put(VALIDATE, json=pointed_elsewhere(streams, port, **given))
    sent = b"".join(arrived)

    assert answer.status_code == httpx.codes.OK
    assert b"airline_ops_replication" in sent
    assert [secret for secret in secrets_of(streams) if secret in sent] == []
    assert all(value.encode() in sent for value in given.values())


@pytest.mark.parametrize("override", ["bootstrap.servers", "sasl.jaas.config", "security.protocol"])
def test_a_connector_does_not_choose_the_brokers_of_its_clients(streams: Settings, override: str) -> None:
    """What it may say of its consumer is a list; brokers and login are the worker's."""
    name = f"consumer.override.{override}"
    config = {**connectors.landing(streams, "anything"), "name": "elsewhere", name: "127.0.0.1:9"}
    with open_connect(streams) as connect:
        found = connect.client.put("/connector-plugins/IcebergSinkConnector/config/validate", json=config).json()
    errors = {each["value"]["name"]: each["value"]["errors"] for each in found["configs"]}

    assert errors[name] != []
    assert errors["consumer.override.isolation.level"] == []
