"""Typing landed records on real services: PostgreSQL, the object store and the catalog, with kills, two runs at once, and replays."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from secrets import token_hex

import psycopg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.errors import SettingsMissing, SourceUnavailable
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.stream_errors import OffsetsMissing
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.batch.replay import Replayed, replay
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.streaming.decoding import schema_registry
from pipeline_assets.ingestion.streaming.staged.events import stage_events
from pipeline_assets.ingestion.streaming.typed.replay import replay_records
from pipeline_assets.ingestion.streaming.typed.rows import Typed, type_landed
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.maintenance import maintain
from pipeline_assets.processing.lake.policy import POLICY
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import EventStream, History, Protobuf
from pipeline_assets_tests.lake_rows import commits_held_back
from pipeline_assets_tests.landings import Landed, event, land, records, stream_of
from pipeline_assets_tests.protobuf_readings import FRAME, MESSAGE, PLACE, register, written
from pipeline_assets_tests.readings import World, at, day, kill, process, reading
from pipeline_assets_tests.schema_registries import FIRST, FORMAT, SECOND, framed, registry

EVENTS = 1_200
TYPE = """
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets_tests.landings import stream_of
type_landed(settings, stream_of({name!r}, {topic!r}), run_id="other")
"""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A stream of readings with a topic and a name that no other test has."""

    settings: Settings
    name: str

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self.name.replace("_", "-")

    @property
    def stream(self) -> EventStream:
        """The stream of the topic."""
        return stream_of(self.name, self.topic)

    def land(self, *landed: Landed) -> None:
        """Lands records."""
        with catalog(self.settings) as lake:
            land(lake, [replace(one, topic=self.topic) for one in landed], self.topic)

    def type(self, stream: EventStream | None = None) -> Typed:
        """Types what has landed."""
        return type_landed(self.settings, stream or self.stream, run_id="test")

    def rows(self) -> list[tuple[int, int, float]]:
        """Partition, offset and value of all typed rows, sorted."""
        found = tables.read_all(self.settings, names.typed(self.name)).read_all().to_pylist()
        return sorted((row["_partition"], row["_offset"], row["value"]) for row in found)

    def quarantined(self) -> list[tuple[int | None, int | None, str, bytes]]:
        """Partition, offset, fault and bytes of all that is in quarantine, replayed or not."""
        found = quarantine.listed(self.settings, source=self.name)
        return [(row.topic_partition, row.topic_offset, f"{row.field} {row.reason}".strip(), row.original) for row in found]


@pytest.fixture
def topic(stores: Settings) -> Topic:
    """A topic of this test's own."""
    return Topic(settings=stores, name=f"events_{token_hex(5)}")


def good(first: int, end: int, partition: int = 0) -> list[tuple[int, int, float]]:
    """The rows of good records."""
    return [(partition, offset, float(offset)) for offset in range(first, end)]


def test_increments_are_typed_once_and_poison_waits_in_quarantine_with_its_place(topic: Topic) -> None:
    """Rows in the lake, broken records in the warehouse with topic, partition, offset, reason and bytes; a second run does nothing."""
    poison = {3: b"{", 4: None, 5: b"\xff\x00", 6: event(6, level=99)}
    topic.land(*records(0, EVENTS, broken=poison))
    first = topic.type()
    topic.land(*records(EVENTS - 10, EVENTS + 10), *records(0, 5, partition=1))
    second, third = topic.type(), topic.type()

    assert (first.rows, first.offsets, first.table_rows) == (EVENTS - 4, {0: (0, EVENTS)}, EVENTS - 4)
    assert (second.rows, second.repeats, third.commits) == (15, 10, 0)
    assert topic.rows() == [*good(0, 3), *good(7, EVENTS + 10), *good(0, 5, 1)]
    faults = ["not a JSON object", "empty record", "not a JSON object", "level out of range"]
    assert topic.quarantined() == [(0, 3 + place, fault, poison[3 + place] or b"") for place, fault in enumerate(faults)]
    row = quarantine.listed(topic.settings, source=topic.name)[0]
    assert (row.partition, row.position, row.topic, row.run_id) == (names.STREAM, 3, topic.topic, "test")


