"""Kafka and Kafka Connect: used, killed and healed for real; changes arrive, in order."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.errors import OffsetsMissing, SettingsMissing, SourceRefused, SourceUnavailable
from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.ingestion.streaming import connectors, topics
from pipeline_assets.ingestion.streaming.connect import Connect, open_connect
from pipeline_assets.ingestion.streaming.refetch import refetch_from
from pipeline_assets.ingestion.streaming.replication import publish
from pipeline_assets.ingestion.streaming.topics import Topic, end_offsets, ensure_topics
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.plan import CONNECT, KAFKA, write_private
from pipeline_assets.local_stack.ports import free_port
from pipeline_assets.spec.sources import PostgresTable
from pipeline_assets_tests.stack_services import FREE, heal, kill
from pipeline_assets_tests.stream_records import consume, produce, until

DATABASE = "airline_ops"
CREATED = "2013-01-01T00:00:00.000000Z"


@pytest.fixture
def connect(streams: Settings) -> Iterator[Connect]:
    """The worker; connectors that the test put are taken away after it."""
    with open_connect(streams) as connect:
        before = set(connect.connectors())
        yield connect
        for name in set(connect.connectors()) - before:
            connect.delete(name)


@pytest.fixture
def topic(streams: Settings) -> str:
    """A topic of two partitions that no other test has."""
    name = f"test-{token_hex(6)}"
    ensure_topics(streams, [Topic(name=name, partitions=2)])
    return name


def test_the_worker_has_debezium_and_the_iceberg_sink(connect: Connect) -> None:
    """Both plugins are found, each with the classes that it was built with."""
    assert connect.plugins() >= {
        "io.debezium.connector.postgresql.PostgresConnector",
        "org.apache.iceberg.connect.IcebergSinkConnector",
    }


def test_topics_become_as_declared_and_never_less(streams: Settings) -> None:
    """Declared twice is declared once; partitions and configs follow; fewer partitions are refused; records are counted by partition."""
    name = f"test-{token_hex(6)}"
    for _ in range(2):
        ensure_topics(streams, [Topic(name=name, partitions=1, configs={"retention.ms": "-1"})])
    ensure_topics(streams, [Topic(name=name, partitions=2, configs={"max.message.bytes": "2000000"})])
    produce(streams, name, [b"one", b"two", b"three"], partitions=2)

    assert end_offsets(streams, [name, "test-nowhere"]) == {(name, 0): 2, (name, 1): 1}
    with pytest.raises(SourceRefused, match="has 2 partitions, declared are 1"):
        ensure_topics(streams, [Topic(name=name, partitions=1)])


def test_a_topic_that_nobody_declared_is_not_made(streams: Settings) -> None:
    """A misspelt name is an error of the producer, not a new topic."""
    name = f"test-{token_hex(6)}"
    AdminClient({"bootstrap.servers": streams.kafka_bootstrap, "allow.auto.create.topics": True}).list_topics(name, timeout=30)

    assert end_offsets(streams, [name]) == {}


def test_a_broker_that_is_away_is_told_as_such(streams: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that asking again may help, and whom was asked."""
    monkeypatch.setattr(topics, "ANSWER_SECONDS", 1.0)
    away = streams.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    with pytest.raises(SourceUnavailable, match="Kafka"):
        end_offsets(away, ["anything"])


def test_a_wrong_connector_is_refused_with_connects_own_words(connect: Connect) -> None:
    """The message of the REST interface is in the error; nothing is left of the connector."""
    with pytest.raises(SourceRefused, match=r"no\.such\.Connector"):
        connect.put("test-wrong", {"connector.class": "no.such.Connector", "tasks.max": "1"})

    assert "test-wrong" not in connect.connectors()
    connect.delete("test-wrong")


def test_endpoints_that_are_given_are_used_and_not_started(streams: Settings, tmp_path: Path) -> None:
    """With bootstrap list and Connect's URL in the environment, neither is started, and the settings are not copied."""
    given = {
        "PIPELINE_KAFKA_BOOTSTRAP": streams.kafka_bootstrap,
        "PIPELINE_CONNECT_URL": streams.connect_url,
        "PIPELINE_CONNECT_SECRETS": streams.connect_secrets,
    }
    told: dict[str, str] = {}
    asked = StackSettings(ports=FREE, given=given)
    with pytest.raises(SettingsMissing):  # nobody wrote the given ones into this process's environment
        stack.up(tmp_path, only=(KAFKA, CONNECT), with_history=False, stack=asked, watch=told.__setitem__)

    assert told == {KAFKA: "elsewhere", CONNECT: "elsewhere"}
    assert [name for name in (KAFKA, CONNECT) if processes.running(tmp_path, name)] == []
    assert [name for name in given if name in (tmp_path / "stack.env").read_text()] == []


