"""The merge of a change log, held against a table that applies changes one by one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.ingestion.sources.arrow_types import arrow_type
from pipeline_assets.ingestion.sources.contracts import check_batch
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.staged.changes import UNAVAILABLE, Merged, merge
from pipeline_assets.spec.contracts import Field
from pipeline_assets.use_cases.nyc_flights.sources import planes
from pipeline_assets_tests.change_logs import log_schema
from pipeline_assets_tests.followed_tables import THINGS

NOTE = Field(name="note", type="string", description="Another.")
CONTRACT = replace(THINGS.contract, fields=(*THINGS.contract.fields[:-1], NOTE, THINGS.contract.fields[-1]))
NOW = datetime(2013, 1, 1, tzinfo=UTC)
SCHEMA = log_schema(CONTRACT)
Row = dict[str, Any]
# In the place of a value that cannot be read.
UNREAD = object()


def record(op: str, lsn: int, offset: int, row: Row, snapshot: str | None = None) -> Row:
    """One record of a log."""
    fine = {"size": None, "text": None, "note": None, "updated_at": NOW, **row}
    place = {"_topic": "things", "_partition": 0, "_offset": offset}
    return fine | place | {"_op": op, "_lsn": lsn, "_committed_at": NOW, "_txid": 1, "_snapshot": snapshot}


def log_of(records: Sequence[Row]) -> pa.Table:
    """A change log."""
    return pa.Table.from_pylist(list(records), schema=SCHEMA)


def state(merged: Merged) -> dict[str, Row]:
    """Merged rows by key, with what a test looks at."""
    return {row["id"]: {name: row[name] for name in ("size", "text", "note")} for row in merged.rows.to_pylist()}


@dataclass
class Database:
    """A table that is changed one by one, what Debezium emits of it, and what it held at every LSN."""

    random: Random
    breaks: float = 0.0
    rows: dict[str, Row] = field(default_factory=dict)
    emitted: list[Row] = field(default_factory=list)
    at: dict[int, dict[str, Row]] = field(default_factory=dict)
    lsn: int = 100

    def emit(self, op: str, row: Row, snapshot: str | None = None) -> None:
        """A record more."""
        unread = {} if op == "d" else dict.fromkeys([name for name, value in row.items() if value is UNREAD], "not finite")
        values = row | dict.fromkeys(unread) | {"_broken": json.dumps(unread) if unread else None}
        self.emitted.append(record(op, self.lsn, len(self.emitted), values, snapshot))

    def broken(self, lsn: int | None = None) -> set[str]:
        """The keys of the rows that cannot be read."""
        return {key for key, row in (self.rows if lsn is None else self.at[lsn]).items() if UNREAD in row.values()}

    def readable(self, lsn: int | None = None) -> dict[str, Row]:
        """The rows that can be read."""
        rows = self.rows if lsn is None else self.at[lsn]
        return {key: row for key, row in rows.items() if key not in self.broken(lsn)}

    def step(self, key: str, *, is_told: bool = True) -> None:
        """Something happens to a row; with a lost slot nobody hears of it."""
        self.lsn += self.random.randint(1, 5)
        before = len(self.emitted)
        if key not in self.rows:
            self.rows[key] = {"size": self.random.randint(0, 9), "text": self._text(), "note": self._text()}
            self.emit("c", {"id": key, **self.rows[key]})
        else:
            self.random.choice([self.update, self.update, self.rename, self.delete])(key)
        if not is_told:
            del self.emitted[before:]
        self.at[self.lsn] = {name: dict(row) for name, row in self.rows.items()}

    def update(self, key: str) -> None:
        """Some columns change; a large one that does not is not emitted."""
        row = self.rows[key]
        row["size"] = UNREAD if self.random.random() < self.breaks else self.random.randint(0, 9)
        self.emit("u", {"id": key, **row, **self._edited(row)})

    def rename(self, key: str) -> None:
        """The key changes: the end of one row and the creation of another, at one LSN."""
        other = self.random.choice("ABCDEFGH")
        if other in self.rows:
            return
        row = self.rows[other] = self.rows.pop(key)
        self.emit("d", {"id": key})
        self.emit("c", {"id": other, **row, **self._edited(row)})

    def delete(self, key: str) -> None:
        """The row goes."""
        del self.rows[key]
        self.emit("d", {"id": key})

    def snapshot(self, *, is_complete: bool) -> None:
        """All rows as they are, or those that were read before the reader was killed."""
        self.lsn += 1
        keys = sorted(self.rows)
        for key in keys if is_complete else keys[: len(keys) // 2]:
            self.emit("r", {"id": key, **self.rows[key]}, "last" if key == keys[-1] else "true")

    def _edited(self, row: Row) -> Row:
        shown: Row = {}
        for name in ("text", "note"):
            if self.random.random() < 1 / 2:
                row[name] = shown[name] = self._text()
            elif row[name] is not None:
                shown[name] = UNAVAILABLE
        return shown

    def _text(self) -> str | None:
        return self.random.choice([None, "", "long", f"text {self.random.randint(0, 99)}"])


def delivered(database: Database, random: Random) -> pa.Table:
    """The log as it may be read: in any order, some records twice."""
    records = database.emitted + random.choices(database.emitted, k=len(database.emitted) // 3) if database.emitted else []
    random.shuffle(records)
    return log_of(records)


@settings(max_examples=150)
@given(seed=st.integers(0, 10**9), steps=st.integers(0, 60), breaks=st.sampled_from([0.0, 0.2]))
def test_a_log_in_any_order_with_repeats_gives_the_rows_at_every_lsn(seed: int, steps: int, breaks: float) -> None:
    """Snapshot, inserts, updates, deletes and changed keys, unchanged large values: as applied one by one, at each LSN and at the end.

    A row of which a value cannot be read is no row, and its key is named.
    """
    random = Random(seed)  # noqa: S311 - rows for a test, not secrets
    database = Database(random, breaks)
    for key in random.sample("ABCDEFGH", random.randint(0, 5)):
        database.step(key, is_told=False)
    database.snapshot(is_complete=True)
    database.at = {database.lsn: {name: dict(row) for name, row in database.rows.items()}}
    for _ in range(steps):
        database.step(random.choice("ABCDEFGH"))
    log = delivered(database, random)

    assert state(merge(log, CONTRACT)) == database.readable()
    assert set(merge(log, CONTRACT).broken["id"]) == database.broken()
    assert merge(log, CONTRACT).unresolved == ()
    for lsn in random.sample(sorted(database.at), min(5, len(database.at))):
        assert state(merge(log, CONTRACT, at=lsn)) == database.readable(lsn), lsn
        assert set(merge(log, CONTRACT, at=lsn).broken["id"]) == database.broken(lsn), lsn


@settings(max_examples=100)
@given(seed=st.integers(0, 10**9), before=st.integers(0, 30), hole=st.integers(0, 15), after=st.integers(0, 30))
def test_a_snapshot_after_a_hole_replaces_what_it_does_not_contain(seed: int, before: int, hole: int, after: int) -> None:
    """Changes that nobody heard of, deletes among them, are mended by the snapshot that follows, also where one was broken off first."""
    random = Random(seed)  # noqa: S311 - rows for a test, not secrets
    database = Database(random)
    for _ in range(before):
        database.step(random.choice("ABCDEFGH"))
    for _ in range(hole):
        database.step(random.choice("ABCDEFGH"), is_told=False)
    database.step("Z" if "Z" not in database.rows else "A", is_told=False)
    if random.random() < 1 / 2:
        database.snapshot(is_complete=False)
    database.snapshot(is_complete=True)
    for _ in range(after):
        database.step(random.choice("ABCDEFGH"))

    assert state(merge(delivered(database, random), CONTRACT)) == database.rows


@settings(max_examples=50)
@given(seed=st.integers(0, 10**9), steps=st.integers(1, 40))
def test_records_that_are_delivered_again_under_new_offsets_change_nothing(seed: int, steps: int) -> None:
    """A connector that was killed emits its last changes again: the same LSNs at later offsets."""
    random = Random(seed)  # noqa: S311 - rows for a test, not secrets
    database = Database(random)
    for _ in range(steps):
        database.step(random.choice("ABCDEFGH"))
    cut = random.randint(0, len(database.emitted))
    again = [row | {"_offset": len(database.emitted) + number} for number, row in enumerate(database.emitted[cut:])]

    assert state(merge(log_of(database.emitted + again), CONTRACT)) == database.rows
    if again:
        part = again[: random.randint(1, len(again))]
        assert state(merge(log_of(database.emitted + part), CONTRACT)) == database.rows


def test_a_transaction_that_was_open_at_the_snapshot_comes_after_it() -> None:
    """Regression: its changes carry smaller LSNs than the snapshot's rows, and yet are newer; by LSN alone they would be lost."""
    records = [
        record("r", 200, 0, {"id": "A", "size": 1}, "last"),
        record("u", 100, 1, {"id": "A", "size": 2}),
        record("c", 101, 2, {"id": "B", "size": 3}),
    ]

    assert state(merge(log_of(records), CONTRACT)) == {
        "A": {"size": 2, "text": None, "note": None},
        "B": {"size": 3, "text": None, "note": None},
    }
    assert state(merge(log_of(records), CONTRACT, at=150)) == {}


