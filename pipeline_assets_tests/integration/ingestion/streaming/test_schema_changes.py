"""Sources that change their schema, through real Debezium, Kafka and Connect: what is added flows, what is gone stops its source."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

import dagster as dg
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.errors import SourceChanged
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.replay import Replayed
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.staging.partitions import read_manifest
from pipeline_assets.ingestion.streaming import assets
from pipeline_assets.ingestion.streaming.audit.audit import pause, verify_table, verify_topic
from pipeline_assets.ingestion.streaming.audit.compare import read_table
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import apply, connectors_of
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.staged.state import StagedState, stage_state
from pipeline_assets.ingestion.streaming.streams import change_log, followed_table
from pipeline_assets.ingestion.streaming.typed.replay import replay_records
from pipeline_assets.ingestion.streaming.typed.rows import Typed, type_landed
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import EventStream, PostgresTable, Source
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.landings import event, stream_of
from pipeline_assets_tests.readings import World
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.stream_pipelines import drop_slot
from pipeline_assets_tests.stream_records import produce, until, without_sensors

DATABASE = "airline_ops"
PLANES = Contract(
    name="planes",
    version="1.0.0",
    owner="owner@planes.example",
    description="Aircraft.",
    fields=(
        Field(name="tailnum", type="string", required=True, description="Registration."),
        Field(name="seats", type="integer", minimum=1, description="Seats."),
        Field(name="engine", type="string", description="Type of engine."),
        Field(name="updated_at", type="timestamp", required=True, description="When the row changed."),
    ),
    primary_key=("tailnum",),
    event_at="updated_at",
    known_at="updated_at",
    lateness=timedelta(0),
    freshness=timedelta(days=1),
    broken_share=0.5,
)
CABINS = Field(name="cabins", type="integer", description="Number of cabins.")
DDL = """
    create table {table} (
        tailnum text primary key, seats integer, engine text, updated_at timestamptz not null default '2013-01-01T00:00:00Z'
    );
    insert into {table} (tailnum, seats, engine) values ('A', 100, 'jet'), ('B', 200, 'jet'), ('C', 300, 'jet');
"""


GAUGES = replace(
    PLANES,
    name="gauges",
    description="Gauges.",
    fields=(
        Field(name="gauge_id", type="integer", required=True, description="Number of the gauge."),
        Field(name="level", type="number", description="What it shows."),
        Field(name="share", type="number", description="What it shows, of all."),
        Field(name="valid_until", type="timestamp", description="When it has to be calibrated."),
        PLANES.fields[-1],
    ),
    primary_key=("gauge_id",),
    broken_share=0.9,
)
GAUGES_DDL = """
    create table gauges (
        gauge_id bigint primary key, level double precision, share numeric(12, 4), valid_until timestamptz,
        updated_at timestamptz not null default now()
    );
    insert into gauges (gauge_id, level, share, valid_until) values
        (1, 1.5, 0.5, '2030-01-01Z'), (2, 2.5, 0.5, null), (3, 3.5, 0.5, null), (4, 'NaN', 0.5, null);
