"""APIs that are read by what is new of their records: by a time, or by a number, whatever the clocks and the pages do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from pipeline_assets.core.errors import ContractViolation, SourceUnavailable
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import DELETED_AT
from pipeline_assets.ingestion.batch.load import stage_new_rows
from pipeline_assets.ingestion.batch.replay import replay
from pipeline_assets.ingestion.batch.rest import Patience
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.stage import Staged
from pipeline_assets.spec.contracts import Field
from pipeline_assets.spec.sources import Cursor, Source
from pipeline_assets_tests.readings import Answer, Api, Row, World, at, page_of, reading, serving, with_field, with_share

SNAPSHOT = "snapshot"
HASTY = Patience(request_seconds=5, page_seconds=20, attempts=2, first_pause_seconds=0, longest_pause_seconds=0.01, jitter_seconds=0)
WRITTEN_AT = Field(name="written_at", type="timestamp", description="When it was written.")
NUMBER = Field(name="number", type="integer", description="Grows with every write.")
CURSORS = {
    "time": Cursor(column="written_at", lateness=timedelta(minutes=5)),
    "number": Cursor(column="number", lateness=2),
}
BY_EACH = pytest.mark.parametrize("kind", CURSORS)


@dataclass(kw_only=True)
class Records:
    """The records of an API, each with the time and the number of its last write, which it gives from a cursor on, two on a page."""

    kind: str
    rows: dict[str, Row] = field(default_factory=dict)
    writes: int = 0
    fails: bool = False

    def put(self, sensor: str, **changed: Any) -> None:
        """Writes a record anew."""
        self.writes += 1
        own = {"written_at": at(0) + timedelta(minutes=10 * self.writes), "number": 10 * self.writes}
        self.rows[sensor] = reading(**{"sensor": sensor, "sent_at": at(0) + timedelta(seconds=self.writes), **own, **changed})

    def answer(self, _: Api, query: dict[str, str]) -> Answer:
        """A page of what was asked for, by the time of the last write, which may have changed since the page before."""
        if self.fails:
            return 503, {}, b"down"
        column = CURSORS[self.kind].column
        since = query.get("from")
        bound = None if since is None else datetime.fromisoformat(since) if self.kind == "time" else int(since)
        asked = [row for row in self.rows.values() if bound is None or (row[column] is not None and row[column] >= bound)]
        ordered = sorted(asked, key=lambda row: str(row["number"]).zfill(9))
        start = int(query.get("cursor", "0"))
        return 200, {}, page_of(ordered[start : start + 2], str(start + 2) if start + 2 < len(ordered) else None)


@dataclass(kw_only=True)
class Reader:
    """The API, its records, and what reads it."""

    world: World
    records: Records
    api: Api
    settings: Settings

    @property
    def source(self) -> Source:
        """The records as a source that is read by the cursor, whatever share of them is broken."""
        contract = replace(self.world.contract, fields=(*self.world.contract.fields, WRITTEN_AT, NUMBER))
        origin = replace(self.world.endpoint, query=(("from", "{since}"),))
        return with_share(1.0, Source(contract=contract, origin=origin, load="incremental", cursor=CURSORS[self.records.kind]))

    def stage(self, source: Source | None = None, *, find_deletes: bool = False, from_the_start: bool = False) -> Staged:
        """Reads what is new."""
        asked = source or self.source
        return stage_new_rows(self.settings, asked, run_id="r", patience=HASTY, find_deletes=find_deletes, from_the_start=from_the_start)

    def asked_since(self) -> list[str | None]:
        """What the first pages were asked for."""
        return [query.get("from") for query in self.api.asked if "cursor" not in query]

    def levels(self) -> list[tuple[str, int, bool]]:
        """Sensor and level of all versions, and whether they ended."""
        return sorted((row["sensor"], row["level"], row[DELETED_AT] is not None) for row in self.world.versions(SNAPSHOT))

    def current(self) -> dict[str, int]:
        """The level of the newest version of each sensor that did not end."""
        rows = sorted(self.world.versions(SNAPSHOT), key=lambda row: row["sent_at"])
        newest = {row["sensor"]: row for row in rows}
        return {sensor: row["level"] for sensor, row in newest.items() if row[DELETED_AT] is None}


@pytest.fixture(name="opened")
def _opened(world: World) -> Iterator[Callable[[str], Reader]]:
    """Opens an API whose cursor is of a kind."""
    servers = []

    def opened(kind: str) -> Reader:
        records = Records(kind=kind)
        server = serving(world.settings, records.answer)
        servers.append(server)
        api, settings = server.__enter__()
        return Reader(world=world, records=records, api=api, settings=settings)

    yield opened
    for server in servers:
        server.__exit__(None, None, None)


@BY_EACH
def test_records_are_asked_for_from_the_newest_that_was_read(opened: Callable[[str], Reader], kind: str) -> None:
    """First all, then from the newest value less the lateness; what is read twice is there once, what changed stands beside what it was."""
    reader = opened(kind)
    for sensor in ("a", "b", "c"):
        reader.records.put(sensor)
    first = reader.stage().manifest
    reader.records.put("a", level=5)
    second = reader.stage().manifest
    third = reader.stage().manifest

    since = {"time": ["2013-05-01T12:25:00+00:00", "2013-05-01T12:35:00+00:00"], "number": ["28", "38"]}[kind]
    assert reader.asked_since() == [None, *since]
    assert (first.rows, second.rows, third.rows) == (3, 4, 4)
    assert reader.levels() == [("a", 3, False), ("a", 5, False), ("b", 3, False), ("c", 3, False)]


@BY_EACH
def test_the_position_never_goes_back_and_null_moves_nothing(opened: Callable[[str], Reader], kind: str) -> None:
    """A server that was restored and counts from long ago, records without a value, and an answer without records leave it where it was."""
    reader = opened(kind)
    reader.records.put("a")
    reader.records.put("b", written_at=None, number=None)
    reader.stage()
    reader.records.rows.clear()
    reader.stage()
    reader.records.writes = -500
    reader.records.put("c", sent_at=at(0))
    reader.stage()
    missed = reader.levels()
    reader.stage(from_the_start=True)
    reader.stage()

    before = {"time": "2013-05-01T12:05:00+00:00", "number": "8"}[kind]
    restored = {"time": "2013-04-28T00:45:00+00:00", "number": "-4992"}[kind]
    assert reader.asked_since() == [None, before, before, None, restored]
    assert missed == [("a", 3, False), ("b", 3, False)]
    assert reader.levels() == [("a", 3, False), ("b", 3, False), ("c", 3, False)]


def test_a_time_in_the_future_hides_nothing(opened: Callable[[str], Reader]) -> None:
    """A record that says it was written in a century does not move the position beyond the moment of the reading."""
    reader = opened("time")
    reader.records.put("a", written_at=datetime(2113, 1, 1, tzinfo=UTC))
    began = datetime.now(UTC)
    reader.stage()
    reader.records.put("b", written_at=datetime.now(UTC))
    reader.stage()

    since = datetime.fromisoformat(reader.asked_since()[1] or "")
    assert timedelta(minutes=4) < began - since <= timedelta(minutes=5)
    assert reader.levels() == [("a", 3, False), ("b", 3, False)]


@BY_EACH
def test_broken_records_are_in_quarantine_once_however_often_they_are_read(opened: Callable[[str], Reader], kind: str) -> None:
    """Also one whose key cannot be read; one that is right again leaves, and one that breaks ends what it was."""
    reader = opened(kind)
    reader.records.put("a")
    reader.records.put("b", level=99)
    reader.records.put("null", read_at=None, sent_at=at(0))
    reader.records.put("c")
    for _ in range(3):
        reader.stage(from_the_start=False)
    first = reader.world.quarantined()
    reader.records.put("b", level=1)
    reader.records.put("a", level=98)
    reader.stage()

    assert sorted(fault for _, _, fault, _ in first) == ["level out of range", "read_at missing"]
    assert sorted(fault for _, _, fault, _ in reader.world.quarantined()) == ["level out of range", "read_at missing"]
    assert reader.levels() == [("a", 3, True), ("b", 1, False), ("c", 3, False)]


@BY_EACH
def test_a_reading_that_fails_is_made_again_from_where_it_was(opened: Callable[[str], Reader], kind: str) -> None:
    """A server that is down, and too many broken records, change neither rows nor quarantine nor position."""
    reader = opened(kind)
    reader.records.put("a")
    reader.stage(strict := with_share(0.1, reader.source))
    before = staging.read_manifest(reader.settings, reader.world.name, SNAPSHOT)
    reader.records.put("b", level=99)
    reader.records.fails = True
    with pytest.raises(SourceUnavailable):
        reader.stage(strict)
    reader.records.fails = False
    with pytest.raises(ContractViolation):
        reader.stage(strict)
    unchanged = (staging.read_manifest(reader.settings, reader.world.name, SNAPSHOT), reader.world.quarantined())
    reader.records.put("b")
    reader.stage(strict)

    assert unchanged == (before, [])
    assert reader.levels() == [("a", 3, False), ("b", 3, False)]


@BY_EACH
def test_a_run_that_is_killed_before_its_manifest_is_made_again(
    opened: Callable[[str], Reader], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Rows and quarantine are there once, whatever it had written."""
    reader = opened(kind)
    reader.records.put("a")
    reader.stage()
    reader.records.put("b")
    reader.records.put("c", level=99)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            reader.stage()
    reader.stage()

    assert reader.levels() == [("a", 3, False), ("b", 3, False)]
    assert [fault for _, _, fault, _ in reader.world.quarantined()] == ["level out of range"]


