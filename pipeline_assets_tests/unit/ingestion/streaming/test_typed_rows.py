"""Landed records become typed rows exactly once, however they landed and whatever ends a run; in a catalog of one folder."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from pipeline_assets.core import names
from pipeline_assets.core.errors import ContractViolation, LakeBusy, SchemaConflict, SourceChanged, TableMismatch
from pipeline_assets.core.stream_errors import OffsetsMissing
from pipeline_assets.ingestion.streaming.decoding.formats import headers_of
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader, Share, share_of
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.landing.offsets import Seen, minus, spans_of, union
from pipeline_assets.ingestion.streaming.landing.refetch import Refetch, Refetched, refuse
from pipeline_assets.ingestion.streaming.streams import change_log
from pipeline_assets.ingestion.streaming.typed import chunks
from pipeline_assets.ingestion.streaming.typed import rows as typed_rows
from pipeline_assets.ingestion.streaming.typed.chunks import Chunk
from pipeline_assets.ingestion.streaming.typed.rows import Typed, type_into
from pipeline_assets.ingestion.streaming.typed.table import position_of, typed_table
from pipeline_assets.spec.sources import CloudEvent, EventStream, PostgresTable, Route, Source
from pipeline_assets_tests.landings import RECEIVED_AT, TOPIC, Landed, event, folder_catalog, land, plain, records, stream_of, table_of
from pipeline_assets_tests.readings import READINGS, day

Place = tuple[int, int]


class CrashError(Exception):
    """A run ends here, as if it were killed."""


@dataclass(kw_only=True)
class Bench:
    """A stream, its catalog, and a quarantine that is replaced as the real one is."""

    lake: Catalog
    stream: EventStream = field(default_factory=stream_of)
    streams: Sequence[EventStream] = ()
    quarantine: dict[Place, str] = field(default_factory=dict)
    refetch: Refetch = refuse
    after_keeping: Callable[[], None] | None = None

    def keep(self, chunk: Chunk) -> None:
        """Puts broken records in the place of what is there of their chunk's offsets."""
        covered = Seen(partitions=chunk.covered.partitions)
        stale = [place for place in self.quarantine if covered.covers({place[0]: ((place[1], place[1] + 1),)})]
        for place in stale:
            del self.quarantine[place]
        for row in chunk.broken:
            assert (row.partition, row.offset) not in self.quarantine
            self.quarantine[row.partition, row.offset] = row.broken.fault
        if self.after_keeping is not None:
            todo, self.after_keeping = self.after_keeping, None
            todo()

    def type(self) -> Typed:
        """Types what has landed."""
        reader = RecordReader(self.stream, share_of(self.stream, self.streams))
        return type_into(self.lake, self.stream, reader, self.keep, self.refetch, run_id="test")

    @property
    def table(self) -> Table:
        """The typed table."""
        return typed_table(self.lake, self.stream.contract)

    @property
    def rows(self) -> dict[Place, float]:
        """The value of each typed row by its place; fails if a place stands there twice."""
        found = self.table.scan().to_arrow().to_pylist()
        by_place = {(row["_partition"], row["_offset"]): row["value"] for row in found}
        assert len(by_place) == len(found)
        return by_place


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """An empty bench."""
    with folder_catalog(tmp_path) as lake:
        yield Bench(lake=lake)


def values(*spans: tuple[int, int, int]) -> dict[Place, float]:
    """The rows of partitions from one offset up to another, with the numbers that `records` gives them."""
    return {(partition, offset): float(offset) for partition, first, end in spans for offset in range(first, end)}


def test_nothing_landed_is_nothing_typed(bench: Bench) -> None:
    """Neither a topic without a record nor one without a table is an error, and no commit is made."""
    first = bench.type()
    again = bench.type()

    assert (first.rows, first.commits, first.offsets, first.snapshot_after) == (0, 0, {}, None)
    assert again == first


