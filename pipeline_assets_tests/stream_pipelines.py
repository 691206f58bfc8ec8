"""Whole streaming pipelines of a test's own: events and changes of tables, through Kafka, Connect and the lake to typed rows."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from threading import Event

import psycopg
from confluent_kafka import KafkaError, Message, Producer
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import catalog, object_store
from pipeline_assets.core.errors import TransientError
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.streaming.audit.audit import verify_table, verify_topic
from pipeline_assets.ingestion.streaming.audit.compare import read_table
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import apply, connectors_of, topics_of
from pipeline_assets.ingestion.streaming.health.watch import Watch, look
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.streams import followed, followed_table, record_streams
from pipeline_assets.ingestion.streaming.typed.rows import Typed, type_landed
from pipeline_assets.ingestion.streaming.typed.table import rows_of
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import EventStream, PostgresTable, Source
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.landings import plain, stream_of
from pipeline_assets_tests.stack_services import cluster_of, create_database, for_reader
from pipeline_assets_tests.stream_records import PATIENCE_SECONDS, until

OWNED = "airline_ops"
# The least that flows in a test of a fault, of events and of changes together.
MANY = 1_000
BATCH, PAUSE_SECONDS = 25, 0.1
FIELDS = (
    Field(name="account_id", type="integer", required=True, description="Number of the account."),
    Field(name="holder", type="string", required=True, description="Whose it is."),
    Field(name="balance", type="number", description="What is on it."),
    Field(name="note", type="string", description="A long text, which a change of another column does not have."),
    Field(name="updated_at", type="timestamp", required=True, description="When the row last changed."),
)
# Without defaults: to set them Postgres would wait for whoever holds a lock.
DDL = """
    create table {table} (
        account_id bigint primary key,
        holder text not null,
        balance double precision,
        note text,
        updated_at timestamptz not null
    );
    alter table {table} alter column note set storage external;
"""
INSERT = """
    insert into {table} (account_id, holder, balance, note, updated_at)
    select n, 'holder ' || n, n / 4.0, case when n %% 50 = 0 then repeat(md5(n::text), 200) end, clock_timestamp()
    from generate_series(%s::bigint, %s::bigint) as n
