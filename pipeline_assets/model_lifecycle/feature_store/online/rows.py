"""Rows of a cleaned table as the online store keeps them: times, identity and the values that a view reads, as arrays."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.model_lifecycle.feature_store.online.layout import Cell, Layout
from pipeline_assets.processing.features.as_of import latest_values
from pipeline_assets.processing.features.columns import Bools, Ints, Numbers, instants, plain_column, present_in, text_or_whole
from pipeline_assets.processing.features.timeline import NEVER
from pipeline_assets.processing.features.windows import window_values
from pipeline_assets.spec.features import CleanedTable, Entity, Windowed

SEPARATOR = "\x1f"
# The name of the column of derived rows that identifies a row, whatever version of it: the texts of its key columns.
ROW_KEY = "_row_key"
LENGTH = struct.Struct("<I")
TEXT = struct.Struct("<i")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Versions of rows: `key` counts the entity keys at hand, `fixed` has the layout's dtype, `tail` what breaks ties and texts.

    Every version counts from max(event_at, known_at) until superseded_at (NEVER where nothing superseded it).
    """

    key: Ints
    fixed: np.ndarray
    tail: np.ndarray

    def __len__(self) -> int:
        return len(self.key)

    @property
    def visible_at(self) -> Ints:
        """From when each counts."""
        at: Ints = np.maximum(self.fixed["event_at"], self.fixed["known_at"])
        return at

    @property
    def superseded_at(self) -> Ints:
        """Until when each counts, exclusive."""
        return self.fixed["superseded_at"]

    @property
    def event_at(self) -> Ints:
        """When each happened."""
        return self.fixed["event_at"]

    def take(self, rows: np.ndarray) -> "Rows":
        """Some of the rows (places, or a mask)."""
        return Rows(key=self.key[rows], fixed=self.fixed[rows], tail=self.tail[rows])

    def with_key(self, key: Ints) -> "Rows":
        """The same rows under other numbers of their keys."""
        return replace(self, key=key)

    def value(self, cell: str) -> np.ndarray:
        """The values of a cell; 0 where there is none."""
        return self.fixed[f"value:{cell}"]

    def has(self, cell: str | None) -> Bools:
        """Which rows have a value in a cell; all of them where no cell is asked for."""
        return np.ones(len(self), np.bool_) if cell is None else self.fixed[f"has:{cell}"]

    def texts(self, place: int) -> list[str | None]:
        """The texts of one text cell, by its place among them."""
        return [_text_of(tail, place) for tail in self.tail]


def no_rows(layout: Layout) -> Rows:
    """None."""
    return Rows(key=np.zeros(0, np.int64), fixed=np.zeros(0, layout.dtype), tail=np.zeros(0, object))


