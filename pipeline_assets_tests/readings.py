"""A small source of sensor readings, in a table and behind an API, and what became of it; shared by the tests of ingestion."""

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg import sql
from pydantic import SecretStr

from pipeline_assets.core.connections import object_store
from pipeline_assets.core.setting_values import RestService
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.core.versions import DELETED_AT
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.partitions import Manifest
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import PostgresTable, RestEndpoint, Source
from pipeline_assets_tests.stack_env import environment_of

DATABASE, SERVICE = "airline_ops", "readings"
FIRST = date(2013, 5, 1)
READINGS = Contract(
    name="readings",
    version="1.0.0",
    owner="owner@readings.example",
    description="Readings of sensors.",
    fields=(
        Field(name="sensor", type="string", required=True, max_length=4, description="Name of the sensor."),
        Field(name="kind", type="string", allowed=("indoor", "outdoor"), description="Where it stands."),
        Field(name="level", type="integer", minimum=0, maximum=10, description="Level."),
        Field(name="value", type="number", minimum=-1.5, description="Value."),
        Field(name="is_valid", type="boolean", description="Whether it is valid."),
        Field(name="read_at", type="timestamp", required=True, description="When it was read."),
        Field(name="sent_at", type="timestamp", required=True, description="When it was sent."),
    ),
    primary_key=("sensor", "read_at"),
    event_at="read_at",
    known_at="sent_at",
    lateness=timedelta(hours=1),
    freshness=timedelta(days=1),
    broken_share=0.5,
)
DDL = """
    create table {table} (
        sensor text, kind text, level integer, value numeric, is_valid boolean, read_at timestamptz, sent_at timestamptz, colour text
    );
    create index on {table} (read_at);
"""
Row = dict[str, Any]


def day(offset: int) -> date:
    """The day so many after the first."""
    return FIRST + timedelta(days=offset)


def at(offset: int, hour: int = 12) -> datetime:
    """An hour of a day."""
    return datetime.combine(day(offset), time(hour), UTC)


def reading(offset: int = 0, **changed: Any) -> Row:
    """A reading at noon of a day that keeps the contract but for what is changed; sent five minutes later unless given."""
    read_at = changed.get("read_at", at(offset))
    fine = {"sensor": "a1", "kind": "indoor", "level": 3, "value": 0.5, "is_valid": True, "read_at": read_at}
    return fine | {"sent_at": (read_at or at(offset)) + timedelta(minutes=5)} | changed


@dataclass(frozen=True, kw_only=True)
class World:
    """A source of readings with a name of its own: its table in the operational database, its partitions and its quarantine."""

    settings: Settings
    name: str

    @property
    def contract(self) -> Contract:
        """The contract of the readings under the name of this world."""
        return replace(READINGS, name=self.name)

    @property
    def table(self) -> Source:
        """The readings as a table."""
        return Source(contract=self.contract, origin=self.origin, load="daily")

    @property
    def origin(self) -> PostgresTable:
        """The table of the readings."""
        return PostgresTable(database=DATABASE, table=self.name)

    @property
    def api(self) -> Source:
        """The readings behind an API, two on a page."""
        return Source(contract=self.contract, origin=self.endpoint, load="daily")

    @property
    def endpoint(self) -> RestEndpoint:
        """The endpoint of the API."""
        return RestEndpoint(service=SERVICE, path="/v1/readings", records="rows", page_size=2)

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection]:
        """A connection to the operational database as its owner, which commits when the block ends."""
        with psycopg.connect(self.settings.owners[DATABASE].get_secret_value()) as connection:
            yield connection

    def run(self, statement: str, *values: object) -> None:
        """Runs a statement in the operational database; `{table}` in it is the table of the readings."""
        with self.database() as connection:
            connection.execute(sql.SQL(statement).format(table=sql.Identifier(self.name)), values or None)

    def fill(self, rows: Sequence[Mapping[str, Any]], ddl: str = DDL) -> None:
        """Makes the table of readings with these rows."""
        self.run(ddl)
        self.add(rows)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows to the table of readings."""
        with self.database() as connection:
            for row in rows:
                columns = sql.SQL(", ").join(map(sql.Identifier, row))
                values = sql.SQL(", ").join(map(sql.Placeholder, row))
                statement = sql.SQL("insert into {} ({}) values ({})").format(sql.Identifier(self.name), columns, values)
                connection.execute(statement, dict(row))

    def manifest(self, offset: int = 0) -> Manifest:
        """The manifest of a day."""
        found = staging.read_manifest(self.settings, self.name, day(offset).isoformat())
        assert found is not None
        return found

    def staged(self, partition: str = FIRST.isoformat()) -> list[Row]:
        """The rows that a partition's manifest names, in the order of their files, without those that ended at the source."""
        return [
            {name: value for name, value in row.items() if name != DELETED_AT}
            for row in self.versions(partition)
            if row[DELETED_AT] is None
        ]

    def versions(self, partition: str = FIRST.isoformat()) -> list[Row]:
        """All rows that a partition's manifest names, in the order of their files."""
        manifest = staging.read_manifest(self.settings, self.name, partition)
        assert manifest is not None
        batches = staging.read_staged(object_store(self.settings), self.settings.s3_bucket, manifest)
        rows = [row for batch in batches for row in batch.to_pylist()]
        assert len(rows) == manifest.rows
        return rows

    def quarantined(self) -> list[tuple[str, int, str, bool]]:
        """Partition, position and fault of the quarantined rows, and whether they were replayed."""
        found = quarantine.listed(self.settings, source=self.name)
        return [(row.partition, row.position, f"{row.field} {row.reason}".strip(), row.replayed_at is not None) for row in found]

    def originals(self) -> list[bytes]:
        """The bytes of the quarantined rows."""
        return [row.original for row in quarantine.listed(self.settings, source=self.name)]

    def content(self, first: int, last: int) -> dict[str, object]:
        """All that is staged and quarantined of the days first..last, without what differs from run to run."""
        days = [day(offset).isoformat() for offset in range(first, last + 1)]
        rows = [(self.staged(name), self.manifest(offset).reasons) for offset, name in enumerate(days, start=first)]
        return {"days": rows, "quarantine": self.quarantined(), "bytes": self.originals()}

    def manifests(self) -> list[str]:
        """The partitions that have a manifest."""
        return sorted(key.split("/")[2] for key in self.keys() if key.endswith(staging.MANIFEST))

    def is_waiting_for_lock(self) -> bool:
        """Whether some transaction of the warehouse waits for the lock of a partition."""
        with psycopg.connect(self.settings.warehouse_dsn.get_secret_value(), autocommit=True) as connection:
            query = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            return connection.execute(query).fetchall() != [(0,)]

    def keys(self) -> list[str]:
        """The keys of all objects staged under this name, forgotten ones included."""
        pages = (
            object_store(self.settings)
            .get_paginator("list_objects_v2")
            .paginate(Bucket=self.settings.s3_bucket, Prefix=f"staged/{self.name}/")
        )
        return [found["Key"] for page in pages for found in page.get("Contents", [])]