"""
UPDATE = (
    "update {table} set balance = balance + 1, updated_at = clock_timestamp() where account_id between %s and %s and account_id %% 2 = 0"
)
RENAME = "update {table} set account_id = - account_id where account_id between %s and %s and account_id %% 10 = 3"
DELETE = "delete from {table} where account_id between %s and %s and account_id %% 10 = 7"


def followed_source(name: str, database: str, table: str) -> Source:
    """A table of accounts that is followed, with a contract of this name."""
    contract = Contract(
        name=name,
        version="1.0.0",
        owner="owner@accounts.example",
        description="Accounts.",
        fields=FIELDS,
        primary_key=("account_id",),
        event_at="updated_at",
        known_at="updated_at",
        lateness=timedelta(0),
        freshness=timedelta(days=1),
        broken_share=0.0,
    )
    return Source(contract=contract, origin=PostgresTable(database=database, table=table), load="changes")


@dataclass(kw_only=True)
class Pipeline:
    """A project with topics and tables of its own on the session's services, and what was put into it.

    `sent` are the numbers of all good events that the broker has confirmed, `poison` the bytes of all others by their fault.
    """

    settings: Settings
    project: Project
    watch: Watch = field(default_factory=lambda: Watch(now=datetime.now(UTC)))
    sent: list[int] = field(default_factory=list)
    poison: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    numbered: int = 0
    accounts: int = 0
    audited: int = 0

    @property
    def events(self) -> EventStream:
        """The stream of events."""
        return self.project.streams[0]

    @property
    def database(self) -> str:
        """The name of the operational database."""
        return next(iter(self.settings.replication))

    def connect(self) -> None:
        """Has all connectors run, as the assets of the connectors do."""
        hindered = [error for _, error in apply(self.settings, connectors_of(self.project)) if error is not None]
        assert hindered == [], hindered

    def operations(self, *, autocommit: bool = False) -> psycopg.Connection:
        """A connection to the operational database as its owner."""
        dsn = self.settings.owners[self.database].get_secret_value()
        return psycopg.connect(dsn, autocommit=autocommit, connect_timeout=5)

    def change(self, rows: int, table: str = "accounts", connection: psycopg.Connection | None = None) -> None:
        """Inserts so many rows and updates, renames and deletes some of them, in one transaction: about 1.8 changes a row."""
        if connection is None:
            with self.operations() as opened:
                self.change(rows, table, opened)
            return
        first, self.accounts = self.accounts + 1, self.accounts + rows
        for statement in (INSERT, UPDATE, RENAME, DELETE):
            connection.execute(SQL(statement).format(table=Identifier(table)), [first, self.accounts])
        connection.commit()

    def send(self, values: Sequence[bytes | None], *, largest: int = 1_000_000) -> list[KafkaError]:
        """Puts values on the topic of events, in turn on each partition; the errors of those that the broker refused."""
        refused: list[KafkaError] = []

        def record(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                refused.append(error)

        producer = Producer({**client_config(self.settings), "acks": "all", "message.max.bytes": largest})
        for number, value in enumerate(values):
            producer.produce(self.events.topic, value=value, partition=number % 2, on_delivery=record)
            producer.poll(0)
        assert producer.flush(PATIENCE_SECONDS) == 0
        return refused

    def number(self, count: int) -> range:
        """Numbers for so many events that no event had before."""
        self.numbered += count
        return range(self.numbered - count, self.numbered)

    def send_good(self, count: int = MANY) -> None:
        """Puts so many good events on the topic, each with a number of its own."""
        numbers = self.number(count)
        refused = self.send([plain(number) for number in numbers])
        assert refused == [], refused
        self.sent += numbers

    def landed(self) -> int:
        """How many events have landed."""
        with catalog(self.settings) as lake:
            table = open_table(lake, names.landed(self.events.topic))
            return 0 if table is None else rows_of(table)

    def type_events(self) -> Typed:
        """Types what has landed of the events."""
        streams = record_streams(self.project)
        return type_landed(self.settings, self.events, run_id="test", streams=streams, refetch=refetch_from(self.settings))

    def tick(self) -> None:
        """What the sensors do: looks at all services, restarts failed tasks, types what landed; what is transient is retried."""
        Event().wait(0.3)
        self.watch.now = datetime.now(UTC)
        streams = record_streams(self.project)
        with suppress(TransientError):
            with open_connect(self.settings) as connect:
                look(self.settings, connect, self.project, self.watch)
            for stream in streams:
                type_landed(self.settings, stream, run_id="test", streams=streams, refetch=refetch_from(self.settings))

    def troubles(self) -> list[str]:
        """What was wrong with any asset at the last tick."""
        return [seen.trouble for seen in self.watch.seen.values() if seen.trouble is not None]

    def settle(self) -> int:
        """How many records came since last asked, once all are typed; an AssertionError names what the audit misses or finds twice."""
        streams = record_streams(self.project)
        # While a snapshot is taken the slot moves on without it, up to the next change: so there is one.
        for source in followed(self.project):
            self.change(1, followed_table(source).table)
        # The tables first: once they agree all their changes are in the topics.
        read = [(source, read_table(self.settings, source.contract, followed_table(source))) for source in followed(self.project)]
        rows = [verify_table(self.settings, source, reading, self.tick) for source, reading in read]
        records_of = [verify_topic(self.settings, streams, topic, self.tick) for topic in topics_of(self.project)]
        problems = {found.subject: found.problems for found in (*rows, *records_of) if found.problems}
        assert problems == {}, problems
        records = sum(found.compared for found in records_of)
        self.audited, before = records, self.audited
        return records - before

    def audit(self) -> int:
        """As `settle`; beside the audit, typed events must be those that were confirmed, and quarantine must hold the others."""
        records = self.settle()
        assert self.typed() == Counter(self.sent)
        assert self.quarantined() == self.poison
        return records

    def typed(self) -> Counter[int]:
        """The numbers of all events in the typed table."""
        rows = tables.read_all(self.settings, names.typed(self.events.contract.name)).read_all()
        return Counter(map(int, rows["value"].to_pylist()))

    def typed_files(self) -> int:
        """How many data files lie below the typed table of events, named by a snapshot or not."""
        prefix = f"{names.LAKE}/{'/'.join(names.typed(self.events.contract.name))}/data/"
        pages = object_store(self.settings).get_paginator("list_objects_v2").paginate(Bucket=self.settings.s3_bucket, Prefix=prefix)
        return sum(len(page.get("Contents", [])) for page in pages)

    def quarantined(self) -> Counter[tuple[str, bytes]]:
        """Fault and bytes of all events in quarantine."""
        found = quarantine.listed(self.settings, source=self.events.contract.name)
        return Counter((f"{row.field} {row.reason}".strip(), row.original) for row in found)


class Load:
    """Events and changes that flow in the background; where a service is away they wait for it and go on."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._stopped, self._pool = pipeline, Event(), ThreadPoolExecutor(2)
        self.offered, self.transactions, self.interrupted = 0, 0, 0
        self._confirmed: list[int] = []
        self._running: list[Future[None]] = [self._pool.submit(self._send), self._pool.submit(self._write)]

    @property
    def confirmed(self) -> int:
        """How many events the broker has confirmed."""
        return len(self._confirmed)

    def stop(self) -> None:
        """Returns once at least `MANY` events were confirmed, and the last transaction is committed; raises what went wrong."""
        self._stopped.set()
        for each in self._running:
            each.result(PATIENCE_SECONDS)
        self._pool.shutdown()
        assert len(self._confirmed) == self.offered
        self._pipeline.sent += self._confirmed

    def _send(self) -> None:
        producer = Producer({**client_config(self._pipeline.settings), "acks": "all", "enable.idempotence": True})
        topic = self._pipeline.events.topic
        while not self._stopped.wait(PAUSE_SECONDS) or self.offered < MANY:
            for number in self._pipeline.number(BATCH):
                producer.produce(topic, value=plain(number), partition=number % 2, on_delivery=self._confirm(number))
            self.offered += BATCH
            producer.poll(0)
        assert producer.flush(PATIENCE_SECONDS) == 0

    def _confirm(self, number: int) -> Callable[[KafkaError | None, Message], None]:
        def record(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self._confirmed.append(number)

        return record

    def _write(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._pipeline.operations() as connection:
                    while not self._stopped.wait(PAUSE_SECONDS):
                        self._pipeline.change(10, connection=connection)
                        self.transactions += 1
            except psycopg.OperationalError:
                self.interrupted += 1
                self._stopped.wait(PAUSE_SECONDS)


@contextmanager
def loaded(pipeline: Pipeline) -> Iterator[Load]:
    """Events and changes flow as long as the block lasts, and have come to an end after it."""
    load = Load(pipeline)
    try:
        yield load
    finally:
        load.stop()


@contextmanager
def pipeline_on(streams: Settings, *, registers: Sequence[str] = ("accounts",), topics: Sequence[str] = ("events",)) -> Iterator[Pipeline]:
    """A pipeline with an operational database that has these tables, and topics of readings; gone after the block, but for the lake."""
    token = token_hex(4)
    settings = _with_database(streams, f"ops_{token}")
    sources = tuple(followed_source(f"{table}_{token}", f"ops_{token}", table) for table in registers)
    events = tuple(stream_of(f"{topic}_{token}", f"topic-of-{topic}-{token}") for topic in topics)
    pipeline = Pipeline(settings=settings, project=Project(use_cases=(replace(flights, sources=sources, streams=events),)))
    with pipeline.operations() as connection:
        for table in registers:
            connection.execute(SQL(DDL).format(table=Identifier(table)))
    try:
        yield pipeline
    finally:
        _take_away(pipeline)


@contextmanager
def tables_on(streams: Settings, ddl: str, declare: Callable[[str], Sequence[Source]]) -> Iterator[Pipeline]:
    """A pipeline without topics of its own, with an operational database of these tables, as they are declared for its name."""
    database = f"ops_{token_hex(4)}"
    sources = tuple(declare(database))
    project = Project(use_cases=(replace(flights, sources=sources, streams=()),))
    pipeline = Pipeline(settings=_with_database(streams, database), project=project)
    with pipeline.operations() as connection:
        connection.execute(ddl)
    try:
        yield pipeline
    finally:
        _take_away(pipeline)


def _with_database(streams: Settings, database: str) -> Settings:
    """Settings with an empty operational database for its three roles."""
    owned = create_database(streams.home, streams.owners[OWNED], database)
    own_settings = {
        "owners": {database: owned},
        "databases": {database: for_reader(owned, streams.databases[OWNED])},
        "replication": {database: SecretStr(f"{streams.replication[OWNED].get_secret_value().rpartition('/')[0]}/{database}")},
    }
    return streams.model_copy(update=own_settings)


def end_connectors(streams: Settings) -> None:
    """Ends all connectors of the session's stack, with the slots by which they read changes; what they have brought stays."""
    with open_connect(streams) as connect:
        for name in connect.connectors():
            connect.delete(name)
    with cluster_of(streams.home) as cluster:
        for (slot,) in cluster.execute("select slot_name from pg_replication_slots").fetchall():
            drop_slot(cluster, slot)


def _take_away(pipeline: Pipeline) -> None:
    with open_connect(pipeline.settings) as connect:
        for connector in connectors_of(pipeline.project):
            connect.delete(connector.name)
    with cluster_of(pipeline.settings.home) as cluster:
        drop_slot(cluster, names.replication(pipeline.database))
        cluster.execute(SQL("drop database {} with (force)").format(Identifier(pipeline.database)))


def drop_slot(cluster: psycopg.Connection, slot: str) -> None:
    """Drops a slot once nobody reads by it any more; one that does not exist is no error."""
    in_use = "select 1 from pg_replication_slots where slot_name = %s and active"
    until(lambda: cluster.execute(in_use, [slot]).fetchall(), lambda found: found == [])
    cluster.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", [slot])