def concat(parts: Sequence[Rows]) -> Rows:
    """All rows of some parts, at least one."""
    return Rows(
        key=np.concatenate([part.key for part in parts]),
        fixed=np.concatenate([part.fixed for part in parts]),
        tail=np.concatenate([part.tail for part in parts]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """Rows of a cleaned table with the column `_row_key`; each column is read once, however many views want it.

    Raises TableMismatch where a column is not what a view declares, a time naive or null, or a value NaN or infinite.
    """

    source: CleanedTable
    table: pa.Table
    _numbers: dict[str, Numbers] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def times(self) -> Mapping[str, Ints]:
        """Times and identities, by their names in `TIMES`."""
        source = self.source
        ends = NEVER if source.superseded_at is None else instants(self.table, source.name, source.superseded_at, unless=NEVER)
        high, low = _identities(self.table)
        return {
            "event_at": instants(self.table, source.name, source.event_at),
            "known_at": instants(self.table, source.name, source.known_at),
            "superseded_at": np.broadcast_to(np.asarray(ends), len(self)),
            "row_high": high,
            "row_low": low,
        }

    @cached_property
    def ties(self) -> list[bytes]:
        """What orders the rows of one time, each after its length."""
        columns = [_sortables(plain_column(self.table, self.source.name, column)) for column in self.source.order_by]
        whole = list(map(b"".join, zip(*columns, strict=True))) if columns else [b""] * len(self)
        return [LENGTH.pack(len(one)) + one for one in whole]

    def numbers(self, cell: Cell) -> Numbers:
        """The values of a cell that is no text."""
        if cell.name not in self._numbers:
            self._numbers[cell.name] = _numbers(self.table, self.source.name, cell)
        return self._numbers[cell.name]

    def texts(self, cell: Cell) -> list[bytes]:
        """The texts of a cell, each after its length."""
        found = plain_column(self.table, self.source.name, str(cell.feature.column)).cast(pa.string()).to_pylist()
        return [text_bytes(text) for text in found]


def rows_of(layout: Layout, events: Events, key: Ints) -> Rows:
    """The rows of the entity keys that are given by their numbers, as a view reads them."""
    fixed = np.zeros(len(events), layout.dtype)
    for name, values in events.times.items():
        fixed[name] = values
    for cell in layout.cells:
        if cell.dtype != "text":
            numbers = events.numbers(cell)
            fixed[f"value:{cell.name}"], fixed[f"has:{cell.name}"] = np.where(numbers.valid, numbers.values, 0), numbers.valid
    tail = np.empty(len(events), object)
    tail[:] = list(map(b"".join, zip(events.ties, *map(events.texts, layout.texts), strict=True))) if layout.texts else events.ties
    return Rows(key=key, fixed=fixed, tail=tail)


def text_bytes(text: str | None) -> bytes:
    """A text after its length, -1 where there is none."""
    data = b"" if text is None else text.encode()
    return TEXT.pack(-1 if text is None else len(data)) + data


def tail_size(blob: bytes, start: int, texts: int) -> int:
    """How many bytes the tail of a row takes that starts there."""
    (length,) = LENGTH.unpack_from(blob, start)
    place = start + LENGTH.size + int(length)
    for _ in range(texts):
        (length,) = TEXT.unpack_from(blob, place)
        place += TEXT.size + max(int(length), 0)
    return place - start


@dataclass(frozen=True, kw_only=True)
class Distinct:
    """The entity keys of some rows: each once as the store writes it, a row that has it, and of each row its number; -1 without a key."""

    texts: list[str]
    first: Ints
    number: Ints


def distinct_keys(entity: Entity, table: pa.Table, name: str) -> Distinct:
    """The entity keys of some rows, in no order that means anything."""
    code, has_key = np.zeros(table.num_rows, np.int64), np.ones(table.num_rows, np.bool_)
    for column in entity.keys:
        part = text_or_whole(table, name, column).dictionary_encode()
        has_key &= present_in(part)
        mixed = code * (len(part.dictionary) + 1) + part.indices.fill_null(0).to_numpy(zero_copy_only=False)
        code = np.unique(mixed, return_inverse=True)[1].reshape(-1).astype(np.int64)
    _, first, number = np.unique(np.where(has_key, code, -1), return_index=True, return_inverse=True)
    without = 0 if has_key.all() else 1
    found = first[without:]
    texts = [str(text) for text in entity_texts(entity, table.take(pa.array(found)), name)]
    return Distinct(texts=texts, first=found, number=number.reshape(-1) - without)


def entity_texts(entity: Entity, table: pa.Table, name: str) -> list[str | None]:
    """The key of each row as the store writes it: the texts of its key columns, joined by U+001F; None where a part is null."""
    return joined_keys([key_texts(table, name, key) for key in entity.keys])


def key_texts(table: pa.Table, name: str, column: str) -> list[str | None]:
    """A key column as texts; raises TableMismatch where it is neither text nor whole numbers."""
    found = text_or_whole(table, name, column)
    texts: list[str | None] = (found if pa.types.is_string(found.type) else found.cast(pa.string())).to_pylist()
    return texts


def joined_keys(parts: Sequence[list[str | None]]) -> list[str | None]:
    """The keys that the texts of key columns make; None where a part is."""
    if len(parts) == 1:
        return parts[0]
    return [None if None in row else SEPARATOR.join(escaped(part) for part in row if part is not None) for row in zip(*parts, strict=True)]


def escaped(part: str) -> str:
    """A part of a key that no other parts can be taken for once they are joined."""
    return part.replace("\\", "\\\\").replace(SEPARATOR, "\\s")


def newest(rows: Rows, count: int) -> Ints:
    """For each of `count` keys the place of its newest row: by (event_at, known_at, what breaks ties); -1 where it has none."""
    found = np.full(count, -1, np.int64)
    fixed = rows.fixed
    order = np.lexsort((fixed["known_at"], fixed["event_at"], rows.key))
    key, times = rows.key[order], fixed[["event_at", "known_at"]][order]
    found[key] = order
    tied = (key[1:] == key[:-1]) & (times[1:] == times[:-1])
    for start, end in _runs(tied):
        places = order[start:end]
        first = key[start]
        if found[first] in places:
            found[first] = max(places, key=lambda place: _rank(rows, int(place)))
    return found


def without(rows: Rows, gone: Rows) -> tuple[Rows, Bools]:
    """The rows less those of the same key, identity and `known_at` as one of `gone`; and which of `gone` was there."""
    both = concat([rows, gone])
    fixed, is_gone = both.fixed, np.arange(len(both)) >= len(rows)
    order = np.lexsort((is_gone, fixed["known_at"], fixed["row_low"], fixed["row_high"], both.key))
    identity = fixed[["known_at", "row_low", "row_high"]][order]
    key = both.key[order]
    same = (identity[1:] == identity[:-1]) & (key[1:] == key[:-1]) & is_gone[order][1:] & ~is_gone[order][:-1]
    dropped = order[:-1][same]
    kept = np.ones(len(rows), np.bool_)
    kept[dropped] = False
    was_there = np.zeros(len(gone), np.bool_)
    was_there[order[1:][same] - len(rows)] = True
    return rows.take(kept), was_there


def _runs(tied: Bools) -> Iterator[tuple[int, int]]:
    """The places of neighbours that are tied, as half-open ranges."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], tied, [False])).astype(np.int8)))
    for start, end in edges.reshape(-1, 2):
        yield int(start), int(end) + 1


def _identities(events: pa.Table) -> tuple[Ints, Ints]:
    digests = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in events[ROW_KEY].to_pylist())
    halves = np.frombuffer(digests, "<i8").reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def _numbers(events: pa.Table, name: str, cell: Cell) -> Numbers:
    feature = cell.feature
    found = window_values(events, name, feature) if isinstance(feature, Windowed) else latest_values(events, name, feature).data
    if cell.dtype == "<i8" and found.values.dtype == np.float64 and found.valid.any():
        raise TableMismatch(name, f"has numbers in column '{feature.column}', expected integers", events.column_names)
    return found


def _rank(rows: Rows, place: int) -> tuple[bytes, int, int]:
    """What orders the rows of one time."""
    tail: bytes = rows.tail[place]
    (length,) = LENGTH.unpack_from(tail)
    return tail[LENGTH.size : LENGTH.size + length], rows.fixed["row_high"][place], rows.fixed["row_low"][place]


def _text_of(tail: bytes, place: int) -> str | None:
    start = tail_size(tail, 0, place)
    (length,) = TEXT.unpack_from(tail, start)
    return None if length < 0 else tail[start + TEXT.size : start + TEXT.size + length].decode()


def _sortables(column: pa.Array) -> list[bytes]:
    """The values of a column as bytes that sort as the offline kernel ranks them; null before all others."""
    if pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):
        column = column.cast(pa.int64())
    elif pa.types.is_date(column.type):
        column = column.cast(pa.date32()).cast(pa.int32())
    return [_sortable(value) for value in column.to_pylist()]


def _sortable(value: object) -> bytes:
    if isinstance(value, str):
        return b"\x01" + value.encode().replace(b"\x00", b"\x00\xff") + b"\x00\x00"
    if value is None:
        return b"\x00"
    if isinstance(value, bool | int):
        return b"\x01" + struct.pack(">Q", int(value) + (1 << 63))
    if isinstance(value, float):
        (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
        return b"\x01" + struct.pack(">Q", bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63))
    raise TypeError(f"Rows cannot be ordered by a {type(value).__name__}.")