def test_a_snapshot_that_was_broken_off_removes_nothing() -> None:
    """Until it is complete, its rows count and those that it does not hold yet stay."""
    records = [
        record("r", 10, 0, {"id": "A", "size": 1}, "first"),
        record("r", 10, 1, {"id": "B", "size": 1}, "last"),
        record("r", 50, 2, {"id": "A", "size": 2}, "first"),
    ]
    complete = [*records, record("r", 50, 3, {"id": "C", "size": 2}, "last")]
    followed = [*records, record("u", 60, 3, {"id": "A", "size": 3})]

    assert sorted(state(merge(log_of(records), CONTRACT))) == ["A", "B"]
    assert sorted(state(merge(log_of(complete), CONTRACT))) == ["A", "C"]
    assert sorted(state(merge(log_of(followed), CONTRACT))) == ["A"]
    assert sorted(state(merge(log_of(complete), CONTRACT, at=49))) == ["A", "B"]


def test_a_large_value_follows_its_row_under_a_new_key() -> None:
    """A changed key, twice, then a change that does not touch the large value, which was emitted under the first key only."""
    records = [
        record("c", 1, 0, {"id": "A", "size": 1, "text": "long"}),
        record("d", 2, 1, {"id": "A"}),
        record("c", 2, 2, {"id": "B", "size": 1, "text": UNAVAILABLE}),
        record("c", 3, 3, {"id": "A", "size": 7, "text": "other"}),
        record("d", 4, 4, {"id": "B"}),
        record("c", 4, 5, {"id": "C", "size": 1, "text": UNAVAILABLE}),
        record("u", 5, 6, {"id": "C", "size": 2, "text": UNAVAILABLE}),
    ]

    assert {key: row["text"] for key, row in state(merge(log_of(records), CONTRACT)).items()} == {"A": "other", "C": "long"}


