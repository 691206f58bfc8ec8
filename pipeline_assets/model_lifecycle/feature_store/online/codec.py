"""States as bytes, one string a key: the format of the online store, version 1.

Numbers are little-endian, times microseconds since the epoch (UTC). A state is

    uint16 version · int64 base_at · uint32 recent rows
    for each slot of the layout: uint8 whether there is a newest row
    for each length of tile: uint32 tiles, then for each sum: int16 lowest digit · uint8 digits
    for each length of tile: its tiles by index, each int64 index, an int64 per count, int64 digits per sum, a float64 per extreme
    rows: first the newest ones, slot by slot, then those that stand apart by (known_at, identity); each as the layout's dtype
    for each row: uint32 length of what breaks its ties · those bytes · for each text: int32 length (-1: null) · UTF-8

Counts, sums and extremes stand in the order of the layout. Equal states have equal bytes: sums take as many digits as the largest of their
key needs. A digit has 24 bits, see `sums`.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline_assets.core.online_errors import StateFormatUnknown
from pipeline_assets.model_lifecycle.feature_store.online import sums
from pipeline_assets.model_lifecycle.feature_store.online import tiles as tiling
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, TileSet
from pipeline_assets.model_lifecycle.feature_store.online.rows import Rows, Tail, concat, no_rows
from pipeline_assets.model_lifecycle.feature_store.online.state import NO_BASE, States
from pipeline_assets.model_lifecycle.feature_store.online.sums import Sums
from pipeline_assets.model_lifecycle.feature_store.online.tiles import Tiles
from pipeline_assets.processing.features.columns import Ints

VERSION = 1
LENGTH = struct.Struct("<I")
TEXT = struct.Struct("<i")
# (lowest, digits) of each sum of a tile set.
Shape = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The beginning of a state: its base, how many rows stand apart, which slots have a newest row, and number and shape of its tiles."""

    base_at: int
    recent: int
    slots: tuple[int, ...]
    tiles: tuple[tuple[int, Shape], ...]


def unpacked(layout: Layout, blobs: Sequence[bytes | None]) -> States:
    """The states of the keys 0 … n-1; None stands for a key of which nothing is known. Raises StateFormatUnknown."""
    heads, places = [], []
    for blob in blobs:
        head, place = _read_head(layout, blob) if blob is not None else (_nothing(layout), 0)
        heads.append(head)
        places.append(place)
    tiles = tuple(_read_tiles(blobs, heads, places, at, tile_set) for at, tile_set in enumerate(layout.tile_sets))
    slots, recent = _read_rows(layout, blobs, heads, places)
    base_at = np.array([head.base_at for head in heads], np.int64)
    return States(base_at=base_at, tiles=tiles, newest=dict(zip(layout.slots, slots, strict=True)), recent=recent)


def packed(layout: Layout, states: States) -> list[bytes]:
    """The bytes of each state, in the order of the keys."""
    count = states.count
    sets = [_write_tiles(own, count) for own in states.tiles]
    newest = [_by_key(layout, states.newest[slot], count) for slot in layout.slots]
    fixed = states.recent.fixed
    ordered = states.recent.take(np.lexsort((fixed["row_low"], fixed["row_high"], fixed["known_at"], states.recent.key)))
    recent = _by_key(layout, ordered, count)
    packing = layout.head
    blobs = []
    for key in range(count):
        slots = [1 if rows[key][0] else 0 for rows in newest]
        shapes = [number for one in sets for number in one[key][0]]
        head = packing.pack(VERSION, int(states.base_at[key]), len(recent[key][1]), *slots, *shapes)
        rows = [*(one[key] for one in newest), recent[key]]
        parts = [head, *(one[key][1] for one in sets), *(one[0] for one in rows), *(tail for one in rows for tail in one[1])]
        blobs.append(b"".join(parts))
    return blobs


def _nothing(layout: Layout) -> Head:
    tiles = tuple((0, ((0, 1),) * len(tile_set.summed)) for tile_set in layout.tile_sets)
    return Head(base_at=NO_BASE, recent=0, slots=(0,) * len(layout.slots), tiles=tiles)


