"""Rows of a cleaned table as the online store keeps them: times, identity and the values that a view reads, as arrays."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.model_lifecycle.feature_store.online.layout import Cell, Layout
from pipeline_assets.processing.features.as_of import latest_values
from pipeline_assets.processing.features.columns import Bools, Ints, Numbers, instants, plain_column, text_or_whole
from pipeline_assets.processing.features.timeline import NEVER
from pipeline_assets.processing.features.windows import window_values
from pipeline_assets.spec.features import CleanedTable, Entity, Windowed

SEPARATOR = "\x1f"
# The name of the column of derived rows that identifies a row, whatever version of it: the texts of its key columns.
ROW_KEY = "_row_key"
# A row's ties, then the texts of its text cells.
Tail = tuple[bytes | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Versions of rows: `key` counts the entity keys at hand, `fixed` has the layout's dtype, `tail` what breaks ties and the texts.

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

    def text(self, place: int) -> pa.Array:
        """The texts of one text cell, by its place among them."""
        return pa.array([tail[1 + place] for tail in self.tail], pa.string())


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


def rows_of(layout: Layout, events: pa.Table, key: Ints) -> Rows:
    """The rows of a cleaned table with the column `_row_key`, of the entity keys that are given by their numbers.

    Raises TableMismatch where a column is not what the view declares, a time naive or null, or a value NaN or infinite.
    """
    source, fixed = layout.view.source, np.zeros(events.num_rows, layout.dtype)
    fixed["event_at"] = instants(events, source.name, source.event_at)
    fixed["known_at"] = instants(events, source.name, source.known_at)
    ends = source.superseded_at
    fixed["superseded_at"] = NEVER if ends is None else instants(events, source.name, ends, unless=NEVER)
    fixed["row_high"], fixed["row_low"] = _identities(events)
    texts = []
    for cell in layout.cells:
        if cell.dtype == "text":
            texts.append(plain_column(events, source.name, str(cell.feature.column)).cast(pa.string()).to_pylist())
        else:
            numbers = _numbers(events, source.name, cell)
            fixed[f"value:{cell.name}"], fixed[f"has:{cell.name}"] = np.where(numbers.valid, numbers.values, 0), numbers.valid
    return Rows(key=key, fixed=fixed, tail=_tails(source, events, texts))


def entity_texts(entity: Entity, table: pa.Table, name: str) -> list[str | None]:
    """The key of each row as the store writes it: the texts of its key columns, joined by U+001F; None where a part is null."""
    parts = [pc.cast(text_or_whole(table, name, key), pa.string()).to_pylist() for key in entity.keys]
    if len(parts) == 1:
        return list(parts[0])
    return [None if None in row else SEPARATOR.join(map(_escaped, row)) for row in zip(*parts, strict=True)]


def _escaped(part: str) -> str:
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
            found[first] = max(places, key=lambda place: (rows.tail[place][0], fixed["row_high"][place], fixed["row_low"][place]))
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


def _tails(source: CleanedTable, events: pa.Table, texts: Sequence[list[str | None]]) -> np.ndarray:
    ties = [map(_sortable, _plain_values(events, source, column)) for column in source.order_by]
    tails = np.empty(events.num_rows, object)
    rows = zip(*ties, strict=True) if ties else ((),) * events.num_rows
    for place, (tie, *own) in enumerate(zip(rows, *texts, strict=True)):
        tails[place] = (b"".join(tie), *own)
    return tails


def _plain_values(events: pa.Table, source: CleanedTable, column: str) -> list[object]:
    found = plain_column(events, source.name, column)
    if pa.types.is_timestamp(found.type) or pa.types.is_time(found.type):
        found = found.cast(pa.int64())
    elif pa.types.is_date(found.type):
        found = found.cast(pa.date32()).cast(pa.int32())
    values: list[object] = found.to_pylist()
    return values


def _sortable(value: object) -> bytes:
    """A value as bytes that sort as the offline kernel ranks the values of a column; null before all others."""
    if value is None:
        return b"\x00"
    if isinstance(value, str):
        return b"\x01" + value.encode().replace(b"\x00", b"\x00\xff") + b"\x00\x00"
    if isinstance(value, bool | int):
        return b"\x01" + struct.pack(">Q", int(value) + (1 << 63))
    if isinstance(value, float):
        (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
        return b"\x01" + struct.pack(">Q", bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63))
    raise TypeError(f"Rows cannot be ordered by a {type(value).__name__}.")
