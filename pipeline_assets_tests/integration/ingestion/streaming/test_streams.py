"""Kafka and Kafka Connect: used, killed and healed for real; headers land beside records, and changes arrive, in order."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr
from pyiceberg.table import Table
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.core import names
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.errors import SettingsMissing, SourceRefused, SourceUnavailable, UnknownName
from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.core.stream_errors import OffsetsMissing
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.streaming.capture import configs as connectors
from pipeline_assets.ingestion.streaming.capture import topics
from pipeline_assets.ingestion.streaming.capture.connect import UNTAKEN, Connect, open_connect
from pipeline_assets.ingestion.streaming.capture.replication import publish
from pipeline_assets.ingestion.streaming.capture.topics import Topic, end_offsets, ensure_topics
from pipeline_assets.ingestion.streaming.decoding.formats import headers_of
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.landing.tables import ensure_landing_table
from pipeline_assets.ingestion.streaming.typed.replay import replay_records
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.plan import CONNECT, KAFKA
from pipeline_assets.local_stack.ports import free_port
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.sources import CloudEvent, EventStream, PostgresTable
from pipeline_assets_tests.landings import Landed, event, land, stream_of
from pipeline_assets_tests.proposed_modules import declared, formatted, problems_of
from pipeline_assets_tests.stack_env import environment_of
from pipeline_assets_tests.stack_services import FREE, heal, kill
from pipeline_assets_tests.stream_pipelines import drop_slot
from pipeline_assets_tests.stream_records import Headers, consume, produce, until

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
    """Both plugins are found, and no connector beside them can be run."""
    assert connect.plugins() == {
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
    AdminClient({**client_config(streams), "allow.auto.create.topics": True}).list_topics(name, timeout=30)

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
    assert streams.connect_password is not None
    given = {
        "PIPELINE_KAFKA_BOOTSTRAP": streams.kafka_bootstrap,
        "PIPELINE_CONNECT_URL": streams.connect_url,
        "PIPELINE_CONNECT_USER": str(streams.connect_user),
        "PIPELINE_CONNECT_PASSWORD": streams.connect_password.get_secret_value(),
    }
    states: dict[str, str] = {}
    asked = StackSettings(ports=FREE, given=given)
    with pytest.raises(SettingsMissing):  # nobody wrote the given ones into this process's environment
        stack.up(tmp_path, only=(KAFKA, CONNECT), with_history=False, stack=asked, watch=states.__setitem__)

    assert states == {KAFKA: "elsewhere", CONNECT: "elsewhere"}
    assert [name for name in (KAFKA, CONNECT) if processes.running(tmp_path, name)] == []
    assert [name for name in given if name in (tmp_path / "stack.env").read_text()] == []


def landed(table: Table) -> pa.Table:
    """What has landed of a topic."""
    return table.refresh().scan(selected_fields=("partition", "offset")).to_arrow()


def cloud_events(topic: str) -> EventStream:
    """A stream of readings as CloudEvents in binary mode."""
    stream = stream_of(f"events_{token_hex(5)}", topic)
    return replace(stream, format=CloudEvent(attributes=(("id", "sensor"), ("time", "read_at")), is_binary=True))


def odd_headers(names_of: Sequence[str]) -> list[Headers]:
    """Headers that a producer may send: none, some in each combination, null ones, repeated ones, ones that are no text."""
    full: Headers = [(name, name.encode()) for name in names_of]
    some = [[pair for place, pair in enumerate(full) if number >> place & 1] for number in range(2 ** len(full))]
    return [
        *some, full[::-1], [("ce_id", None), ("ce_type", b"t")], [("ce_id", b"1"), ("ce_id", b"2"), ("ce_type", b"t")],
        [("ce_id", b"1"), ("ce_id", None)], [("ce_id", None), ("ce_id", b"1")], [("ce_id", b"\xff\xfe"), ("content-type", b"\x00")],
        [("ce_id", b"")], [("CE_ID", b"1"), ("", b"1"), ("payload", b"x"), ("topic", b"x")], [("ce_id", b"x" * 100_000)],
    ]  # fmt: skip


def test_headers_land_beside_each_record_whatever_they_are(streams: Settings, connect: Connect, topic: str) -> None:
    """The task runs on; each record is there with the last of each header; the topic itself has the same, and others pay nothing."""
    headers = headers_of(cloud_events(topic))
    sent = odd_headers(headers)
    values = [None if number % 7 == 0 else b"\xff%d" % number for number in range(len(sent))]
    table = ensure_landing_table(catalog(streams), topic, headers)
    ensure_topics(streams, connectors.landing_topics(topic))
    produce(streams, topic, values, headers=sent)
    connect.put(names.landing_connector(topic), connectors.landing(streams, topic, headers))
    until(lambda: landed(table).num_rows, lambda found: found >= len(sent))
    rows = table.refresh().scan().to_arrow().sort_by("offset").to_pylist()
    fetched = list(refetch_from(streams)(topic, 0, 0, len(sent) - 1))

    wanted = [{name: dict(one).get(name) for name in headers} for one in sent]
    assert connect.status(names.landing_connector(topic)).is_running
    assert [row["payload"] for row in rows] == values
    assert [{name: row[names.landed_header(name)] for name in headers} for row in rows] == wanted
    assert [{name: one.headers.get(name) for name in headers} for one in fetched] == wanted


def test_events_in_binary_mode_become_rows_and_broken_ones_are_replayed_with_their_headers(streams: Settings, topic: str) -> None:
    """From the topic to the typed table; of a record that did not land the headers are fetched; quarantine keeps those that are needed."""
    stream = cloud_events(topic)
    headers = headers_of(stream)
    common = {"content-type": b"application/json", "ce_specversion": b"1.0", "ce_source": b"/home", "ce_type": b"reading"}
    data = {name: value for name, value in json.loads(event(1)).items() if name not in {"sensor", "read_at"}}
    times = [f"2013-05-01T12:0{minute}:00Z".encode() for minute in range(5)]
    sent = [{**common, "ce_id": b"a1", "ce_time": time} for time in times]
    sent[2]["ce_id"] = b"longer"
    values = [json.dumps({**data, "sent_at": "2013-05-01T12:10:00Z"}).encode()] * len(sent)
    fields = tuple(replace(one, max_length=9) if one.name == "sensor" else one for one in stream.contract.fields)
    mended = replace(stream, contract=replace(stream.contract, fields=fields))
    with catalog(streams) as lake:
        ensure_landing_table(lake, topic)
        produce(streams, topic, values, headers=[list(one.items()) for one in sent])
        # As before the stream was declared to be in binary mode: what landed then has no column for headers.
        land(lake, [Landed(offset=0, payload=values[0], topic=topic)], topic)
        ensure_landing_table(lake, topic, headers)
        land(lake, [Landed(offset=4, payload=values[4], topic=topic, headers=sent[4])], topic, headers)
    done = type_landed(streams, stream, run_id="test", refetch=refetch_from(streams))
    waiting = quarantine.listed(streams, source=stream.contract.name)
    replay_records(streams, [mended], [mended])
    rows = tables.read_all(streams, names.typed(stream.contract.name)).read_all().to_pylist()

    assert (done.rows, done.refetched, dict(done.broken)) == (3, 3, {"not a CloudEvent": 1, "sensor too long": 1})
    assert [(row.topic_offset, row.header("ce_id"), row.header("ce_time")) for row in waiting] == [
        (0, None, None),
        (2, b"longer", times[2]),
    ]
    assert sorted((row["_offset"], row["sensor"], row["read_at"].minute) for row in rows) == [
        (1, "a1", 1), (2, "longer", 2), (3, "a1", 3), (4, "a1", 4),
    ]  # fmt: skip


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
    owned, database = fresh_database(streams.owners[DATABASE]), f"ops_{token_hex(6)}"
    base, _, _ = streams.replication[DATABASE].get_secret_value().rpartition("/")
    reader = SecretStr(f"{base}/{owned.get_secret_value().rpartition('/')[2]}")
    own = {"databases": {database: owned}, "replication": {database: reader}}
    tables = (PostgresTable(database=database, table="airlines"),)
    source = Source(settings=streams.model_copy(update=own), database=database, tables=tables)
    source.execute(
        f"create table airlines (carrier text primary key, name text not null, updated_at timestamptz not null default '{CREATED}')",
        "create table private (secret text primary key)",
        "insert into airlines (carrier, name) values ('AA', 'American'), ('UA', 'United')",
    )
    yield source
    drop_slot(cluster, names.replication(database))


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
    arrived = [(each["op"], (each["before"] or {}).get("carrier"), (each["after"] or {}).get("carrier")) for each in found]

    assert arrived == [
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
    offsets, overview = until(lambda: connect.offsets(name)), connect.overview()

    assert "ublication" in failed.tasks[0][1]
    assert (restarted, connect.restart_failed(name)) == ([0], [])
    assert (overview.connectors(), overview.config(name)) == (connect.connectors(), connect.config(name))
    assert (overview.status(name), overview.status("no such")) == (connect.status(name), UNTAKEN)
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
    producer = Producer({**client_config(streams), "transactional.id": name})
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


def test_a_topic_is_proposed_from_its_newest_records(streams: Settings, topic: str) -> None:
    """Of each partition the newest: JSON alone counts, the record's time is that of knowing, and no other setting is needed."""
    rows = [{"order_id": f"o{number}", "amount": number, "ordered_at": f"2013-05-01T12:{number:02}:00Z"} for number in range(40)]
    produce(streams, topic, [b"old"] * 20 + [json.dumps(row).encode() for row in rows] + [b"no JSON", None], partitions=2)
    environment = {name: value for name, value in environment_of(streams).items() if name.startswith("PIPELINE_KAFKA_")}

    ended = CliRunner().invoke(app, ["sources", "propose", "topic", topic, "--name", "orders", "--rows", "30"], env=environment)
    unknown = CliRunner().invoke(app, ["sources", "propose", "topic", topic[:-1]], env=environment)

    found = declared(ended.stdout)
    assert (ended.exit_code, problems_of(found), formatted(ended.stdout)) == (0, [], ended.stdout)
    assert isinstance(found, EventStream)
    assert (found.topic, found.known_at_record_time) == (topic, True)
    assert [(field.name, field.type, field.required) for field in found.contract.fields] == [
        ("order_id", "string", True),
        ("amount", "integer", True),
        ("ordered_at", "timestamp", True),
        ("received_at", "timestamp", True),
    ]
    assert (found.contract.primary_key, found.contract.event_at, found.contract.known_at) == (("order_id",), "ordered_at", "received_at")
    assert f'# Looked at: the newest 29 records of topic "{topic}".' in ended.stdout
    assert "# Rows among them that cannot be read: 1." in ended.stdout
    assert isinstance(unknown.exception, UnknownName)
    assert topic in unknown.exception.near