def test_each_run_takes_up_where_the_last_left_off(bench: Bench) -> None:
    """Rows carry their place and time in the topic; broken records are counted by fault and do not come again."""
    land(bench.lake, records(0, 10, broken={3: b"{", 4: None}))
    first = bench.type()
    land(bench.lake, records(10, 12))
    land(bench.lake, records(0, 3, partition=7))
    second, third = bench.type(), bench.type()

    assert (first.rows, dict(first.broken), first.offsets) == (8, {"not a JSON object": 1, "empty record": 1}, {0: (0, 10)})
    assert (second.rows, dict(second.broken), second.offsets) == (5, {}, {0: (10, 12), 7: (0, 3)})
    assert (third.rows, third.commits, third.snapshot_after) == (0, 0, second.snapshot_after)
    assert bench.rows == values((0, 0, 3), (0, 5, 12), (7, 0, 3))
    assert bench.quarantine == {(0, 3): "not a JSON object", (0, 4): "empty record"}
    row = bench.table.scan().to_arrow().to_pylist()[0]
    assert (row["_topic"], row["_received_at"], first.days) == (TOPIC, RECEIVED_AT, [day(0)])


def test_records_that_landed_again_are_dropped_and_counted(bench: Bench) -> None:
    """In one landing, in the next, and in one that comes later."""
    land(bench.lake, [*records(0, 5), *records(2, 4)])
    land(bench.lake, records(4, 8))
    first = bench.type()
    land(bench.lake, [*records(0, 8), *records(8, 9)])
    second = bench.type()

    assert (first.repeats, second.repeats) == (3, 8)
    assert bench.rows == values((0, 0, 9))


def test_days_are_those_of_the_events(bench: Bench) -> None:
    """Exactly the days that got rows are named, however far apart."""
    texts = ["2013-05-03T23:59:59.999999+00:00", "2013-05-01T00:00:00+00:00", "2013-05-02T01:00:00+02:00", "2013-05-09T00:00:00+00:00"]
    times = [datetime.fromisoformat(time) for time in texts]
    land(bench.lake, [Landed(offset=number, payload=event(number, read_at=time)) for number, time in enumerate(times)])

    assert bench.type().days == [day(0), day(2), day(8)]


def test_a_gap_stops_the_run_and_names_its_offsets(bench: Bench) -> None:
    """Nothing is written, neither rows nor quarantine; once the records land after all, everything is there once."""
    land(bench.lake, records(0, 3, broken={1: b"{"}))
    land(bench.lake, records(5, 7))

    with pytest.raises(OffsetsMissing) as caught:
        bench.type()
    before = (bench.rows, dict(bench.quarantine))
    land(bench.lake, records(3, 5))
    bench.type()

    assert (caught.value.topic, caught.value.partition, caught.value.first, caught.value.last) == (TOPIC, 0, 3, 4)
    assert before == ({}, {})
    assert bench.rows == values((0, 0, 1), (0, 2, 7))


def test_a_gap_is_filled_from_the_topic(bench: Bench) -> None:
    """What the topic still has is typed like any other; offsets that hold no record are none, and are not asked for again."""
    asked = []

    def refetch(topic: str, partition: int, first: int, last: int) -> Iterator[Refetched]:
        asked.append((topic, partition, first, last))
        yield from (Refetched(offset=offset, payload=plain(offset), received_at=None) for offset in range(first, last + 1) if offset % 2)

    bench.refetch = refetch
    land(bench.lake, [*records(4, 6), *records(9, 10)])
    first = bench.type()
    land(bench.lake, [*records(3, 9), *records(10, 11)])
    second = bench.type()

    assert asked == [(TOPIC, 0, 0, 8)]
    assert (first.rows, first.refetched, first.offsets) == (6, 3, {0: (0, 10)})
    assert (second.rows, second.repeats) == (1, 6)
    assert bench.rows == {(0, offset): float(offset) for offset in (1, 3, 4, 5, 7, 9, 10)}