def test_a_large_value_that_the_log_does_not_have_is_named() -> None:
    """It is no text of its own: null, and listed by row and field, so that nobody takes it for data."""
    records = [
        record("c", 1, 0, {"id": "A", "size": 1, "text": "long"}),
        record("u", 2, 1, {"id": "B", "size": 1, "text": UNAVAILABLE, "note": "short"}),
        record("d", 3, 2, {"id": "A"}),
        record("u", 4, 3, {"id": "A", "size": 1, "text": UNAVAILABLE, "note": UNAVAILABLE}),
    ]
    merged = merge(log_of(records), CONTRACT)

    assert state(merged) == {"A": {"size": 1, "text": None, "note": None}, "B": {"size": 1, "text": None, "note": "short"}}
    assert merged.unresolved == ((0, "note"), (0, "text"), (1, "text"))


def lacking(*names: str) -> Row:
    """What is said of a change whose row has not these columns."""
    return {"_absent": json.dumps(list(names))}


def test_a_row_keeps_what_was_told_of_it_before_its_column_was_gone_for_a_while() -> None:
    """What a change lacks is taken from the change before, of any type; a row that is new then has a value that nobody knows."""
    records = [
        record("r", 1, 0, {"id": "A", "size": 7, "note": "a"}, "true"),
        record("r", 1, 1, {"id": "B", "size": 8, "note": "b"}, "last"),
        record("u", 2, 2, {"id": "A", "text": "new"}) | lacking("size", "note"),
        record("u", 3, 3, {"id": "B", "text": "new"}) | lacking("size", "note"),
        record("c", 4, 4, {"id": "C", "text": "new"}) | lacking("size", "note"),
        record("u", 5, 5, {"id": "B", "size": 9, "text": "newer"}),
    ]
    merged = merge(log_of(records), CONTRACT)

    assert state(merged) == {
        "A": {"size": 7, "text": "new", "note": "a"},
        "B": {"size": 9, "text": "newer", "note": None},
        "C": {"size": None, "text": "new", "note": None},
    }
    assert merged.unresolved == ((2, "note"), (2, "size"))


