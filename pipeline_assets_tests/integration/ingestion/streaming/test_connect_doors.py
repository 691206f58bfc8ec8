"""The REST interface of Kafka Connect is no way to the secrets of the platform, neither for strangers nor for who knows its password."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from secrets import token_hex
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture import configs as connectors
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.local_stack.connect import password_file
from pipeline_assets.local_stack.plan import load_secrets
from pipeline_assets_tests.stream_records import until

DATABASE = "airline_ops"
VALIDATE, VALIDATE_SINK = (f"/connector-plugins/{name}/config/validate" for name in ("PostgresConnector", "IcebergSinkConnector"))
# What a worker that has no configuration bring providers says of one that does.
REFUSED = "org.apache.kafka.automatic.config.providers"
# As PostgreSQL's protocol has them: no TLS; send the password as it is.
NO_TLS, ASKS_FOR_PASSWORD, PASSWORD = b"N", b"R" + struct.pack("!II", 8, 3), b"p"
# Requests that open a connection send their length and one of these codes.
WANTS_TLS = {80877103, 80877104}
PATIENCE_SECONDS = 5.0
# Jetty refuses a request before it has its body, and then closes the connection without having said so.
ONE_REQUEST_EACH = httpx.Limits(max_keepalive_connections=0)


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
    return [each.encode() for each in (*passwords, settings.s3_secret_key.get_secret_value(), *load_secrets(settings.home).values())]


def bringing(provider: str) -> dict[str, str]:
    """What a configuration says to have variables `${mine:…}` of its own resolved."""
    return {"config.providers": "mine", "config.providers.mine.class": f"org.apache.kafka.common.config.provider.{provider}ConfigProvider"}


@pytest.mark.parametrize("login", [None, ("pipeline", "guessed"), ("", "")])
def test_a_user_of_the_machine_without_the_password_has_the_worker_do_nothing(streams: Settings, login: tuple[str, str] | None) -> None:
    """Each request ends with status 401, that for the health too, and nothing arrives where the configuration points to."""
    stranger = httpx.Client(base_url=streams.connect_url, auth=login, limits=ONE_REQUEST_EACH)
    with listener() as (port, arrived), stranger:
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


@pytest.mark.parametrize(
    ("provider", "variable"),
    [
        ("Directory", "${mine:%s:secrets.json}"),
        ("File", "${mine:%s/connect/callers.properties:pipeline}"),
        ("EnvVar", "${mine:AWS_SECRET_ACCESS_KEY}"),
    ],
)
def test_a_configuration_brings_no_provider_of_secrets(streams: Settings, provider: str, variable: str) -> None:
    """Regression, CVE-2024-31141: it is refused by name, validated or put; no secret is in an answer, nor arrives anywhere."""
    value = variable.replace("%s", str(streams.home))
    sink = {
        **connectors.landing(streams, "anything"),
        "name": "elsewhere",
        "consumer.override.isolation.level": value,
        **bringing(provider),
    }
    with listener() as (port, arrived), open_connect(streams) as connect:
        source = pointed_elsewhere(streams, port, **{"database.password": value}, **bringing(provider))
        answers = [
            connect.client.put(VALIDATE_SINK, json=sink),
            connect.client.put("/connectors/elsewhere/config", json=sink),
            connect.client.put(VALIDATE, json=source),
        ]
        known = connect.connectors()
    seen = b"".join((*arrived, *(answer.content for answer in answers)))

    assert [secret for secret in secrets_of(streams) if secret in seen] == []
    assert [REFUSED in answer.text for answer in answers] == [True] * len(answers)
    assert "elsewhere" not in known


def test_a_client_of_a_connector_brings_none_either(streams: Settings) -> None:
    """Regression: below a prefix, as a connector configures clients of its own, which it may point elsewhere: its task fails."""
    topic = f"test-{token_hex(6)}"
    ensure_topics(streams, [Topic(name=topic, partitions=1), *connectors.landing_topics(topic)])
    with listener() as (port, arrived), open_connect(streams) as connect:
        own = {"bootstrap.servers": f"127.0.0.1:{port}", "client.id": "${mine:AWS_SECRET_ACCESS_KEY}", **bringing("EnvVar")}
        connect.put(topic, {**connectors.landing(streams, topic), **{f"iceberg.kafka.{name}": value for name, value in own.items()}})
        try:
            status, _ = until(lambda: (connect.status(topic), list(arrived)), lambda found: bool(found[0].failed_tasks or found[1]))
        finally:
            connect.delete(topic)

    assert [secret for secret in secrets_of(streams) if secret in b"".join(arrived)] == []
    assert REFUSED in status.tasks[0][1]


@pytest.mark.parametrize("override", ["bootstrap.servers", "sasl.jaas.config", "security.protocol"])
def test_a_connector_does_not_choose_the_brokers_of_its_records(streams: Settings, override: str) -> None:
    """What it may say of its consumer is a list; brokers and login are the worker's."""
    name = f"consumer.override.{override}"
    config = {**connectors.landing(streams, "anything"), "name": "elsewhere", name: "127.0.0.1:9"}
    with open_connect(streams) as connect:
        found = connect.client.put("/connector-plugins/IcebergSinkConnector/config/validate", json=config).json()
    errors = {each["value"]["name"]: each["value"]["errors"] for each in found["configs"]}

    assert errors[name] != []
    assert errors["consumer.override.isolation.level"] == []