def test_no_more_than_one_batch_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is made while one batch waits, however many there are; once a run stops nothing more is read."""
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 2)
    read: list[int] = []

    def arriving() -> Iterator[chunks.Arrived]:
        for start in range(0, 20, 2):
            read.append(start)
            yield chunks.Arrived(records=table_of(records(start, start + 2)))

    made = chunks.chunks(arriving(), RecordReader(stream_of(), Share()), Seen())
    first = next(made)
    made.close()

    assert first.tally.rows == 2
    # The batch that showed the chunk to be full, and the one after it.
    assert read == [0, 2, 4]


def test_an_increment_larger_than_memory_is_several_commits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit carries its own position; a run that ends between two of them loses nothing and doubles nothing."""
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 10)
    monkeypatch.setattr(landing, "BATCH_ROWS", 5)
    # Compaction may leave rows in any order.
    land(bench.lake, [*records(20, 35), *records(0, 20, broken={7: b"{"})])

    def crash() -> None:
        def later() -> None:
            raise CrashError

        bench.after_keeping = later

    bench.after_keeping = crash
    with pytest.raises(CrashError):
        bench.type()
    half, position = bench.rows, position_of(bench.table)
    rest = bench.type()

    assert half == values((0, 20, 30))
    assert (position.landing_snapshot, position.seen.next_offsets) == (None, {0: 0})
    assert (rest.rows, rest.commits, rest.offsets) == (24, 3, {0: (0, 35)})
    assert bench.rows == values((0, 0, 7), (0, 8, 35))
    assert bench.quarantine == {(0, 7): "not a JSON object"}


def test_a_run_that_ends_before_its_commit_leaves_only_a_quarantine_that_is_put_right(bench: Bench) -> None:
    """The same records are read again; what the contract takes by then is a row and no longer in quarantine."""
    land(bench.lake, records(0, 4, broken={1: event(1, level=11), 2: b"{"}))

    def crash() -> None:
        raise CrashError

    bench.after_keeping = crash
    with pytest.raises(CrashError):
        bench.type()
    left = dict(bench.quarantine)
    fields = tuple(replace(one, maximum=20) if one.name == "level" else one for one in bench.stream.contract.fields)
    bench.stream = replace(bench.stream, contract=replace(bench.stream.contract, fields=fields))
    bench.type()

    assert left == {(0, 1): "level out of range", (0, 2): "not a JSON object"}
    assert bench.quarantine == {(0, 2): "not a JSON object"}
    assert bench.rows == values((0, 0, 2), (0, 3, 4))


def test_of_two_runs_at_once_one_commits_and_the_other_starts_again(bench: Bench) -> None:
    """The second finds the first's position and takes only what came since."""
    land(bench.lake, records(0, 5))
    other: list[Typed] = []

    def meanwhile() -> None:
        land(bench.lake, records(5, 8))
        other.append(bench.type())

    bench.after_keeping = meanwhile
    own = bench.type()

    assert (own.rows, own.commits, other[0].rows) == (0, 0, 8)
    assert own.snapshot_after == other[0].snapshot_after
    assert bench.rows == values((0, 0, 8))


def test_a_table_that_others_change_again_and_again_is_busy(bench: Bench) -> None:
    """After some attempts the run gives up, and may be tried again."""
    land(bench.lake, records(0, 5))

    def meanwhile() -> None:
        bench.type()
        land(bench.lake, records(0, 1))
        bench.after_keeping = meanwhile

    bench.after_keeping = meanwhile
    with pytest.raises(LakeBusy):
        bench.type()
    assert bench.rows == values((0, 0, 5))


def write_anew(table: Table) -> None:
    """Puts all rows of a table in new files, as compaction does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parquet writer option")
        table.overwrite(table.scan().to_arrow())


def expire_all_but_the_newest(table: Table) -> None:
    """Forgets the history of a table."""
    newest = table.current_snapshot()
    assert newest is not None
    old = [snapshot.snapshot_id for snapshot in table.snapshots() if snapshot.snapshot_id != newest.snapshot_id]
    if old:
        table.maintenance.expire_snapshots().by_ids(old).commit()


def test_compaction_and_expiry_of_the_landing_table_change_nothing(bench: Bench) -> None:
    """Whether the files were put together or the snapshot that was read is gone: what is new is typed, what was read is not."""
    land(bench.lake, records(0, 5))
    bench.type()
    land(bench.lake, records(5, 8))
    table = landing.ensure_landing_table(bench.lake, TOPIC)
    write_anew(table)
    compacted = bench.type()
    land(bench.lake, records(8, 9))
    land(bench.lake, records(9, 10))
    expire_all_but_the_newest(landing.ensure_landing_table(bench.lake, TOPIC))
    expired = bench.type()

    assert (compacted.rows, expired.rows, expired.repeats) == (3, 2, 0)
    assert bench.rows == values((0, 0, 10))


def test_compaction_and_expiry_of_the_typed_table_change_nothing(bench: Bench) -> None:
    """The position is found below the compaction, and in the table's properties where all commits of events are gone."""
    land(bench.lake, records(0, 5))
    bench.type()
    table = bench.table
    write_anew(table)
    land(bench.lake, records(3, 8))
    after_compaction = bench.type()
    table = bench.table
    write_anew(table)
    expire_all_but_the_newest(bench.table)
    after_expiry = bench.type()

    assert (after_compaction.rows, after_compaction.repeats) == (3, 2)
    assert (after_expiry.rows, after_expiry.commits, after_expiry.offsets) == (0, 0, {0: (8, 8)})
    assert bench.rows == values((0, 0, 8))