def with_share(share: float, source: Source) -> Source:
    """The source with another share of rows that may be broken."""
    return replace(source, contract=replace(source.contract, broken_share=share))


def with_field(name: str, source: Source, **changed: Any) -> Source:
    """The source with one field of its contract changed."""
    fields = tuple(replace(one, **changed) if one.name == name else one for one in source.contract.fields)
    return replace(source, contract=replace(source.contract, fields=fields))


def parts_of_a_day(contract: Contract) -> list[Checked]:
    """The first day in three parts of a hundred rows each, every third row broken."""
    rows = [json_bytes(reading(sensor=f"{number:03}", level=99 if number % 3 == 0 else 5)) for number in range(300)]
    return [check_json_rows(contract, rows[start : start + 100], first_position=start, day=FIRST) for start in (0, 100, 200)]


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Returns once something is so; raises AssertionError if it is not within 60 s."""
    deadline, pause = monotonic() + 60, Event()
    while not is_so():
        assert monotonic() < deadline, f"not within 60 s: {what}"
        pause.wait(0.1)


@contextmanager
def process(settings: Settings, code: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python process that runs code in which `settings` is bound; killed when the block ends, if it still runs."""
    start = "from pipeline_assets.core.settings import load_settings; settings = load_settings()\n"
    started = subprocess.Popen(
        [sys.executable, "-c", start + code], env=os.environ | {f"{PREFIX}HOME": str(settings.home)} | environment_of(settings)
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def kill(started: "subprocess.Popen[bytes]") -> None:
    """Kills a process with signal 9, and sees to it that this is what ended it."""
    assert started.poll() is None, "it ended before it was killed"
    started.kill()
    assert started.wait() == -signal.SIGKILL


Answer = tuple[int, Mapping[str, str], bytes]


@dataclass(kw_only=True)
class Api:
    """A server on loopback that answers as a function says, and remembers what it was asked."""

    answer: Callable[["Api", dict[str, str]], Answer]
    asked: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def take(self, path: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a request."""
        query = dict(parse_qsl(urlsplit(path).query))
        with self.lock:
            self.asked.append(query)
            self.paths.append(urlsplit(path).path)
            self.headers.append({name.lower(): value for name, value in headers.items()})
        return self.answer(self, query)


@contextmanager
def serving(
    settings: Settings, answer: Callable[[Api, dict[str, str]], Answer], context: ssl.SSLContext | None = None
) -> Iterator[tuple[Api, Settings]]:
    """An API that answers so, over TLS if a context is given, and settings that name it as the service `readings`."""
    api = Api(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = api.take(self.path, dict(self.headers.items()))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            api.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if context is not None:
            # Each session's own thread shakes hands, not the one that accepts.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        scheme = "http" if context is None else "https"
        service = RestService(url=f"{scheme}://127.0.0.1:{server.server_port}", api_key=SecretStr("key"))
        yield api, settings.model_copy(update={"services": {**settings.services, SERVICE: service}})
        server.shutdown()


def paged(rows: Sequence[Mapping[str, Any]]) -> Callable[[Api, dict[str, str]], Answer]:
    """Answers with the rows of the span asked for, in pages."""

    def answer(_: Api, query: dict[str, str]) -> Answer:
        since, until = datetime.fromisoformat(query["since"]), datetime.fromisoformat(query["until"])
        own = [row for row in rows if since <= (row["read_at"] or since) < until]
        start, limit = int(query.get("cursor", "0")), int(query["limit"])
        page = own[start : start + limit]
        return 200, {}, page_of(page, str(start + limit) if start + limit < len(own) else None)

    return answer


def page_of(rows: Sequence[Mapping[str, Any]], cursor: str | None = None) -> bytes:
    """An answer with these rows."""
    return json.dumps({"rows": rows, "next_cursor": cursor}, default=datetime.isoformat).encode()
