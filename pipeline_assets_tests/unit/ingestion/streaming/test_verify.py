"""The audit finds what was lost and duplicated, and nothing else."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.streaming.audit import audit
from pipeline_assets.ingestion.streaming.audit.compare import (
    Instant,
    Place,
    Span,
    TableReading,
    audit_offsets,
    difference,
    digests,
    offsets_of,
    seen_at,
)
from pipeline_assets.use_cases.nyc_flights.sources import airports
from pipeline_assets_tests.landings import stream_of

CONTRACT = airports.contract
NOW = datetime(2013, 1, 1, tzinfo=UTC)
Row = dict[str, Any]


def airport(number: int, **changed: Any) -> Row:
    """An airport."""
    fine = {
        "faa": f"{number:03}",
        "name": f"Airport {number}",
        "latitude": 40.0,
        "longitude": -74.0,
        "altitude_ft": None,
        "time_zone": "UTC",
    }
    return fine | {"updated_at": NOW} | changed


def table(rows: Sequence[Row]) -> pa.Table:
    """Rows in the contract's types."""
    return pa.Table.from_pylist(list(rows), schema=arrow_schema(CONTRACT))


def source(rows: Sequence[Row], broken: Sequence[str] = ()) -> TableReading:
    """A reading of a source with these rows, and with these keys beside them whose rows break the contract."""
    keys = pl.DataFrame({"faa": list(broken)}, schema={"faa": pl.String})
    return TableReading(instant=Instant(lsn=1, next_id=1), digests=digests(CONTRACT, table(rows)), broken=keys)


def _offsets(spans: Sequence[Span]) -> list[int]:
    return [offset for start, end in spans for offset in range(start, end)]


@settings(max_examples=100)
@given(seed=st.integers(0, 10**9), size=st.integers(0, 60))
def test_planted_differences_are_found_and_no_others(seed: int, size: int) -> None:
    """Rows left out or too many, values changed in any field, keys in quarantine on one side only are named; the order says nothing."""
    random = Random(seed)  # noqa: S311 - rows for a test, not secrets
    rows = [airport(number) for number in range(size)]
    lake = {row["faa"]: dict(row) for row in rows}
    fates = {key: random.choice(["same", "same", "same", "gone", "changed", "broken", "standing", "held", "lost"]) for key in lake}
    edits: list[Row] = [{"altitude_ft": 0}, {"name": ""}, {"latitude": 40.0000001}, {"time_zone": None}, {"updated_at": NOW.replace(day=2)}]
    for key, fate in fates.items():
        if fate in {"gone", "broken", "held", "lost"}:
            del lake[key]
        elif fate == "changed":
            lake[key] |= random.choice(edits)
    extra = [f"X{number}" for number in range(random.randint(0, 5))]
    lake |= {key: airport(0, faa=key) for key in extra}
    shuffled = random.sample(list(lake.values()), len(lake))
    broken = [key for key, fate in fates.items() if fate in {"broken", "standing", "lost"}]
    held = [key for key, fate in fates.items() if fate in {"broken", "held"}]
    reading = source([row for row in rows if row["faa"] not in broken], broken)
    found = difference(CONTRACT, reading, table(shuffled), reading.broken.clear().vstack(pl.DataFrame({"faa": held}, {"faa": pl.String})))
    counts = Counter(fates.values())

    assert {key for (key,) in found.missing} <= {key for key, fate in fates.items() if fate in {"gone", "lost"}}
    assert found.counts == {
        "missing": counts["gone"] + counts["lost"],
        "extra": len(extra),
        "different": counts["changed"],
        "held_back": counts["held"],
        "standing": counts["standing"],
    }
    assert {key for (key,) in found.extra} == set(extra)
    assert (found.compared, found.quarantined) == (size + len(extra), counts["broken"])
    assert found.is_none == (not extra and set(fates.values()) <= {"same", "broken"})


def test_zero_has_no_sign_and_null_is_a_value() -> None:
    """-0.0 equals 0.0; null is not 0 and not an empty text."""
    rows = [airport(1, latitude=-0.0), airport(2, altitude_ft=None), airport(3, time_zone=None)]
    lake = [airport(1, latitude=0.0), airport(2, altitude_ft=0), airport(3, time_zone="")]

    assert difference(CONTRACT, source(rows), table(lake)).different == (("002",), ("003",))