def test_a_run_that_is_killed_after_its_commit_is_not_done_again(topic: Topic) -> None:
    """The commit says how far it came, so the next run finds nothing to do."""
    topic.land(*records(0, EVENTS))
    with process(topic.settings, TYPE.format(name=topic.name, topic=topic.topic)) as started:
        assert started.wait(60) == 0
    again = topic.type()

    assert (again.rows, again.commits, again.offsets) == (0, 0, {0: (EVENTS, EVENTS)})
    assert topic.rows() == good(0, EVENTS)


def test_a_run_that_lost_its_lock_without_knowing_doubles_nothing(topic: Topic) -> None:
    """Its connection is cut while its commit waits and another run types the same records: one of the two commits, the other cannot."""
    topic.type()
    topic.land(*records(0, EVENTS, broken={5: b"{"}))
    with ThreadPoolExecutor(2) as pool:
        with commits_held_back(topic.settings, topic.name) as waiting:
            first = pool.submit(failure, topic)
            waiting.for_writers(1)
            cut(topic)
            other = pool.submit(topic.type)
            waiting.for_writers(2)
        ended, done = first.result(60), other.result(60)

    assert isinstance(ended, psycopg.OperationalError)
    assert done.offsets[0][1] == EVENTS
    assert topic.rows() == [*good(0, 5), *good(6, EVENTS)]
    assert topic.quarantined() == [(0, 5, "not a JSON object", b"{")]


def failure(topic: Topic) -> BaseException | None:
    """What a run ends with; None if it ends well."""
    try:
        topic.type()
    except psycopg.OperationalError as error:
        return error
    return None


def cut(topic: Topic) -> None:
    """Ends the connection that holds the lock of a topic."""
    query = """
        select pg_terminate_backend(pid) from pg_locks
        where locktype = 'advisory' and granted and ((classid::bigint << 32) | objid::bigint) = hashtextextended(%s, 0)
    """
    with warehouse(topic.settings) as connection:
        ended = connection.execute(query, [f"{names.QUARANTINE}/{topic.name}/{names.STREAM}"]).fetchall()
    assert ended == [(True,)]


def test_a_gap_is_an_error_that_writes_nothing(topic: Topic) -> None:
    """Neither rows nor quarantine; the error names topic, partition and offsets."""
    topic.land(*records(0, 10, broken={2: b"{"}), *records(20, EVENTS))

    with pytest.raises(OffsetsMissing, match=rf"Topic '{topic.topic}', partition 0: offsets 10 to 19 have not landed"):
        topic.type()

    assert (topic.rows(), topic.quarantined()) == ([], [])


def test_the_maintenance_of_landed_and_typed_tables_changes_nothing(isolated: Settings) -> None:
    """Compacted, expired and swept between runs, the tables give and keep each record once."""
    own = Topic(settings=isolated, name="events")
    hasty = replace(POLICY, min_files=2, kept_snapshots=1, snapshot_age=day(0) - day(0))
    for start in range(0, 100, 25):
        own.land(*records(start, start + 25))
        own.type()
        own.land(*records(start + 20, start + 25))
        for namespace in (names.LANDED, names.TYPED):
            maintain(isolated, namespace, hasty, at(10_000))
    last = own.type()

    assert (last.rows, last.offsets) == (0, {0: (100, 100)})
    assert own.rows() == good(0, 100)


def test_replayed_records_enter_the_typed_table_once(topic: Topic) -> None:
    """After the contract was mended its records are typed and marked, and their days named; what still breaks it stays."""
    broken = {3: event(3, level=12), 4: b"{", 5: event(5, level=12, read_at=at(2)), 6: None}
    topic.land(*records(0, EVENTS, broken=broken))
    topic.type()
    mended = replace(topic.stream, contract=with_level(topic.stream, 20))
    batch = replay(topic.settings, [mended])
    found = replay_records(topic.settings, [mended], [mended])
    again = replay_records(topic.settings, [mended], [mended])

    expected = [("2013-05-01", 1, 0), ("2013-05-03", 1, 0), (names.STREAM, 0, 2)]
    assert batch == []
    assert found == [Replayed(source=topic.name, partition=on, replayed=rows, still_broken=left) for on, rows, left in expected]
    assert again == [Replayed(source=topic.name, partition=names.STREAM, replayed=0, still_broken=2)]
    assert topic.rows() == [*good(0, 4), *good(5, 6), *good(7, EVENTS)]
    assert topic.type(mended).commits == 0