def _read_head(layout: Layout, blob: bytes) -> tuple[Head, int]:
    """The head of a state, and where its tiles begin."""
    packing = layout.head
    (version,) = struct.unpack_from("<H", blob)
    if version != VERSION:
        raise StateFormatUnknown(layout.view.name, version, VERSION)
    _, base_at, recent, *numbers = packing.unpack_from(blob)
    slots, rest = tuple(numbers[: len(layout.slots)]), iter(numbers[len(layout.slots) :])
    tiles = tuple((next(rest), tuple((next(rest), next(rest)) for _ in one.summed)) for one in layout.tile_sets)
    return Head(base_at=base_at, recent=recent, slots=slots, tiles=tiles), packing.size


@lru_cache(maxsize=4096)
def _tile_dtype(tile_set: TileSet, shape: Shape) -> np.dtype:
    counts = [(f"count{at}", "<i8") for at, one in enumerate(tile_set.measures) if one.part == "count"]
    totals = [(f"sum{at}", "<i8", (digits,)) for at, (_, digits) in enumerate(shape)]
    extremes = [(f"extreme{at}", "<f8") for at, one in enumerate(tile_set.measures) if one.part in ("greatest", "least")]
    return np.dtype([("index", "<i8"), *counts, *totals, *extremes])


def _read_tiles(blobs: Sequence[bytes | None], heads: Sequence[Head], places: list[int], at: int, tile_set: TileSet) -> Tiles:
    """The tiles of one length of all states; `places` are moved behind them."""
    grouped: dict[Shape, tuple[list[int], list[int], list[bytes]]] = {}
    for key, (blob, head) in enumerate(zip(blobs, heads, strict=True)):
        number, shape = head.tiles[at]
        if blob is None or number == 0:
            continue
        keys, numbers, parts = grouped.setdefault(shape, ([], [], []))
        size = number * _tile_dtype(tile_set, shape).itemsize
        keys.append(key)
        numbers.append(number)
        parts.append(blob[places[key] : places[key] + size])
        places[key] += size
    nothing = tiling.no_tiles(tile_set)
    return tiling.joined([nothing, *(_tiles(tile_set, shape, *found) for shape, found in grouped.items())])


def _tiles(tile_set: TileSet, shape: Shape, keys: list[int], numbers: list[int], parts: list[bytes]) -> Tiles:
    records = np.frombuffer(b"".join(parts), _tile_dtype(tile_set, shape))
    totals = {
        measure: Sums(lowest=lowest, digits=records[f"sum{at}"])
        for at, (measure, (lowest, _)) in enumerate(zip(tile_set.summed, shape, strict=True))
    }
    places = list(enumerate(tile_set.measures))
    return Tiles(
        tile_set=tile_set,
        key=np.repeat(np.array(keys, np.int64), numbers),
        index=records["index"],
        counts={one: records[f"count{at}"] for at, one in places if one.part == "count"},
        sums=totals,
        extremes={one: records[f"extreme{at}"] for at, one in places if one.part in ("greatest", "least")},
    )


def _write_tiles(tiles: Tiles, count: int) -> list[tuple[tuple[int, ...], bytes]]:
    """For each key the numbers of its head, and its tiles."""
    tile_set = tiles.tile_set
    shape = tuple((0, 1) for _ in tile_set.summed)
    written: list[tuple[tuple[int, ...], bytes]] = [((0, *(number for one in shape for number in one)), b"")] * count
    if len(tiles) == 0:
        return written
    starts = np.flatnonzero(np.concatenate(([True], np.diff(tiles.key) != 0)))
    shapes = np.concatenate([_shapes(tiles.sums[one], starts) for one in tile_set.summed] or [np.zeros((len(starts), 0), int)], axis=1)
    numbers = np.diff(np.append(starts, len(tiles)))
    distinct, which = np.unique(shapes, axis=0, return_inverse=True)
    for group, flat in enumerate(distinct.tolist()):
        mine = which.reshape(-1) == group
        own = tiles.take(np.repeat(mine, numbers))
        data = _records(own, tuple(zip(flat[::2], flat[1::2], strict=True)))
        ends = np.cumsum(numbers[mine]) * data.dtype.itemsize
        whole, begin = data.tobytes(), 0
        for key, number, end in zip(tiles.key[starts[mine]].tolist(), numbers[mine].tolist(), ends.tolist(), strict=True):
            written[key] = ((number, *flat), whole[begin:end])
            begin = end
    return written


