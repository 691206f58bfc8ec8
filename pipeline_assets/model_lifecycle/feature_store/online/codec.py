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

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipeline_assets.core.online_errors import StateFormatUnknown
from pipeline_assets.model_lifecycle.feature_store.online import sums
from pipeline_assets.model_lifecycle.feature_store.online import tiles as tiling
from pipeline_assets.model_lifecycle.feature_store.online.feeds import VERSION
from pipeline_assets.model_lifecycle.feature_store.online.layout import SHAPE, Layout, TileSet
from pipeline_assets.model_lifecycle.feature_store.online.rows import Rows, concat, no_rows, tail_size
from pipeline_assets.model_lifecycle.feature_store.online.state import NO_BASE, States
from pipeline_assets.model_lifecycle.feature_store.online.sums import Sums
from pipeline_assets.model_lifecycle.feature_store.online.tiles import Tiles
from pipeline_assets.processing.features.columns import Ints

# (lowest, digits) of each sum of a tile set.
Shape = tuple[tuple[int, int], ...]


def unpacked(layout: Layout, blobs: Sequence[bytes | None]) -> States:
    """The states of the keys 0 … n-1; None stands for a key of which nothing is known. Raises StateFormatUnknown."""
    held = [blob for blob in blobs if blob is not None]
    for version in {int.from_bytes(blob[:2], "little") for blob in held} - {VERSION}:
        raise StateFormatUnknown(layout.view.name, version, VERSION)
    key = np.array([key for key, blob in enumerate(blobs) if blob is not None], np.int64)
    size = layout.head.itemsize
    heads = np.frombuffer(b"".join([blob[:size] for blob in held]), layout.head)
    base_at, places = np.full(len(blobs), NO_BASE, np.int64), np.full(len(held), size)
    base_at[key] = heads["base_at"]
    tiles = tuple(_read_tiles(held, key, heads, places, at, tile_set) for at, tile_set in enumerate(layout.tile_sets))
    slots, recent = _read_rows(layout, held, key, heads, places)
    return States(base_at=base_at, tiles=tiles, newest=dict(zip(layout.slots, slots, strict=True)), recent=recent)


def packed(layout: Layout, states: States) -> list[bytes]:
    """The bytes of each state, in the order of the keys."""
    heads = np.zeros(states.count, layout.head)
    heads["version"], heads["base_at"] = VERSION, states.base_at
    heads["recent"] = np.bincount(states.recent.key, minlength=states.count)
    for slot, rows in enumerate(states.newest.values()):
        heads["slots"][rows.key, slot] = 1
    tiles = [_write_tiles(own, heads, at) for at, own in enumerate(states.tiles)]
    size, whole = layout.head.itemsize, heads.tobytes()
    parts = zip(*tiles, *_write_rows(layout, states), strict=True)
    return [b"".join((whole[key * size : (key + 1) * size], *fixed, *tails)) for key, (*fixed, tails) in enumerate(parts)]


@lru_cache(maxsize=4096)
def _tile_dtype(tile_set: TileSet, shape: Shape) -> np.dtype:
    counts = [(f"count{at}", "<i8") for at, one in enumerate(tile_set.measures) if one.part == "count"]
    totals = [(f"sum{at}", "<i8", (digits,)) for at, (_, digits) in enumerate(shape)]
    extremes = [(f"extreme{at}", "<f8") for at, one in enumerate(tile_set.measures) if one.part in ("greatest", "least")]
    return np.dtype([("index", "<i8"), *counts, *totals, *extremes])


def _read_tiles(held: Sequence[bytes], key: Ints, heads: np.ndarray, places: Ints, at: int, tile_set: TileSet) -> Tiles:
    """The tiles of one length of all states; `places` are moved behind them."""
    numbers, step, shapes = heads[f"tiles{at}"].astype(np.int64), SHAPE.itemsize * len(tile_set.summed), heads[f"shape{at}"].tobytes()
    grouped: dict[bytes, list[int]] = {}
    for state in np.flatnonzero(numbers).tolist():
        grouped.setdefault(shapes[state * step : (state + 1) * step], []).append(state)
    parts = []
    for shape, own in grouped.items():
        flat: Shape = tuple(np.frombuffer(shape, SHAPE).tolist())
        dtype, starts = _tile_dtype(tile_set, flat), places[own]
        ends = starts + numbers[own] * dtype.itemsize
        data = [held[state][start:end] for state, start, end in zip(own, starts.tolist(), ends.tolist(), strict=True)]
        places[own] = ends
        parts.append(_tiles(tile_set, flat, np.repeat(key[own], numbers[own]), np.frombuffer(b"".join(data), dtype)))
    if not parts:
        return tiling.no_tiles(tile_set)
    # Those of one shape are in order already.
    return parts[0] if len(parts) == 1 else tiling.joined(parts)