@BY_EACH
def test_deletions_are_found_where_they_are_asked_for(opened: Callable[[str], Reader], kind: str) -> None:
    """A record that is gone stays until a run asks for all of them, and then ends."""
    reader = opened(kind)
    for sensor in ("a", "b", "c"):
        reader.records.put(sensor)
    reader.stage()
    del reader.records.rows["b"]
    reader.stage()
    reader.stage(from_the_start=True)
    unseen = reader.levels()
    reader.stage(find_deletes=True)

    assert unseen == [("a", 3, False), ("b", 3, False), ("c", 3, False)]
    assert reader.levels() == [("a", 3, False), ("b", 3, True), ("c", 3, False)]


@BY_EACH
def test_what_was_replayed_stays(opened: Callable[[str], Reader], kind: str) -> None:
    """After the contract was mended the record joins the others, and the next reading has it once."""
    reader = opened(kind)
    reader.records.put("a")
    reader.records.put("b", level=12)
    reader.stage()
    wider = with_field("level", reader.source, maximum=20)
    (replayed,) = replay(reader.settings, [wider])
    reader.stage(wider)

    assert (replayed.replayed, replayed.still_broken) == (1, 0)
    assert (reader.levels(), reader.world.quarantined()) == ([("a", 3, False), ("b", 12, False)], [])


@BY_EACH
def test_any_course_of_writes_ends_with_the_records_of_the_api(opened: Callable[[str], Reader], kind: str) -> None:
    """Writes and readings in any order: in the end each record is there as it is, each version once."""
    reader, random = opened(kind), np.random.default_rng(3)
    for _ in range(12):
        for _ in range(int(random.integers(0, 4))):
            reader.records.put(f"s{random.integers(6)}", level=int(random.integers(11)))
        reader.stage()

    versions = [(row["sensor"], row["sent_at"]) for row in reader.world.versions(SNAPSHOT)]
    assert reader.current() == {sensor: row["level"] for sensor, row in reader.records.rows.items()}
    assert len(set(versions)) == len(versions)