@dataclass(frozen=True, kw_only=True)
class Source:
    """A database of its own, with the settings to read it."""

    settings: Settings
    database: str
    tables: tuple[PostgresTable, ...]

    def execute(self, *statements: str) -> None:
        """Run the statements as the owner, each as a transaction."""
        with psycopg.connect(self.settings.databases[self.database].get_secret_value(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture
def source(streams: Settings, cluster: psycopg.Connection, fresh_database: Callable[[SecretStr], SecretStr]) -> Iterator[Source]:
    """An operational database with a table of airlines and one that nobody may read, under a name that no other test has."""
    owned, database = fresh_database(streams.databases[DATABASE]), f"ops_{token_hex(6)}"
    base, _, _ = streams.replication[DATABASE].get_secret_value().rpartition("/")
    reader = SecretStr(f"{base}/{owned.get_secret_value().rpartition('/')[2]}")
    secrets = Path(streams.connect_secrets).with_name(f"{database}.properties")
    write_private(secrets, f"{names.connector_replication(database)}={urlsplit(base).password}\n")
    told = {"databases": {database: owned}, "replication": {database: reader}, "connect_secrets": str(secrets)}
    tables = (PostgresTable(database=database, table="airlines"),)
    source = Source(settings=streams.model_copy(update=told), database=database, tables=tables)
    source.execute(
        f"create table airlines (carrier text primary key, name text not null, updated_at timestamptz not null default '{CREATED}')",
        "create table private (secret text primary key)",
        "insert into airlines (carrier, name) values ('AA', 'American'), ('UA', 'United')",
    )
    yield source
    slot = [names.replication(database)]
    in_use = "select 1 from pg_replication_slots where slot_name = %s and active"
    until(lambda: cluster.execute(in_use, slot).fetchall(), lambda found: found == [])
    cluster.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", slot)


def changes(source: Source) -> list[dict[str, Any]]:
    """Every change of the airlines that arrived, in order."""
    return [
        json.loads(message.value() or b"")
        for message in consume(source.settings, names.changes_topic(source.database, "public", "airlines"))
    ]


def start_changes(source: Source, connect: Connect) -> None:
    """Publish the tables and have the connector that reads them."""
    publish(source.settings, source.database, source.tables)
    ensure_topics(source.settings, connectors.changes_topics(source.database, source.tables))
    connect.put(names.changes_connector(source.database), connectors.changes(source.settings, source.database, source.tables))


def test_a_snapshot_and_every_change_after_it_arrive_in_order(source: Source, connect: Connect) -> None:
    """Rows that were there, an insert, an update, a changed key, a delete and a truncation, each once, over a kill -9 of the worker."""
    start_changes(source, connect)
    until(lambda: changes(source), lambda found: len(found) == 2)
    source.execute(
        "insert into airlines (carrier, name) values ('B6', 'JetBlue')", "update airlines set name = 'Blue' where carrier = 'B6'"
    )
    until(lambda: changes(source), lambda found: len(found) == 4)
    kill(source.settings, CONNECT)
    source.execute(
        "update airlines set carrier = 'B7' where carrier = 'B6'", "delete from airlines where carrier = 'UA'", "truncate airlines"
    )
    heal(source.settings)
    found = until(lambda: changes(source), lambda found: len(found) >= 8)
    told = [(each["op"], (each["before"] or {}).get("carrier"), (each["after"] or {}).get("carrier")) for each in found]

    assert told == [
        ("r", None, "AA"), ("r", None, "UA"), ("c", None, "B6"), ("u", None, "B6"),
        ("d", "B6", None), ("c", None, "B7"), ("d", "UA", None), ("t", None, None),
    ]  # fmt: skip
    assert found[2]["after"] == {"carrier": "B6", "name": "JetBlue", "updated_at": CREATED}
    positions = [each["source"]["lsn"] for each in found]
    assert positions == sorted(positions)


def test_a_failed_task_tells_why_and_is_started_again(source: Source, connect: Connect) -> None:
    """Without a publication the task fails and says so; once there is one, it runs, and its committed position is shown."""
    name = names.changes_connector(source.database)
    ensure_topics(source.settings, connectors.changes_topics(source.database, source.tables))
    connect.put(name, connectors.changes(source.settings, source.database, source.tables))
    failed = until(lambda: connect.status(name), lambda found: found.failed_tasks == [0])
    publish(source.settings, source.database, source.tables)
    restarted = connect.restart_failed(name)
    until(lambda: connect.status(name).is_running)
    until(lambda: changes(source), lambda found: len(found) == 2)
    offsets = until(lambda: connect.offsets(name))

    assert "ublication" in failed.tasks[0][1]
    assert (restarted, connect.restart_failed(name)) == ([0], [])
    assert [(partition["server"], offset["lsn"] > 0) for partition, offset in offsets] == [(source.database, True)]


def test_the_role_that_reads_changes_can_read_nothing_else(source: Source) -> None:
    """It may replicate and read the published tables, however often they were published; it writes nothing and is no superuser."""
    for _ in range(2):
        publish(source.settings, source.database, source.tables)
    dsn = source.settings.replication[source.database].get_secret_value()
    with psycopg.connect(dsn, autocommit=True) as connection:
        mighty = connection.execute(
            "select rolsuper or rolcreatedb or rolcreaterole, rolreplication from pg_roles where rolname = current_user"
        ).fetchone()
        assert connection.execute("select count(*) from airlines").fetchone() == (2,)
        for statement in ("select from private", "delete from airlines", "create table mine ()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)

    assert mighty == (False, True)


def test_records_that_did_not_land_are_fetched_from_the_topic(streams: Settings) -> None:
    """Those that are there come with their time and bytes; marks and aborted records of a transaction do not; a lost one is an error."""
    name = f"test-{token_hex(6)}"
    ensure_topics(streams, [Topic(name=name, partitions=1)])
    produce(streams, name, [b"zero", None])
    producer = Producer({"bootstrap.servers": streams.kafka_bootstrap, "transactional.id": name})
    producer.init_transactions(30)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(name, value=value)
        producer.flush(30)
        end(30)
    fetch = refetch_from(streams)

    found = list(fetch(name, 0, 1, 5))

    assert end_offsets(streams, [name]) == {(name, 0): 6}
    assert [(one.offset, one.payload) for one in found] == [(1, None), (4, b"committed")]
    assert all(one.received_at is not None for one in found)
    with pytest.raises(OffsetsMissing, match="the topic keeps 0 to 5 alone"):
        list(fetch(name, 0, 4, 6))