@settings(max_examples=200)
@given(
    lows=st.lists(st.integers(0, 50), min_size=1, max_size=3),
    size=st.integers(0, 80),
    seed=st.integers(0, 10**9),
)
def test_planted_losses_and_doubles_of_offsets_are_found_and_no_others(lows: list[int], size: int, seed: int) -> None:
    """As counted one by one: what stands nowhere is lost unless no record is there, what stands twice is doubled, in whichever table."""
    random = Random(seed)  # noqa: S311 - rows for a test, not secrets
    watermarks: dict[Place, Span] = {("t", number): (low, low + size) for number, low in enumerate(lows)}
    marks: dict[Place, set[int]] = {}
    held: dict[Place, list[int]] = {}
    for place, (low, high) in watermarks.items():
        marks[place] = {offset for offset in range(low, high) if random.random() < 0.1}
        records = [offset for offset in range(max(0, low - 5), high + 3) if offset not in marks[place]]
        held[place] = [offset for offset in records for _ in range(random.choice([0, 1, 1, 1, 1, 1, 1, 2, 3]))]
        random.shuffle(held[place])
    parts = [(place, np.array(offsets[start : start + 7])) for place, offsets in held.items() for start in range(0, len(offsets), 7)]
    random.shuffle(parts)

    def holding(place: Place, spans: Sequence[Span]) -> list[Span]:
        return [(offset, offset + 1) for offset in _offsets(spans) if offset not in marks[place]]

    audit = audit_offsets(watermarks, parts, holding)
    wanted = {
        place: [offset for offset in range(low, high) if offset not in held[place] and offset not in marks[place]]
        for place, (low, high) in watermarks.items()
    }
    twice = {place: sorted(offset for offset, count in Counter(offsets).items() if count > 1) for place, offsets in held.items()}

    assert {place: _offsets(spans) for place, spans in audit.lost.items()} == {place: lost for place, lost in wanted.items() if lost}
    assert {place: _offsets(spans) for place, spans in audit.doubled.items()} == {place: found for place, found in twice.items() if found}
    assert audit.absent == sum(map(len, marks.values()))
    assert audit.records == sum(
        len({offset for offset in held[place] if low <= offset < high}) for place, (low, high) in watermarks.items()
    )
    assert audit.is_complete == (not any(wanted.values()) and not any(twice.values()))


def test_without_a_broker_to_ask_every_offset_is_a_record() -> None:
    """A hole counts as lost, a partition of which nothing was found as lost whole; an empty one is complete."""
    audit = audit_offsets({("t", 0): (3, 6), ("t", 1): (0, 4), ("t", 2): (7, 7)}, [(("t", 0), np.array([5, 3]))])

    assert audit.lost == {("t", 0): [(4, 5)], ("t", 1): [(0, 4)]}
    assert (audit.records, audit.doubled, audit.is_complete) == (2, {}, False)


def test_a_record_in_the_table_and_in_quarantine_is_doubled() -> None:
    """Once means once in all."""
    typed = pa.RecordBatch.from_pydict({"_topic": ["t", "t", "u"], "_partition": [0, 0, 0], "_offset": [0, 1, 0]})
    held = pa.RecordBatch.from_pydict({"topic": ["t"], "partition": [0], "offset": [1]})
    found = [*offsets_of([typed], "_topic", "_partition", "_offset"), *offsets_of([held], "topic", "partition", "offset")]

    assert audit_offsets({("t", 0): (0, 2), ("u", 0): (0, 1)}, found).doubled == {("t", 0): [(1, 2)]}


def test_changes_of_open_transactions_are_not_yet_seen() -> None:
    """At an instant a log shows what was committed: not what was written later, nor what was open or began just then; ids wrap around."""
    rows = [
        {"_lsn": 10, "_txid": None},
        {"_lsn": 20, "_txid": 2**32 - 3},
        {"_lsn": 30, "_txid": 2**32 - 2},
        {"_lsn": 40, "_txid": 2**32 - 1},
        {"_lsn": 45, "_txid": 2},
        {"_lsn": 60, "_txid": 2**32 - 4},
    ]
    log = pa.Table.from_pylist(rows, schema=pa.schema([("_lsn", pa.int64()), ("_txid", pa.int64())]))
    instant = Instant(lsn=50, next_id=2**32 - 1, open_ids=frozenset({2**32 - 2}))

    assert seen_at(log, instant)["_lsn"].to_pylist() == [10, 20]
    assert seen_at(log.drop(["_txid"]), instant)["_lsn"].to_pylist() == [10, 20, 30, 40, 45]


def test_what_may_pass_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a broker that was away for a moment made topics fail their check, where the audit is tried again; others have theirs."""
    streams = [stream_of("one", "t1"), stream_of("two", "t2"), stream_of("three", "t3")]

    def verify_topic(_: object, __: object, topic: str, ___: object) -> audit.Verdict:
        if topic == "t1":
            raise SourceUnavailable("kafka", "is away")
        if topic == "t2":
            raise ValueError("no Avro")
        return audit.Verdict(subject=f"topic {topic}", asset=("topics", topic), compared=1, unit="records", problems=())

    monkeypatch.setattr(audit, "topic_names", lambda _: ["t1", "t2", "t3"])
    monkeypatch.setattr(audit, "record_streams", lambda _: streams)
    monkeypatch.setattr(audit, "obstacles_of", lambda *_: {})
    monkeypatch.setattr(audit, "verify_topic", verify_topic)
    found = list[audit.Verdict]()
    with pytest.raises(SourceUnavailable, match="is away"):
        found.extend(audit.verify(Settings.model_construct(), Project(use_cases=())))

    assert [(verdict.subject, list(verdict.problems)) for verdict in found] == [
        ("topic t2", ["not audited: ValueError: no Avro"]),
        ("topic t3", []),
    ]