def _tiles(tile_set: TileSet, shape: Shape, key: Ints, records: np.ndarray) -> Tiles:
    totals = {
        measure: Sums(lowest=lowest, digits=records[f"sum{at}"])
        for at, (measure, (lowest, _)) in enumerate(zip(tile_set.summed, shape, strict=True))
    }
    places = list(enumerate(tile_set.measures))
    return Tiles(
        tile_set=tile_set,
        key=key,
        index=records["index"],
        counts={one: records[f"count{at}"] for at, one in places if one.part == "count"},
        sums=totals,
        extremes={one: records[f"extreme{at}"] for at, one in places if one.part in ("greatest", "least")},
    )


def _write_tiles(tiles: Tiles, heads: np.ndarray, at: int) -> list[bytes]:
    """The tiles of one length of each key; their numbers and shapes are put into the heads."""
    written = [b""] * len(heads)
    heads[f"shape{at}"]["digits"] = 1
    if len(tiles) == 0:
        return written
    starts = np.flatnonzero(np.concatenate(([True], np.diff(tiles.key) != 0)))
    own, numbers = tiles.key[starts], np.diff(np.append(starts, len(tiles)))
    summed = tiles.tile_set.summed
    shapes = np.stack([_shapes(tiles.sums[one], starts) for one in summed], axis=1) if summed else np.zeros((len(starts), 0, 2), int)
    heads[f"tiles{at}"][own] = numbers
    heads[f"shape{at}"]["lowest"][own], heads[f"shape{at}"]["digits"][own] = shapes[:, :, 0], shapes[:, :, 1]
    distinct, which = np.unique(shapes.reshape(len(starts), -1), axis=0, return_inverse=True)
    for group, flat in enumerate(distinct.tolist()):
        mine = which.reshape(-1) == group
        data = _records(tiles.take(np.repeat(mine, numbers)), tuple(zip(flat[::2], flat[1::2], strict=True)))
        ends = (np.cumsum(numbers[mine]) * data.dtype.itemsize).tolist()
        whole = data.tobytes()
        for key, begin, end in zip(own[mine].tolist(), [0, *ends], ends, strict=False):
            written[key] = whole[begin:end]
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


def _write_rows(layout: Layout, states: States) -> tuple[list[bytes], list[list[bytes]]]:
    """For each key the fixed parts of its rows, and their tails."""
    fixed = states.recent.fixed
    ordered = states.recent.take(np.lexsort((fixed["row_low"], fixed["row_high"], fixed["known_at"])))
    rows = concat([*(states.newest[slot] for slot in layout.slots), ordered])
    rows = rows.take(np.argsort(rows.key, kind="stable"))
    size, whole, tails = layout.dtype.itemsize, rows.fixed.tobytes(), rows.tail.tolist()
    ends = np.cumsum(np.bincount(rows.key, minlength=states.count)).tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    return [whole[begin * size : end * size] for begin, end in spans], [tails[begin:end] for begin, end in spans]


def _read_rows(layout: Layout, held: Sequence[bytes], key: Ints, heads: np.ndarray, places: Ints) -> tuple[list[Rows], Rows]:
    """The newest rows of each slot, and those that stand apart."""
    size, texts, fixed, tails = layout.dtype.itemsize, len(layout.texts), list[bytes](), list[bytes]()
    has_newest = heads["slots"] != 0
    newest = has_newest.sum(axis=1)
    counts = newest + heads["recent"]
    for blob, start, count in zip(held, places.tolist(), counts.tolist(), strict=True):
        place = start + count * size
        fixed.append(blob[start:place])
        for _ in range(count):
            end = place + tail_size(blob, place, texts)
            tails.append(blob[place:end])
            place = end
    tail = np.empty(len(tails), object)
    tail[:] = tails
    rows = Rows(key=np.repeat(key, counts), fixed=np.frombuffer(b"".join(fixed), layout.dtype), tail=tail)
    is_newest = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) < np.repeat(newest, counts)
    which = np.full(len(rows), len(layout.slots))
    which[is_newest] = np.nonzero(has_newest)[1]
    return [rows.take(which == slot) for slot in range(len(layout.slots))], concat([no_rows(layout), rows.take(which == len(layout.slots))])