"""


def followed(database: str, name: str, *more: Field) -> Source:
    """A table of planes that is followed."""
    contract = replace(PLANES, name=f"{name}_{database}", fields=(*PLANES.fields, *more))
    return Source(contract=contract, origin=PostgresTable(database=database, table=name), load="changes")


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Two tables of aircraft in a database of their own, both followed."""

    settings: Settings
    database: str

    @property
    def planes(self) -> Source:
        """The table that changes its columns."""
        return followed(self.database, "planes")

    @property
    def gliders(self) -> Source:
        """The table that does not."""
        return followed(self.database, "gliders")

    @property
    def project(self) -> Project:
        """The flights with these tables as their only sources."""
        return Project(use_cases=(replace(flights, sources=(self.planes, self.gliders), streams=()),))

    def execute(self, *statements: str) -> None:
        """Runs the statements, each as a transaction."""
        with psycopg.connect(self.settings.databases[self.database].get_secret_value(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(sql.SQL(statement))

    def settle(self, source: Source, changes: int) -> None:
        """Returns once so many changes of a table have landed."""
        topic = change_log(source).topic
        with catalog(self.settings) as lake:
            landed = lake.load_table(names.landed(topic))
            until(lambda: landed.refresh().scan().to_arrow().num_rows, lambda rows: rows >= changes)

    def type(self, source: Source) -> Typed:
        """Types the changes of a table that have landed."""
        return type_landed(self.settings, change_log(source), run_id="test", refetch=refetch_from(self.settings))

    def log(self, source: Source) -> list[tuple[Any, ...]]:
        """Operation, key and seats of the typed changes, in their order."""
        rows = tables.read_all(self.settings, names.typed(change_log(source).contract.name)).read_all().to_pylist()
        return [(row["_op"], row["tailnum"], row["seats"]) for row in sorted(rows, key=lambda row: row["_offset"])]

    def staged(self, source: Source, column: str = "seats") -> dict[str, Any]:
        """A column of what is staged of a table, by key."""
        rows = World(settings=self.settings, name=source.contract.name).staged(names.SNAPSHOT)
        return {row["tailnum"]: row[column] for row in rows}

    def run(self, folder: Path, *chosen: names.AssetName) -> dg.ExecuteInProcessResult:
        """A run of some assets."""
        return run(self.settings, self.project, folder, *chosen)


def run(settings: Settings, project: Project, folder: Path, *chosen: names.AssetName) -> dg.ExecuteInProcessResult:
    """A run of some assets of streaming ingestion, as Dagster makes it."""
    write_stack_env(settings, folder)
    defs = dg.Definitions.merge(without_sensors(assets.defs(project)), dg.Definitions(resources={"platform": Platform(home=str(folder))}))
    with dg.instance_for_test() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(list(name)) for name in chosen], raise_on_error=False)


