"""A followed table that is changed step by step: what is emitted of it, and the versions that a careful reader would write down.

Some values cannot be read. The row then holds `UNREAD` in place of the value, and what the log has of the change is the rest of it. The
reader writes down as well what would be known with all values, as after a replay of the broken changes.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline_assets.core.versions import in_table
from pipeline_assets.ingestion.streaming.staged.changes import UNAVAILABLE
from pipeline_assets.ingestion.streaming.staged.facts import Facts, first_values, numbered
from pipeline_assets.ingestion.streaming.staged.position import Survey
from pipeline_assets.spec.contracts import CLOCK_TOLERANCE, Contract, Field
from pipeline_assets.spec.sources import PostgresTable, Source
from pipeline_assets_tests.change_logs import log_schema

CONTRACT = Contract(
    name="things",
    version="1.0.0",
    owner="tests@example.org",
    description="Things.",
    fields=(
        Field(name="id", type="string", required=True, description="Which."),
        Field(name="size", type="integer", required=True, description="How large."),
        Field(name="text", type="string", description="A large text."),
        Field(name="updated_at", type="timestamp", required=True, description="When."),
    ),
    primary_key=("id",),
    event_at="updated_at",
    known_at="updated_at",
    lateness=timedelta(0),
    freshness=timedelta(days=1),
    broken_share=0.1,
)
THINGS = Source(contract=CONTRACT, origin=PostgresTable(database="ops", table="things"), load="changes")
BY_COMMIT = replace(THINGS, known_at_commit=True)
NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
SCHEMA = log_schema(CONTRACT)
Row = dict[str, Any]
# Of a row: the fields whose values, which stand in it, cannot be read.
UNREAD = "unread"
# What a test looks at of a version: key, size, text, known, deleted.
Shown = tuple[str, int, str | None, datetime, datetime | None]


def minute(number: int) -> datetime:
    """So many minutes after noon."""
    return NOON + timedelta(minutes=number)


def record(op: str, at: int, offset: int, row: Row, snapshot: str | None = None) -> Row:
    """One record of a log, at an LSN and a minute of the same number; values that cannot be read are not in it."""
    place = {"_topic": "things", "_partition": 0, "_offset": offset}
    meta = {"_op": op, "_lsn": at, "_committed_at": minute(at), "_txid": 1, "_snapshot": snapshot}
    unread = {} if op == "d" else {name: "wrong type" for name in sorted(row.get(UNREAD, ())) if row[name] != UNAVAILABLE}
    values = {name: value for name, value in row.items() if name != UNREAD} | dict.fromkeys(unread)
    return {"size": None, "text": None, "updated_at": None, **values, "_broken": json.dumps(unread) if unread else None} | place | meta


def surveyed(log: pa.Table, source: Source) -> Survey:
    """What is found out of a log before it is merged."""
    survey = Survey(key=source.contract.primary_key)
    for batch in log.to_batches(max_chunksize=7):
        survey.add(pl.DataFrame(pl.from_arrow(batch)))
    return survey


def facts_of(log: pa.Table, source: Source) -> Facts:
    """What holds for the whole of a log."""
    epochs = surveyed(log, source).epochs()
    records, fields = numbered(pl.DataFrame(pl.from_arrow(log)), epochs), [field.name for field in in_table(source).fields]
    return Facts(epochs=epochs, first_values=first_values(records, fields, {}))


def thing(key: str, size: int, updated: int, text: str | None = None) -> Row:
    """A row as it stands in the table."""
    return {"id": key, "size": size, "text": text, "updated_at": minute(updated)}


@dataclass
class Table:
    """A table that is changed step by step, what is emitted of it, and the versions that a careful reader would write down."""

    random: Random
    by_commit: bool
    rows: dict[str, Row] = field(default_factory=dict)
    emitted: list[Row] = field(default_factory=list)
    versions: dict[str, list[tuple[Row | None, datetime]]] = field(default_factory=dict)
    # The broken records as their replay leaves them, and what is known with these.
    replayed: list[Row] = field(default_factory=list)
    mended: dict[str, list[tuple[Row | None, datetime]]] = field(default_factory=dict)
    breaks: float = 0.0
    # The latest time of each key that a row has said of itself, as it can be read, and as its replay leaves it.
    latest: tuple[dict[str, datetime], dict[str, datetime]] = field(default_factory=lambda: ({}, {}))
    now: int = 100

    def step(self, *, is_seen: bool) -> None:
        """A row is inserted, updated, given another key, or deleted; nobody hears of it where the slot is lost."""
        self.now += self.random.randint(1, 3)
        key, before = self.random.choice("ABCDE"), len(self.emitted)
        if key not in self.rows:
            self.rows[key] = thing(key, self.random.randint(0, 2), self._field(), self.random.choice([None, "a", "b"])) | {UNREAD: set()}
            self.spoil(self.rows[key], {"size", "text"})
            self.emit("c", self.rows[key])
        else:
            self.random.choice([self._update, self._update, self._rename, self._delete])(key)
        for one in self.emitted[before:] if is_seen else ():
            self.write_down(one["id"], None if one["_op"] == "d" else self.rows[one["id"]])
        if not is_seen:
            del self.emitted[before:]
            self.replayed = [one for one in self.replayed if one["_offset"] < before]

    def _field(self) -> int:
        """When a row says that it was changed: now, or as before, or at some time, ahead of its commit too."""
        return self.random.choice([self.now, self.now, self.now - 1, 0, self.random.randint(0, self.now), self.now + 4, 10 * self.now])

    def _update(self, key: str) -> None:
        row = self.rows[key] = {**self.rows[key], "size": self.random.randint(0, 2), "updated_at": minute(self._field())}
        row[UNREAD] = set(row[UNREAD])
        is_untouched = row["text"] is not None and self.random.random() < 1 / 2
        if not is_untouched:
            row["text"] = self.random.choice([None, "a", "b"])
        # The log of a table without a time of its own does not have that field.
        self.spoil(row, {"size"} | ({"text"} - {"text" if is_untouched else ""}) | (set() if self.by_commit else {"updated_at"}))
        self.emit("u", {**row, "text": UNAVAILABLE} if is_untouched else row)

    def spoil(self, row: Row, touched: set[str]) -> None:
        """Some of the values that a change touched cannot be read; the others that it touched can."""
        row[UNREAD] -= touched
        if self.breaks and self.random.random() < self.breaks:
            row[UNREAD] |= {self.random.choice([name for name in sorted(touched) if row[name] is not None])}

    def _rename(self, key: str) -> None:
        other = self.random.choice("ABCDE")
        if other in self.rows:
            return
        self.rows[other] = {**self.rows.pop(key), "id": other}
        self.emit("d", {"id": key})
        self.emit("c", {**self.rows[other], **({} if self.rows[other]["text"] is None else {"text": UNAVAILABLE})})

    def _delete(self, key: str) -> None:
        del self.rows[key]
        self.emit("d", {"id": key})

    def truncate(self) -> None:
        """All rows go at once."""
        self.now += 1
        self.rows.clear()
        self.emit("t", {"id": None})
        for key in self.versions.keys() | self.mended.keys():
            self.write_down(key, None)

    def snapshot(self, *, is_complete: bool) -> None:
        """All rows as they are, or those that were read before the reader was killed."""
        self.now += 1
        keys = sorted(self.rows)
        if not keys:
            return
        for key in keys if is_complete else keys[: len(keys) // 2]:
            self.emit("r", self.rows[key], "last" if key == keys[-1] else "true")
            self.write_down(key, self.rows[key])
        for key in self.versions.keys() - self.rows.keys() if is_complete else ():
            self.write_down(key, None)

    def emit(self, op: str, row: Row, snapshot: str | None = None) -> None:
        """A record more."""
        self.emitted.append(record(op, self.now, len(self.emitted), row, snapshot))
        if self.emitted[-1]["_broken"] is not None:
            self.replayed.append(record(op, self.now, len(self.emitted) - 1, row | {UNREAD: set()}, snapshot))

    def write_down(self, key: str, row: Row | None) -> None:
        """What is known of a key from now on."""
        mended = None if row is None else row | {UNREAD: set()}
        self._write_down(self.versions.setdefault(key, []), row, moves_on=self._moves_on(self.latest[0], key, row))
        self._write_down(self.mended.setdefault(key, []), mended, moves_on=self._moves_on(self.latest[1], key, mended))

    def _write_down(self, own: list[tuple[Row | None, datetime]], row: Row | None, *, moves_on: bool) -> None:
        before, at = own[-1] if own else (None, None)
        if (before is None) if row is None else (before is not None and _plain(before) == _plain(row)):
            return
        known = minute(self.now)
        if moves_on and row is not None and (at is None or row["updated_at"] > at):
            known = row["updated_at"]
        own.append((None if row is None else dict(row), known if at is None else max(known, at)))

    def _moves_on(self, latest: dict[str, datetime], key: str, row: Row | None) -> bool:
        """Whether a row says that it was changed later than it ever said before, and not after its commit."""
        if row is None or self.by_commit or "updated_at" in row.get(UNREAD, ()):
            return False
        before = latest.get(key)
        updated_at: datetime = row["updated_at"]
        latest[key] = updated_at if before is None else max(before, updated_at)
        return (before is None or updated_at > before) and updated_at <= minute(self.now) + CLOCK_TOLERANCE

    def expected(self, *, is_replayed: bool = False) -> list[Shown]:
        """The versions that counted for a while, without those that are broken, which ended the ones before."""
        found: list[Shown] = []
        for key, own in sorted((self.mended if is_replayed else self.versions).items()):
            lasting = [one for one, after in zip(own, [*own[1:], None], strict=True) if after is None or after[1] > one[1]]
            for (row, known), after in zip(lasting, [*lasting[1:], None], strict=True):
                if row is not None and not row.get(UNREAD):
                    is_end = after is not None and (after[0] is None or bool(after[0].get(UNREAD)))
                    found.append((key, row["size"], row["text"], known, after[1] if after is not None and is_end else None))
        return found


def _plain(row: Row) -> tuple[Any, ...]:
    """What makes a version another one; a value that is not known equals one that is not known either."""
    unread = row.get(UNREAD, set())
    return *(None if name in unread else row[name] for name in ("size", "text")), frozenset(unread)


def played(random: Random, steps: int, *, by_commit: bool, breaks: float = 0.0) -> Table:
    """A table after so many steps: snapshots that are cut off or taken again, lost slots, truncations, changed keys, broken changes."""
    table = Table(random, by_commit, breaks=breaks)
    for key in "ABC":
        table.rows[key] = thing(key, 0, random.randint(0, 100), "a") | {UNREAD: set()}
        table.spoil(table.rows[key], {"size", "text"})
    table.snapshot(is_complete=random.random() < 1 / 2)
    table.snapshot(is_complete=True)
    is_seen = True
    for _ in range(steps):
        what = random.random()
        if what < 1 / 20:
            table.truncate()
        elif what < 3 / 20 and (table.rows or is_seen):
            # A slot that was made again begins with a snapshot; one of no rows shows nothing, and is left out here.
            table.snapshot(is_complete=random.random() < 1 / 4) if is_seen else None
            table.snapshot(is_complete=True)
            is_seen = not table.rows or random.random() < 3 / 4
        else:
            table.step(is_seen=is_seen)
    return table


def disturbed(table: Table) -> pa.Table:
    """The log of a table with records that are missing, lack a column or their key, or came again, in the order of offsets."""
    random, records = table.random, list[Row]()
    for one in table.emitted:
        if random.random() < 19 / 20:
            is_as_it_was = random.random() < 9 / 10 or one["_op"] in "dt" or one["_broken"] is not None
            records.append(one if is_as_it_was else one | {"text": None, "_absent": '["text"]'})
            if table.breaks and random.random() < 1 / 20 and one["_op"] != "t":
                records.append(one | {"id": None, "_broken": '{"id": "out of range"}'})
        if random.random() < 1 / 10:
            records += [again for again in records[-random.randint(1, 6) :] if again["_op"] in "cud"]
    return pa.Table.from_pylist([one | {"_offset": 3 * number} for number, one in enumerate(records)], schema=SCHEMA)