def test_a_column_that_a_table_did_not_have_yet_is_null() -> None:
    """Changes from before it was added lack it, and no row had a value in it: that is not a loss."""
    records = [
        record("r", 1, 0, {"id": "A", "size": 7}, "last") | lacking("note", "text"),
        record("c", 2, 1, {"id": "B", "size": 8}) | lacking("note"),
        record("u", 3, 2, {"id": "B", "size": 8, "note": "b"}),
    ]
    merged = merge(log_of(records), CONTRACT)

    assert state(merged) == {"A": {"size": 7, "text": None, "note": None}, "B": {"size": 8, "text": None, "note": "b"}}
    assert merged.unresolved == ()


def test_a_truncated_table_is_empty_until_new_rows_come() -> None:
    """What was there before is gone; emitted again under new offsets, older changes stay gone."""
    records = [
        record("r", 1, 0, {"id": "A", "size": 1}, "first"),
        record("c", 5, 1, {"id": "B", "size": 1}),
        record("t", 6, 2, {"id": None}),
        record("c", 7, 3, {"id": "C", "size": 1}),
    ]
    again = [*records, record("c", 5, 4, {"id": "B", "size": 1})]

    assert sorted(state(merge(log_of(records), CONTRACT))) == ["C"]
    assert sorted(state(merge(log_of(again), CONTRACT))) == ["C"]
    assert sorted(state(merge(log_of(records), CONTRACT, at=5))) == ["A", "B"]
    assert state(merge(log_of(records), CONTRACT, at=6)) == {}


def test_a_log_says_whether_it_holds_all_of_the_table() -> None:
    """Before the first snapshot is complete, rows may be missing; its marked end, or a change after it, says that none is."""
    begun = [record("r", 10, 0, {"id": "A", "size": 1}, "first")]

    assert not merge(log_of([]), CONTRACT).is_complete
    assert not merge(log_of([record("u", 5, 0, {"id": "A", "size": 1})]), CONTRACT).is_complete
    assert not merge(log_of(begun), CONTRACT).is_complete
    assert merge(log_of([*begun, record("r", 10, 1, {"id": "B", "size": 1}, "last_in_data_collection")]), CONTRACT).is_complete
    assert merge(log_of([*begun, record("u", 12, 1, {"id": "A", "size": 2})]), CONTRACT).is_complete


def test_a_change_of_nobody_knows_which_row_counts_for_its_snapshot_alone() -> None:
    """Its key cannot be read: it is no row and no key, and the snapshot that ends with it is complete."""
    begun = [record("r", 10, 0, {"id": "A", "size": 1}, "first")]
    last = record("r", 10, 1, {"id": None}, "last") | {"_broken": '{"id": "out of range"}'}
    merged = merge(log_of([*begun, last]), CONTRACT)

    assert (sorted(state(merged)), merged.broken.height, merged.is_complete) == (["A"], 0, True)
    assert merge(log_of([last]), CONTRACT).is_complete


def test_an_empty_log_is_an_empty_table() -> None:
    """No change, no row, and no LSN."""
    merged = merge(log_of([]), CONTRACT)

    assert (merged.rows.num_rows, merged.lsn, merged.changes) == (0, None, 0)
    assert merged.rows.schema.names == [field.name for field in CONTRACT.fields]


def test_a_log_from_several_partitions_is_refused() -> None:
    """Only within one partition do offsets say what came first."""
    records = [record("c", 1, 0, {"id": "A", "size": 1}), record("c", 2, 0, {"id": "B", "size": 1}) | {"_partition": 1}]

    with pytest.raises(TableMismatch, match="2 topic partitions"):
        merge(log_of(records), CONTRACT)
    with pytest.raises(TableMismatch, match="lacks _offset"):
        merge(log_of(records).drop(["_offset"]), CONTRACT)


def test_the_contract_of_a_log_takes_deleted_and_broken_rows() -> None:
    """Rules are held against the merged table: the log keeps a row without values but its key, and one that breaks a range."""
    contract = log_contract(planes.contract)
    rows = [
        {"tailnum": "N1", "engines": 0, "_op": "u", "_lsn": 1, "_committed_at": NOW},
        {"tailnum": "N2", "_op": "d", "_lsn": 2, "_committed_at": NOW},
        {"tailnum": "N3", "_op": "m", "_lsn": 3, "_committed_at": NOW},
    ]
    schema = pa.schema([(field.name, arrow_type(field)) for field in contract.fields])
    checked = check_batch(contract, pa.RecordBatch.from_pylist(rows, schema=schema), first_position=0)

    assert checked.good.column("tailnum").to_pylist() == ["N1", "N2"]
    assert [row.fault for row in checked.broken] == ["_op not allowed"]