def failed(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the one check `contract` that failed."""
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "contract" and not one.passed]
    assert check.severity == dg.AssetCheckSeverity.ERROR
    return {name: one.value for name, one in check.metadata.items()}


@contextmanager
def connected(settings: Settings, project: Project) -> Iterator[None]:
    """The connectors of a project, which have taken what is there; gone after the block."""
    try:
        assert [error for _, error in apply(settings, connectors_of(project)) if error is not None] == []
        yield
    finally:
        with open_connect(settings) as connect:
            for connector in connectors_of(project):
                connect.delete(connector.name)


@pytest.fixture
def empty(streams: Settings, cluster: psycopg.Connection, fresh_database: Callable[[SecretStr], SecretStr]) -> Iterator[Followed]:
    """A database of its own, with its role that reads changes; connectors must be gone before the fixture ends."""
    owned, database = fresh_database(streams.owners[DATABASE]), f"fleet_{token_hex(5)}"
    base, _, _ = streams.replication[DATABASE].get_secret_value().rpartition("/")
    reader = SecretStr(f"{base}/{owned.get_secret_value().rpartition('/')[2]}")
    own = {"databases": {database: owned}, "replication": {database: reader}}
    yield Followed(settings=streams.model_copy(update=own), database=database)
    drop_slot(cluster, names.replication(database))


@pytest.fixture
def ops(empty: Followed) -> Iterator[Followed]:
    """Two followed tables of three aircraft each, of which a first snapshot is staged."""
    empty.execute(DDL.format(table="planes"), DDL.format(table="gliders"))
    with connected(empty.settings, empty.project):
        for source in (empty.planes, empty.gliders):
            empty.settle(source, 3)
            empty.type(source)
            stage_state(empty.settings, source, run_id="test")
        yield empty


@pytest.mark.timeout(300)
def test_a_dropped_column_stops_its_table_only_until_it_is_back(ops: Followed, tmp_path: Path) -> None:
    """Nothing is typed or staged as null. Once the column is there, all goes on: a row new without it waits for its next change."""
    planes, gliders = ops.planes, ops.gliders
    log = ops.log(planes)
    ops.execute(
        "alter table planes drop column seats",
        "update planes set engine = 'prop' where tailnum in ('A', 'B')",
        "insert into planes (tailnum, engine) values ('D', 'prop')",
        "update gliders set seats = 1 where tailnum = 'A'",
    )
    ops.settle(planes, 6)
    ops.settle(gliders, 4)
    typed, staged = (names.typed(change_log(planes).contract.name), names.staged(planes.contract.name))
    stopped = ops.run(tmp_path, typed, names.typed(change_log(gliders).contract.name), names.staged(gliders.contract.name))
    by_staging = ops.run(tmp_path, staged)
    kept = ops.log(planes), ops.staged(planes), quarantine.listed(ops.settings, source=change_log(planes).contract.name)
    ops.execute("alter table planes add column seats integer", "update planes set seats = 111 where tailnum = 'A'")
    ops.settle(planes, 7)
    back = ops.type(planes)
    stage_state(ops.settings, planes, run_id="test")
    first, waiting = ops.staged(planes), quarantine.listed(ops.settings, source=planes.contract.name)
    ops.execute("update planes set seats = 444 where tailnum = 'D'")
    ops.settle(planes, 8)
    ops.type(planes)
    stage_state(ops.settings, planes, run_id="test")

    assert (failed(stopped), failed(by_staging)) == ({"fields": {"seats": "(integer) has no column"}, "dependents": []},) * 2
    assert ops.staged(gliders) == {"A": 1, "B": 200, "C": 300}
    assert kept == (log, {"A": 100, "B": 200, "C": 300}, [])
    assert (back.rows, back.repeats, dict(back.broken)) == (4, 0, {})
    assert first == {"A": 111, "B": 200, "C": 300}
    assert ops.staged(planes, "engine") == {"A": "prop", "B": "prop", "C": "jet", "D": "prop"}
    assert [(row.field, row.reason) for row in waiting] == [("seats", "missing")]
    assert ops.staged(planes) == {"A": 111, "B": 200, "C": 300, "D": 444}
    assert ops.type(planes).commits == 0


@pytest.mark.timeout(300)
def test_a_retyped_column_stops_its_table_until_it_is_back(ops: Followed) -> None:
    """The text is written nowhere but, once the column is mended, to quarantine; every change is typed once."""
    planes = ops.planes
    ops.execute("alter table planes alter column seats type text", "update planes set seats = 'many' where tailnum = 'A'")
    ops.settle(planes, 4)
    with pytest.raises(SourceChanged) as caught:
        ops.type(planes)
    with pytest.raises(SourceChanged):
        ops.type(planes)
    kept = ops.log(planes)
    ops.execute(
        "update planes set seats = '111' where tailnum = 'A'", "alter table planes alter column seats type integer using seats::integer"
    )
    ops.settle(planes, 5)
    back = ops.type(planes)
    stage_state(ops.settings, planes, run_id="test")

    assert caught.value.problems == {"seats": "is text, expected integer"}
    assert kept == [("r", "A", 100), ("r", "B", 200), ("r", "C", 300)]
    assert (back.rows, dict(back.broken)) == (1, {"seats wrong type": 1})
    assert ops.staged(planes) == {"A": 111, "B": 200, "C": 300}


@pytest.mark.timeout(300)
def test_an_added_column_flows_once_it_is_declared(ops: Followed) -> None:
    """Before, it is reported and changes nothing; from then on its values come; under a new name all that has landed is typed with it."""
    planes, declared = ops.planes, followed(ops.database, "planes", CABINS)
    ops.execute("alter table planes add column cabins integer", "update planes set cabins = 2 where tailnum = 'A'")
    ops.settle(planes, 4)
    unknown = ops.type(planes).unknown_fields
    stage_state(ops.settings, planes, run_id="test")
    before = ops.staged(planes)
    ops.execute("update planes set cabins = 3 where tailnum = 'B'")
    ops.settle(planes, 5)
    known = ops.type(declared)
    stage_state(ops.settings, declared, run_id="test")
    anew = replace(declared, contract=replace(declared.contract, name=f"{declared.contract.name}_2"))
    ops.type(anew)
    stage_state(ops.settings, anew, run_id="test")

    assert "cabins" in unknown
    assert "cabins" not in known.unknown_fields
    assert before == {"A": 100, "B": 200, "C": 300}
    assert ops.staged(declared, "cabins") == {"A": None, "B": 3, "C": None}
    assert ops.staged(anew, "cabins") == {"A": 2, "B": 3, "C": None}
    assert quarantine.listed(ops.settings, source=anew.contract.name) == []


@pytest.mark.timeout(300)
def test_a_field_that_the_table_never_had_is_a_source_that_changed(ops: Followed) -> None:
    """A contract that declares it, optional or not, is not kept by null values."""
    ops.execute("update planes set seats = 1 where tailnum = 'A'")
    ops.settle(ops.planes, 4)

    with pytest.raises(SourceChanged, match=r"field 'cabins' \(integer\) has no column"):
        ops.type(followed(ops.database, "planes", CABINS))


@pytest.fixture
def events(streams: Settings) -> Iterator[tuple[EventStream, EventStream]]:
    """Two streams of readings, whose topics land."""
    made = [f"sensed_{token_hex(5)}" for _ in range(2)]
    first, second = (stream_of(name, name.replace("_", "-"), share=0.1) for name in made)
    with connected(streams, Project(use_cases=(replace(flights, sources=(), streams=(first, second)),))):
        yield first, second


def send(settings: Settings, stream: EventStream, payloads: Sequence[bytes], landed: int) -> None:
    """Puts records on the topic of a stream, and returns once so many have landed in all."""
    produce(settings, stream.topic, list(payloads))
    with catalog(settings) as lake:
        table = lake.load_table(names.landed(stream.topic))
        until(lambda: table.refresh().scan().to_arrow().num_rows, lambda rows: rows >= landed)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (b'"level":', "is missing in the newest 20 records of the topic '{topic}', expected integer"),
        (b'"level":"many","was":', "is a string in the newest 20 records of the topic '{topic}', expected integer"),
    ],
)
def test_events_without_a_field_or_with_another_type_stop_their_stream_only(
    streams: Settings, events: tuple[EventStream, EventStream], tmp_path: Path, change: bytes, problem: str
) -> None:
    """The other stream goes on. Once the producer is mended, the next run takes up all, and what was written meanwhile is in quarantine."""
    first, second = (_with_required_level(stream) for stream in events)
    changed = change if change != b'"level":' else b'"depth":'
    good = [event(number).replace(b'"level": ', b'"level":') for number in range(45)]
    send(streams, first, [*good[:5], *(one.replace(b'"level":', changed) for one in good[5:25])], 25)
    send(streams, second, good[:5], 5)
    typed = [names.typed(stream.contract.name) for stream in (first, second)]
    project = Project(use_cases=(replace(flights, sources=(), streams=(first, second)),))
    stopped = run(streams, project, tmp_path, *typed)
    rows = tables.row_count(streams, typed[1], date(2013, 5, 1), date(2013, 5, 1))
    held = quarantine.listed(streams, source=first.contract.name)
    send(streams, first, good[25:], 45)
    back = run(streams, project, tmp_path, *typed)

    assert failed(stopped) == {"fields": {"level": problem.format(topic=first.topic)}, "dependents": []}
    assert (rows, held) == (5, [])
    assert back.success
    assert sorted(row["value"] for row in tables.read_all(streams, typed[0]).read_all().to_pylist()) == [
        *map(float, range(5)),
        *map(float, range(25, 45)),
    ]
    assert len(quarantine.listed(streams, source=first.contract.name)) == 20


def _with_required_level(stream: EventStream) -> EventStream:
    fields = tuple(replace(field, required=field.required or field.name == "level") for field in stream.contract.fields)
    return replace(stream, contract=replace(stream.contract, fields=fields))


@pytest.mark.timeout(300)
def test_events_of_the_future_and_very_late_ones_are_broken(streams: Settings, events: tuple[EventStream, EventStream]) -> None:
    """They wait in quarantine, and make no day of their own in the lake."""
    stream, _ = events
    future, past = datetime(2099, 1, 1, tzinfo=UTC), datetime(2013, 5, 1, 12, tzinfo=UTC)
    payloads = [
        event(0),
        event(1, read_at=future, sent_at=future),
        event(2, read_at=past + timedelta(days=1), sent_at=past),
        event(3, read_at=past, sent_at=past + timedelta(days=3)),
    ]
    send(streams, stream, payloads, 4)
    done = type_landed(streams, replace(stream, contract=replace(stream.contract, broken_share=1.0)), run_id="test")

    assert (done.rows, done.days) == (1, [date(2013, 5, 1)])
    assert dict(done.broken) == {"sent_at from the future": 1, "read_at from the future": 1, "sent_at too late": 1}
    assert read_manifest(streams, stream.contract.name, "2099-01-01") is None


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """A followed table of gauges, step by step."""

    ops: Followed
    source: Source

    def take(self, changes: int) -> StagedState:
        """What was staged, once so many changes have landed."""
        self.ops.settle(self.source, changes)
        self.ops.type(self.source)
        return stage_state(self.ops.settings, self.source, run_id="test")

    def standing(self) -> dict[int, float | None]:
        """The level of the gauges that stand in the table, as far as they are known."""
        rows = World(settings=self.ops.settings, name=self.source.contract.name).staged(names.SNAPSHOT)
        newest = {row["gauge_id"]: row for row in sorted(rows, key=lambda row: row["updated_at"])}
        return {key: row["level"] for key, row in sorted(newest.items()) if row.get("_deleted_at") is None}

    def quarantined(self) -> Counter[int]:
        """How many versions of each gauge are in quarantine."""
        rows = quarantine.listed(self.ops.settings, source=self.source.contract.name)
        return Counter(json.loads(row.original)["gauge_id"] for row in rows)

    def audit(self) -> tuple[list[str], int]:
        """The problems that the audit finds, and how many keys are in quarantine."""
        log, settings = change_log(self.source), self.ops.settings
        reading = read_table(settings, self.source.contract, followed_table(self.source))

        def meanwhile() -> None:
            pause()
            self.ops.type(self.source)

        table = verify_table(settings, self.source, reading, meanwhile)
        return [*table.problems, *verify_topic(settings, [log], log.topic, meanwhile).problems], table.in_quarantine


@pytest.mark.timeout(300)
def test_a_row_whose_newest_change_is_broken_does_not_stand(empty: Followed) -> None:
    """NaN, an infinite time, and a snapshot that ends with such a row: in quarantine, as in a batch, until a good change comes.

    The audit looks at these keys too, and a lake from before there was anything of broken changes in a log is mended by a replay.
    """
    contract = replace(GAUGES, name=f"gauges_{empty.database}")
    source = Source(contract=contract, origin=PostgresTable(database=empty.database, table="gauges"), load="changes")
    gauges, log = Gauges(ops=empty, source=source), change_log(source)
    empty.execute(GAUGES_DDL)
    with connected(empty.settings, Project(use_cases=(replace(flights, sources=(source,), streams=()),))):
        gauges.take(4)
        first = gauges.standing(), gauges.quarantined()
        empty.execute(
            "update gauges set level = 'NaN', updated_at = now() where gauge_id = 1",
            "update gauges set share = 'NaN', updated_at = now() where gauge_id = 2",
            "update gauges set valid_until = 'infinity', updated_at = now() where gauge_id = 3",
            "update gauges set level = 4.5, updated_at = now() where gauge_id = 4",
            "insert into gauges (gauge_id, level) values (5, '-Infinity'), (6, 6.5)",
        )
        gauges.take(10)
        broken, found = (gauges.standing(), gauges.quarantined()), gauges.audit()
        empty.execute("update gauges set level = 7.5, updated_at = now() where gauge_id = 1", "delete from gauges where gauge_id = 5")
        mended = gauges.take(12)
        after, later = gauges.standing(), gauges.audit()
        with catalog(empty.settings) as lake:
            lake.load_table(names.typed(log.contract.name)).delete("_broken is not null")
        stage_state(empty.settings, source, run_id="test")
        as_before, blind = gauges.standing(), gauges.audit()
        replayed = [replay_records(empty.settings, [log], [log]) for _ in range(2)]
        stage_state(empty.settings, source, run_id="test")

    assert first == ({1: 1.5, 2: 2.5, 3: 3.5}, {4: 1})
    assert broken == ({4: 4.5, 6: 6.5}, {1: 1, 2: 1, 3: 1, 4: 1, 5: 1})
    assert (found, later) == (([], 4), ([], 2))
    assert (after, mended.whole_because) == ({1: 7.5, 4: 4.5, 6: 6.5}, None)
    assert as_before == {1: 7.5, 2: 2.5, 3: 3.5, 4: 4.5, 6: 6.5}
    assert blind == (["2 keys are rows in the lake, and break the contract in the source: (2,), (3,)"], 0)
    assert replayed == [[Replayed(source=log.contract.name, partition=names.STREAM, replayed=0, still_broken=5)]] * 2
    assert gauges.standing() == after
