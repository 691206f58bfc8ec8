"""Whether the records of a stream still have the fields that its contract declares, in their types.

A single record without a field, or with one of another type, goes to quarantine, and its stream goes on. A source that changed its schema
writes no other records from then on: the stream stops before the first of them, with the name of the field, and goes on by itself once the
newest record is in order again. What was written in between goes to quarantine then, and is not held against the contract's share.

**Events.** The schema has changed when at least `MIN_CHANGED` records in a row, the newest ones, lack a required field or have a field in
another type. An optional field that is left out is null: JSON has one notation for both.

**Changes of a table.** Debezium emits every column of a row, so a single change that lacks a declared field, required or not, or has it in
another type, is reason to look at the table itself. Its columns decide as they do in a batch; where they are in order the change is older
than that, or holds a value that its column's type allows and the contract's does not.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import in_table
from pipeline_assets.ingestion.batch.postgres import open_table
from pipeline_assets.ingestion.sources.contracts import Checked, Reason
from pipeline_assets.ingestion.streaming.decoding.formats import Headers
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.streams import ChangeLog, followed_table
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import RecordStream, Source

# So many broken records in a row are no accident. Smaller numbers are left to the contract's share.
MIN_CHANGED = 10
SIGNS: tuple[Reason, ...] = ("missing", "wrong type", "without zone")
KINDS: Mapping[type, str] = {
    str: "a string", bool: "a boolean", int: "an integer", float: "a number", Decimal: "a number", list: "an array", dict: "an object",
    type(None): "null",
}  # fmt: skip

# Looks at the source as it is now; raises SourceChanged if it does not keep its contract.
Look = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What was wrong with a field, and the bytes and headers of one record that had it so."""

    field: str
    reason: Reason
    original: bytes
    headers: Headers


@dataclass(kw_only=True)
class Signs:
    """Which records of a stream, by their times and offsets, lack a field or have it in another type, after `before` such in a row.

    Records that are broken for another reason say nothing of it.
    """

    before: int = 0
    found: list[Sign] = field(default_factory=list)
    _times: list[np.ndarray] = field(default_factory=list)
    _offsets: list[np.ndarray] = field(default_factory=list)
    _codes: list[np.ndarray] = field(default_factory=list)

    def add(self, checked: Checked, records: pa.Table, headers: Sequence[Headers]) -> None:
        """Takes in some landed records after their check, which has their places as positions; `headers` are those of each broken one."""
        codes = np.full(records.num_rows, -1)
        codes[checked.positions] = 0
        for row, own in zip(checked.broken, headers, strict=True):
            if row.reason in SIGNS:
                codes[row.position] = self._code(Sign(field=row.field, reason=row.reason, original=row.original, headers=own))
        self._codes.append(codes[codes >= 0])
        self._times.append(records.column(landing.RECEIVED_AT).cast(pa.int64()).fill_null(0).to_numpy()[codes >= 0])
        self._offsets.append(records.column(landing.OFFSET).to_numpy()[codes >= 0])

    def _code(self, sign: Sign) -> int:
        known = [(one.field, one.reason) for one in self.found]
        if (sign.field, sign.reason) not in known:
            self.found.append(sign)
            return len(self.found)
        return known.index((sign.field, sign.reason)) + 1

    @property
    def in_a_row(self) -> int:
        """How many of the newest records, one after the other, have such a fault."""
        codes = self._in_order()
        good = np.flatnonzero(codes == 0)
        return int(codes.size - good[-1] - 1) if good.size else int(codes.size) + self.before

    @property
    def newest(self) -> list[Sign]:
        """What is wrong with the newest records."""
        codes = self._in_order()
        good = np.flatnonzero(codes == 0)
        return [self.found[code - 1] for code in np.unique(codes[good[-1] + 1 if good.size else 0 :])]

    @property
    def in_long_rows(self) -> int:
        """How many records stand in a row of at least `MIN_CHANGED` such."""
        codes = self._in_order()
        edges = np.flatnonzero(np.concatenate(([True], codes == 0, [True])))
        lengths = np.diff(edges) - 1
        counted = lengths + np.concatenate(([self.before], np.zeros(lengths.size - 1, dtype=np.int64)))
        return int(lengths[counted >= MIN_CHANGED].sum())

    def _in_order(self) -> np.ndarray:
        if not self._codes:
            return np.empty(0, dtype=np.int64)
        return np.concatenate(self._codes)[np.lexsort((np.concatenate(self._offsets), np.concatenate(self._times)))]


def look_of(settings: Settings, stream: RecordStream) -> Look | None:
    """A look at the table whose changes a stream carries; None for a stream of events, whose source cannot be looked at."""
    if not isinstance(stream, ChangeLog):
        return None
    return partial(_open, settings, stream.source)


def hold_against_table(settings: Settings, source: Source) -> None:
    """Raises SourceChanged where the table of a followed source does not have the columns that the contract promises.

    A table that changed its columns and no row since emits nothing, and what its log says of it is not true any more. The log is enough
    while the database is away.
    """
    with suppress(SourceUnavailable):
        _open(settings, source)


def _open(settings: Settings, source: Source) -> None:
    with open_table(settings, in_table(source), followed_table(source)):
        """Opening it is what holds its columns against the contract."""


def problems(contract: Contract, topic: str, signs: Signs, value_of: Callable[[bytes, Headers, str], object]) -> dict[str, str]:
    """What is wrong with the newest records, by field; `value_of` gives the value of a field in the bytes and headers of a record."""
    types = {one.name: one.type for one in contract.fields}
    found = {}
    for sign in signs.newest:
        where = f"the newest {signs.in_a_row} records of the topic '{topic}'"
        value = value_of(sign.original, sign.headers, sign.field)
        kind = "a time without zone" if sign.reason == "without zone" else KINDS.get(type(value), "unknown")
        wrong = f"is missing in {where}" if sign.reason == "missing" else f"is {kind} in {where}"
        found[sign.field] = f"{wrong}, expected {types[sign.field]}"
    return found