def test_few_broken_records_do_not_stop_a_stream_and_many_do(bench: Bench) -> None:
    """A small increment is judged together with those before it, once they are enough to judge."""
    bench.stream = stream_of(share=0.01)
    for start in range(0, 900, 300):
        land(bench.lake, records(start, start + 300, broken=dict.fromkeys(range(start, start + 5), b"{")))
        bench.type()
    land(bench.lake, records(900, 1200))

    with pytest.raises(ContractViolation) as caught:
        bench.type()

    assert (caught.value.rows, caught.value.broken) == (1200, 15)
    assert len(bench.rows) == 885
    assert position_of(bench.table).seen.next_offsets == {0: 900}


def test_a_stream_is_judged_anew_after_enough_good_records(bench: Bench) -> None:
    """What was judged good enough is not counted again."""
    bench.stream = stream_of(share=0.01)
    land(bench.lake, records(0, 1500, broken=dict.fromkeys(range(15), b"{")))
    bench.type()
    land(bench.lake, records(1500, 1510, broken=dict.fromkeys(range(1500, 1510), b"{")))
    bench.type()

    assert position_of(bench.table).unjudged == (10, 10)


RENAMED = plain(1).replace(b'"sensor"', b'"device"')


def later(landed: Sequence[Landed], minutes: int = 60) -> list[Landed]:
    """The same records, written later."""
    return [replace(one, received_at=RECEIVED_AT + timedelta(minutes=minutes)) for one in landed]


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        (RENAMED, {"sensor": "is missing in the newest 12 records of the topic 'sensor-readings', expected string"}),
        (event(1, level="many"), {"level": "is a string in the newest 12 records of the topic 'sensor-readings', expected integer"}),
        (event(1, level=[1]), {"level": "is an array in the newest 12 records of the topic 'sensor-readings', expected integer"}),
        (
            event(1, sent_at="2013-05-01T12:05:00"),
            {"sent_at": "is a time without zone in the newest 12 records of the topic 'sensor-readings', expected timestamp"},
        ),
    ],
)
def test_a_field_that_is_gone_or_of_another_type_stops_its_stream_until_it_is_back(
    bench: Bench, changed: bytes, problems: dict[str, str]
) -> None:
    """Nothing is written, quarantine included. Then all of it is: rows once, and in quarantine what was written in between."""
    bench.stream = stream_of(share=0.01)
    land(bench.lake, records(0, 5))
    bench.type()
    land(bench.lake, [*records(5, 9), *later(records(9, 21, broken=dict.fromkeys(range(9, 21), changed)))])
    with pytest.raises(SourceChanged) as caught:
        bench.type()
    stopped = bench.rows, dict(bench.quarantine), position_of(bench.table).seen.next_offsets
    land(bench.lake, later(records(21, 24), minutes=90))
    done = bench.type()

    assert caught.value.problems == problems
    assert stopped == (values((0, 0, 5)), {}, {0: 5})
    assert (done.rows, sum(done.broken.values()), bench.rows) == (7, 12, values((0, 0, 9), (0, 21, 24)))
    assert sorted(bench.quarantine) == [(0, offset) for offset in range(9, 21)]