def _shapes(totals: Sums, starts: Ints) -> np.ndarray:
    """For each key the lowest digit and the number of digits that all its sums fit into."""
    first, needed = sums.shortest(totals)
    lowest, upto = np.minimum.reduceat(first, starts), np.maximum.reduceat(needed, starts)
    is_zero = lowest == totals.digits.shape[1]
    return np.stack([np.where(is_zero, 0, totals.lowest + lowest), np.where(is_zero, 1, np.maximum(upto - lowest, 1))], axis=1)


def _records(tiles: Tiles, shape: Shape) -> np.ndarray:
    tile_set = tiles.tile_set
    data = np.zeros(len(tiles), _tile_dtype(tile_set, shape))
    data["index"] = tiles.index
    for at, measure in enumerate(tile_set.measures):
        if measure.part == "count":
            data[f"count{at}"] = tiles.counts[measure]
        elif measure.part in ("greatest", "least"):
            data[f"extreme{at}"] = tiles.extremes[measure]
    for at, (measure, (lowest, digits)) in enumerate(zip(tile_set.summed, shape, strict=True)):
        own = tiles.sums[measure]
        is_zero = not own.digits.any()
        data[f"sum{at}"] = 0 if is_zero else sums.shortened(own, lowest, digits).digits
    return data


def _by_key(layout: Layout, rows: Rows, count: int) -> list[tuple[bytes, list[bytes]]]:
    """For each key the fixed parts of its rows, and their tails; the rows are in the order of their keys."""
    order = np.argsort(rows.key, kind="stable")
    size, whole = layout.dtype.itemsize, rows.fixed[order].tobytes()
    tails = [_tail_bytes(tail) for tail in rows.tail[order]]
    ends = np.cumsum(np.bincount(rows.key, minlength=count)).tolist()
    begins = [0, *ends][:-1]
    return [(whole[begin * size : end * size], tails[begin:end]) for begin, end in zip(begins, ends, strict=True)]


def _tail_bytes(tail: Tail) -> bytes:
    ties, *texts = tail
    parts = [LENGTH.pack(len(ties or b"")), ties or b""]
    for text in texts:
        data = None if text is None else str(text).encode()
        parts += [TEXT.pack(-1)] if data is None else [TEXT.pack(len(data)), data]
    return b"".join(part for part in parts if isinstance(part, bytes))


def _read_rows(layout: Layout, blobs: Sequence[bytes | None], heads: Sequence[Head], places: list[int]) -> tuple[list[Rows], Rows]:
    """The newest rows of each slot, and those that stand apart."""
    size, fixed, tails, slots, keys = layout.dtype.itemsize, list[bytes](), list[Tail](), list[int](), list[int]()
    for key, (blob, head) in enumerate(zip(blobs, heads, strict=True)):
        own = [slot for slot, is_there in enumerate(head.slots) if is_there] + [len(layout.slots)] * head.recent
        if blob is None or not own:
            continue
        end = places[key] + len(own) * size
        fixed.append(blob[places[key] : end])
        tails += _read_tails(blob, end, len(own), len(layout.texts))
        slots += own
        keys += [key] * len(own)
    rows = Rows(key=np.array(keys, np.int64), fixed=np.frombuffer(b"".join(fixed), layout.dtype), tail=_as_objects(tails))
    which = np.array(slots, np.int64)
    return [rows.take(which == slot) for slot in range(len(layout.slots))], concat([no_rows(layout), rows.take(which == len(layout.slots))])


def _read_tails(blob: bytes, place: int, count: int, texts: int) -> Iterator[Tail]:
    for _ in range(count):
        (length,) = LENGTH.unpack_from(blob, place)
        place += LENGTH.size
        tail: list[bytes | str | None] = [blob[place : place + length]]
        place += length
        for _ in range(texts):
            (length,) = TEXT.unpack_from(blob, place)
            place += TEXT.size
            tail.append(None if length < 0 else blob[place : place + length].decode())
            place += max(length, 0)
        yield tuple(tail)


def _as_objects(tails: Sequence[Tail]) -> np.ndarray:
    found = np.empty(len(tails), object)
    for place, tail in enumerate(tails):
        found[place] = tail
    return found