def test_records_of_a_registry_that_is_away_wait_and_are_typed_once_it_answers(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails as one that may be retried, with nothing written; an id that is registered too late is mended by a replay."""
    stream = replace(topic.stream, format=FORMAT)
    payloads = [framed(1, FIRST), framed(2, SECOND, value=1.0), framed(3, FIRST, value=2.0)]
    topic.land(*(Landed(offset=number, payload=payload) for number, payload in enumerate(payloads)))
    monkeypatch.setattr(schema_registry, "ATTEMPTS", 1)
    with registry() as kept:
        settings = topic.settings.model_copy(update={"registries": {"plant": kept.settings}})
        kept.schemas, kept.ill = {1: FIRST, 2: SECOND}, 1
        with pytest.raises(SettingsMissing, match="PIPELINE_REGISTRIES__PLANT__URL"):
            type_landed(topic.settings, stream, run_id="test")
        with pytest.raises(SourceUnavailable, match="schema registry plant"):
            type_landed(settings, stream, run_id="test")
        before = topic.rows(), topic.quarantined()
        done = type_landed(settings, stream, run_id="test")
        waiting = topic.quarantined()
        kept.schemas[3] = FIRST
        replay_records(settings, [stream], [stream])

    assert before == ([], [])
    assert (done.rows, waiting) == (2, [(0, 2, "unknown schema id", payloads[2])])
    assert topic.rows() == [(0, 0, 0.5), (0, 1, 1.0), (0, 2, 2.0)]


def test_records_of_protobuf_become_typed_rows_with_the_schema_of_a_registry(topic: Topic) -> None:
    """A broken one is in quarantine with its bytes; one whose schema is registered too late is mended by a replay."""
    stream = replace(topic.stream, format=Protobuf(message=MESSAGE, is_framed=True, registry="plant"))
    late = b"\0\0\0\0\x09" + PLACE + written(value=2.0)
    payloads = [FRAME + PLACE + written(), FRAME + PLACE + written(value=1.0)[:-1], late, FRAME + PLACE + written(value=3.0)]
    topic.land(*(Landed(offset=number, payload=payload) for number, payload in enumerate(payloads)))
    with registry() as kept:
        settings = topic.settings.model_copy(update={"registries": {"plant": kept.settings}})
        register(kept, 7)
        done = type_landed(settings, stream, run_id="test")
        waiting = topic.quarantined()
        register(kept, 9)
        replay_records(settings, [stream], [stream])

    faults = {1: "not this Protobuf message", 2: "unknown schema id"}
    assert (done.rows, waiting) == (2, [(0, offset, fault, payloads[offset]) for offset, fault in faults.items()])
    assert topic.rows() == [(0, 0, 0.5), (0, 2, 2.0), (0, 3, 3.0)]


def test_a_replay_that_was_killed_before_its_mark_adds_nothing_twice(topic: Topic) -> None:
    """The row is there by its place, so the record is marked and not added."""
    topic.land(*records(0, EVENTS, broken={3: event(3, level=12)}))
    topic.type()
    mended = replace(topic.stream, contract=with_level(topic.stream, 20))
    replay_records(topic.settings, [mended], [mended])
    with warehouse(topic.settings) as connection:
        connection.execute("update quarantine.rows set replayed_at = null where source = %s", [topic.name])
    snapshot = tables.snapshot_id(topic.settings, names.typed(topic.name))

    replay_records(topic.settings, [mended], [mended])

    assert tables.snapshot_id(topic.settings, names.typed(topic.name)) == snapshot
    assert topic.rows() == good(0, EVENTS)
    assert all(row.replayed_at is not None for row in quarantine.listed(topic.settings, source=topic.name))


def test_records_ahead_of_the_table_are_not_replayed(topic: Topic) -> None:
    """A run that was killed before its commit left them; the next run reads them again, so they must not be taken in before."""
    topic.type()
    topic.land(*records(0, EVENTS, broken={3: event(3, level=12)}))
    with (
        commits_held_back(topic.settings, topic.name) as waiting,
        process(topic.settings, TYPE.format(name=topic.name, topic=topic.topic)) as started,
    ):
        waiting.for_writers(1)
        kill(started)
    mended = replace(topic.stream, contract=with_level(topic.stream, 20))

    assert replay_records(topic.settings, [mended], [mended]) == []
    assert topic.type(mended).rows == EVENTS
    assert (topic.rows(), topic.quarantined()) == (good(0, EVENTS), [])


def with_level(stream: EventStream, maximum: float) -> Contract:
    """The stream's contract with a higher bound for the level."""
    fields = tuple(replace(field, maximum=maximum) if field.name == "level" else field for field in stream.contract.fields)
    return replace(stream.contract, fields=fields)


@pytest.fixture
def seam(world: World) -> tuple[World, Topic, EventStream]:
    """A history of readings over three days, and a topic that goes on from the middle of the second."""
    own = Topic(settings=world.settings, name=f"{world.name}_events")
    stream = replace(own.stream, history=History(source=world.table, field="kind", value="indoor"))
    world.fill([reading(offset, sensor=f"h{hour}", read_at=at(offset, hour)) for offset in range(2) for hour in range(24)])
    stage_days(world.settings, world.table, day(0), day(2), run_id="r")
    return world, own, stream


def keys(settings: Settings, name: str) -> list[tuple[str, object, float]]:
    """Sensor, time and value of the staged events of three days."""
    staged = [World(settings=settings, name=name).staged(day(offset).isoformat()) for offset in range(3)]
    return sorted((row["sensor"], row["read_at"], row["value"]) for rows in staged for row in rows)


def test_history_and_topic_meet_without_a_gap_and_without_a_double(seam: tuple[World, Topic, EventStream]) -> None:
    """Hours that both have are there once, as the topic has them; before it began the history's are, after it ended the topic's."""
    world, own, stream = seam
    hours = [(offset, hour) for offset in (1, 2) for hour in range(24) if (offset, hour) >= (1, 12)]
    own.land(*(Landed(offset=n, payload=event(9, sensor=f"h{hour}", read_at=at(offset, hour))) for n, (offset, hour) in enumerate(hours)))
    before = stage_events(world.settings, stream, day(0), day(2), run_id="r")
    own.type(stream)
    first = stage_events(world.settings, stream, day(0), day(2), run_id="r")
    staged = keys(world.settings, own.name)
    again = stage_events(world.settings, stream, day(0), day(2), run_id="r")

    expected = [(f"h{hour}", at(offset, hour), 9.0 if (offset, hour) in hours else 0.5) for offset in range(3) for hour in range(24)]
    assert ([one.manifest.rows for one in before.days], before.typed_snapshot) == ([24, 24, 0], None)
    assert [one.manifest.rows for one in first.days] == [one.manifest.rows for one in again.days] == [24, 24, 24]
    assert first.typed_snapshot == tables.snapshot_id(world.settings, names.typed(own.name))
    assert staged == keys(world.settings, own.name) == sorted(expected)
    assert World(settings=world.settings, name=own.name).quarantined() == []


def test_versions_that_the_topic_repeats_go_to_quarantine_but_for_the_last(seam: tuple[World, Topic, EventStream]) -> None:
    """Of rows known at once the one that stands last in the topic stays, also after the files of the typed table were put together."""
    world, own, stream = seam
    doubled = [Landed(offset=number, payload=event(number, sensor="h1", read_at=at(0, 1))) for number in (2, 0, 1)]
    for one in doubled:
        own.land(one)
    own.type(stream)
    stage_events(world.settings, stream, day(0), day(0), run_id="r")
    staged = World(settings=world.settings, name=own.name)
    kept, waiting = {row["sensor"]: row["value"] for row in staged.staged()}, staged.quarantined()
    with catalog(world.settings) as lake:
        table = lake.load_table(names.typed(own.name))
        table.overwrite(table.scan().to_arrow())
    stage_events(world.settings, stream, day(0), day(0), run_id="r")

    assert kept["h1"] == 2.0
    assert len(kept) == 24
    assert waiting == [("2013-05-01", place, "sensor, read_at, sent_at repeated version", False) for place in (24, 25)]
    assert ({row["sensor"]: row["value"] for row in staged.staged()}, staged.quarantined()) == (kept, waiting)


def test_what_a_commit_says_of_its_position_is_short(topic: Topic) -> None:
    """One number a partition, however many records there were."""
    topic.land(*records(0, EVENTS), *records(0, 5, partition=1))
    topic.type()
    with catalog(topic.settings) as lake:
        properties = lake.load_table(names.typed(topic.name)).properties

    assert json.loads(properties["pipeline.stream.next-offsets"]) == {"0": EVENTS, "1": 5}
    assert json.loads(properties["pipeline.stream.seen-beyond"]) == {}