def test_records_of_a_schema_that_is_mended_are_not_held_against_the_share(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are, and though they fill whole chunks: the newest record says that the source is in order."""
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 500)
    bench.stream = stream_of(share=0.01)
    for start in range(0, 3000, 500):
        land(bench.lake, later(records(start, start + 500, broken=dict.fromkeys(range(500, 2800), RENAMED)), minutes=start))
    done = bench.type()

    assert (done.rows, dict(done.broken)) == (700, {"sensor missing": 2300})
    assert position_of(bench.table).changed == 0


def test_a_few_such_records_are_broken_ones_and_ten_in_a_row_are_not(bench: Bench) -> None:
    """They count from run to run; a good one between them begins anew; another fault says nothing."""
    land(bench.lake, records(0, 9, broken=dict.fromkeys(range(9), RENAMED)))
    land(bench.lake, later([*records(9, 10), *records(10, 15, broken=dict.fromkeys(range(10, 15), RENAMED))]))
    first = bench.type()
    land(bench.lake, later(records(15, 20, broken={15: b"{", 16: RENAMED, 17: event(17, level=99), 18: RENAMED, 19: RENAMED}), 90))
    second = bench.type()
    in_a_row = position_of(bench.table).changed
    land(bench.lake, later(records(20, 22, broken=dict.fromkeys((20, 21), RENAMED)), 120))

    assert (first.rows, first.broken["sensor missing"], second.rows, second.broken["sensor missing"]) == (1, 14, 0, 3)
    assert in_a_row == 8
    with pytest.raises(SourceChanged, match="'sensor' is missing in the newest 10 records"):
        bench.type()


def test_a_source_of_which_every_second_record_is_changed_is_judged_by_its_share(bench: Bench) -> None:
    """Two producers, one of them new: the schema as such has not changed."""
    bench.stream = stream_of(share=0.1)
    land(bench.lake, [*records(0, 1000), *records(0, 1000, partition=1, broken=dict.fromkeys(range(1000), RENAMED))])

    with pytest.raises(ContractViolation, match="sensor missing"):
        bench.type()


def test_events_with_their_attributes_in_headers_may_change_their_schema_too(bench: Bench) -> None:
    """The field that is of another type is named by its bytes and headers; once the newest record is in order all goes on."""
    stream = stream_of()
    bench.stream = replace(stream, format=CloudEvent(attributes=(("id", "sensor"),), is_binary=True))
    headers = headers_of(bench.stream)
    headers_of_all = {"ce_specversion": b"1.0", "ce_id": b"a1", "ce_source": b"/home", "ce_type": b"reading"}
    changed = [replace(one, headers=headers_of_all) for one in records(0, 10, broken={n: event(n, level="many") for n in range(10)})]
    land(bench.lake, changed, headers=headers)
    with pytest.raises(SourceChanged, match="'level' is a string in the newest 10 records"):
        bench.type()
    land(bench.lake, [replace(one, headers=headers_of_all) for one in later(records(10, 11))], headers=headers)

    assert (bench.type().rows, len(bench.quarantine)) == (1, 10)


def test_an_optional_field_that_is_left_out_is_null(bench: Bench) -> None:
    """In JSON, absent and null are the same."""
    without = [one for one in json.loads(plain(0)) if one != "level"]
    payloads = [json.dumps({name: json.loads(plain(n))[name] for name in without}).encode() for n in range(20)]
    land(bench.lake, [Landed(offset=n, payload=payload) for n, payload in enumerate(payloads)])

    assert (bench.type().rows, bench.quarantine) == (20, {})


LOG = change_log(Source(contract=READINGS, origin=PostgresTable(database="db", table="readings"), load="changes"))


def change(offset: int, operation: str, **row: object) -> Landed:
    """A change of a reading as Debezium emits it, of the fields that its row has."""
    change = {"op": operation, "source": {"lsn": offset, "ts_ms": 1367409900000}, "before": None, "after": row}
    return Landed(offset=offset, payload=json.dumps(change).encode(), topic=LOG.topic)


def whole(**changed: object) -> dict[str, object]:
    """A row with all its columns."""
    return {**{field.name: None for field in READINGS.fields}, "sensor": "a", "level": 3, **changed}


@pytest.mark.parametrize("row", [{"sensor": "a", "kind": "indoor"}, whole(level="many")])
def test_a_change_of_another_schema_has_the_table_looked_at(bench: Bench, row: dict[str, object]) -> None:
    """While its columns are other ones nothing is typed; once they are in order all is, and says what it lacks. Whole rows ask nobody."""
    looks: list[bool] = []

    def look() -> None:
        looks.append(len(looks) < 2)
        if looks[-1]:
            raise SourceChanged("readings", {"level": "is text, expected integer"})

    def type_changes() -> Typed:
        return type_into(bench.lake, LOG, RecordReader(LOG, Share()), bench.keep, refuse, run_id="test", look=look)

    land(bench.lake, [change(0, "r", **whole())], LOG.topic)
    first, asked = type_changes(), list(looks)
    land(bench.lake, [change(1, "u", **row), change(2, "c", **whole(sensor="b"))], LOG.topic)
    for _ in range(2):
        with pytest.raises(SourceChanged, match="is text"):
            type_changes()
    refused = typed_table(bench.lake, LOG.contract).scan().to_arrow().num_rows
    done = type_changes()
    typed = typed_table(bench.lake, LOG.contract).scan().to_arrow().sort_by("_offset").to_pylist()

    assert (first.rows, asked, refused, looks) == (1, [], 1, [True, True, False])
    if "level" in row:
        assert (dict(done.broken), bench.quarantine) == ({"level wrong type": 1}, {(0, 1): "level wrong type"})
        assert [row["_absent"] for row in typed] == [None, None, None]
        assert [(row["level"], row["_broken"]) for row in typed] == [(3, None), (None, '{"level": "wrong type"}'), (3, None)]
    else:
        assert bench.quarantine == {}
        assert [json.loads(row["_absent"] or "[]") for row in typed] == [[], ["is_valid", "level", "read_at", "sent_at", "value"], []]


def test_records_without_a_place_or_of_another_topic_are_refused(bench: Bench) -> None:
    """Without topic, partition and offset nothing can be said to be there once; nothing is typed."""
    land(bench.lake, [Landed(offset=0, payload=plain(0), topic="other")])

    with pytest.raises(TableMismatch, match="not of the topic 'sensor-readings'"):
        bench.type()
    assert bench.rows == {}


def test_several_streams_share_a_topic(bench: Bench) -> None:
    """Each has its own table and its own position, and each record has one place."""
    kinds = [b"warm", b"cold", b"hot"]
    payloads = [plain(number)[:-1] + b',"type":"' + kinds[number % 3] + b'"}' for number in range(9)]
    land(bench.lake, [Landed(offset=number, payload=payload) for number, payload in enumerate(payloads)])
    streams = [replace(stream_of(name), route=Route(field="type", value=kind)) for name, kind in (("first", "warm"), ("second", "cold"))]
    both = [Bench(lake=bench.lake, stream=stream, streams=streams) for stream in streams]
    found = [one.type() for one in both]

    assert [list(one.rows) for one in both] == [[(0, 0), (0, 3), (0, 6)], [(0, 1), (0, 4), (0, 7)]]
    assert [sorted(one.quarantine) for one in both] == [[(0, 2), (0, 5), (0, 8)], []]
    assert [(one.left, one.offsets) for one in found] == [(3, {0: (0, 9)}), (6, {0: (0, 9)})]


def test_the_table_follows_its_contract(bench: Bench) -> None:
    """An optional field is added; a retyped one is refused by its name, and nothing is written."""
    land(bench.lake, records(0, 2))
    bench.type()
    contract = bench.stream.contract
    added = replace(contract, fields=(*contract.fields, replace(contract.fields[1], name="note", allowed=())))
    bench.stream = replace(bench.stream, contract=added)
    land(bench.lake, records(2, 3))
    bench.type()
    retyped = replace(
        contract,
        fields=tuple(replace(one, type="string", minimum=None, maximum=None) if one.name == "level" else one for one in added.fields),
    )
    bench.stream = replace(bench.stream, contract=retyped)

    with pytest.raises(SchemaConflict, match="'level'"):
        bench.type()
    assert bench.lake.load_table(names.typed(contract.name)).scan().to_arrow().num_rows == 3


def test_a_contract_may_be_mended_before_its_first_row(bench: Bench) -> None:
    """A table that nothing was ever written to is made as the contract now says, whatever it said before."""
    # Regression: a required field that no record had could not be taken out of the contract again, though nothing had been typed.
    contract = bench.stream.contract
    typed_table(bench.lake, replace(contract, fields=(*contract.fields, replace(contract.fields[0], name="colour"))))
    land(bench.lake, records(0, 3))

    assert bench.type().rows == 3
    assert "colour" not in bench.table.schema().column_names


OFFSETS = st.lists(st.integers(0, 60), max_size=40)


@given(OFFSETS, OFFSETS)
def test_spans_are_sets_of_offsets(some: list[int], more: list[int]) -> None:
    """Union, membership, gaps and next offset are those of the set."""
    spans = union((*spans_of(np.array(some, dtype=np.int64)), *spans_of(np.array(more, dtype=np.int64))))
    seen, known = Seen(partitions={0: spans}), {*some, *more}
    upto = max(known, default=-1) + 1

    assert [offset for start, end in spans for offset in range(start, end)] == sorted(known)
    assert all(one[1] < other[0] for one, other in pairwise(spans))
    assert seen.has(0, np.arange(65)).tolist() == [offset in known for offset in range(65)]
    assert [offset for start, end in seen.gaps.get(0, ()) for offset in range(start, end)] == sorted(set(range(upto)) - known)
    assert minus(spans_of(np.array(some)), spans_of(np.array(more))) == spans_of(np.array(sorted({*some} - {*more})))
    assert seen.next_offsets[0] == next(offset for offset in range(100) if offset not in known)


LENGTH = 12
STEP = st.sampled_from(
    ["land", "land", "land", "type", "crash", "race", "compact landing", "expire landing", "compact typed", "expire typed"]
)


@dataclass(frozen=True, kw_only=True)
class History:
    """The log of a topic of two partitions, and what happens to it: landings as lists of places, and steps between them."""

    log: dict[Place, bytes | None]
    landings: list[list[Place]]
    steps: list[str]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A log with broken records and offsets without any, landed in pieces that overlap and are out of order, with some never landed."""
    places = [(partition, offset) for partition in (0, 1) for offset in range(LENGTH)]
    holes = draw(st.sets(st.sampled_from(places), max_size=5))
    log = {place: draw(st.sampled_from([plain(place[1])] * 4 + [b"{", None])) for place in places if place not in holes}
    pieces = st.lists(st.sampled_from(sorted(log)), max_size=10)
    return History(log=log, landings=draw(st.lists(pieces, min_size=1, max_size=6)), steps=draw(st.lists(STEP, max_size=8)))


def play(bench: Bench, history: History) -> None:
    """Lands and types as the plan says; then lands the last record of each partition, and types to the end."""
    landings = iter(history.landings)

    def crash() -> None:
        raise CrashError

    def other() -> None:
        land_places(bench.lake, history, next(landings, []))
        bench.type()

    for step in history.steps:
        if step == "land":
            land_places(bench.lake, history, next(landings, []))
        elif step in {"type", "crash", "race"}:
            bench.after_keeping = {"crash": crash, "race": other}.get(step)
            with suppress(CrashError):
                bench.type()
        else:
            upkeep(landing.ensure_landing_table(bench.lake, TOPIC) if "landing" in step else bench.table, step)
    bench.after_keeping = None
    for piece in landings:
        land_places(bench.lake, history, piece)
    land_places(bench.lake, history, [max(place for place in history.log if place[0] == partition) for partition in (0, 1)])
    bench.type()


def upkeep(table: Table, step: str) -> None:
    """Puts a table's files together, or forgets its history."""
    if table.current_snapshot() is None:
        return
    if "compact" in step:
        write_anew(table)
    else:
        expire_all_but_the_newest(table)


def land_places(lake: Catalog, history: History, places: Sequence[Place]) -> None:
    """Lands the records of some places of a log."""
    if places:
        land(lake, [Landed(partition=place[0], offset=place[1], payload=history.log[place]) for place in places])


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(histories())
def test_every_history_ends_with_every_record_in_one_place(history: History) -> None:
    """Against the log itself: each good record is one row, each broken one once in quarantine, whatever happened on the way."""

    def refetch(_: str, partition: int, first: int, last: int) -> Iterator[Refetched]:
        for offset in range(first, last + 1):
            if (partition, offset) in history.log:
                yield Refetched(offset=offset, payload=history.log[partition, offset], received_at=None)

    with TemporaryDirectory() as folder, folder_catalog(Path(folder)) as lake, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_ROWS", 4)
        patch.setattr(landing, "BATCH_ROWS", 3)
        patch.setattr(typed_rows, "MIN_JUDGED", 10**9)
        bench = Bench(lake=lake, refetch=refetch)
        play(bench, history)

        good = {place for place, payload in history.log.items() if payload not in {b"{", None}}
        assert set(bench.rows) == good
        assert set(bench.quarantine) == set(history.log) - good
        assert position_of(bench.table).seen.gaps == {}
