"""Tiles: what is kept of all rows of a key that happened in one hop of time, exact and in any order of arrival."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_assets.model_lifecycle.feature_store.online import sums
from pipeline_assets.model_lifecycle.feature_store.online.layout import Measure, TileSet
from pipeline_assets.model_lifecycle.feature_store.online.rows import Rows
from pipeline_assets.model_lifecycle.feature_store.online.sums import Sums
from pipeline_assets.processing.features.columns import Floats, Ints

ROWS = Measure(cell=None, part="count")
NO_EXTREME = -np.inf


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tiles of one length: of the key `key`, over [index · hop, (index + 1) · hop), in the order of (key, index), each once.

    counts, sums: by measure. extremes: the greatest value, or the negative of the least; minus infinity where there is none.
    """

    tile_set: TileSet
    key: Ints
    index: Ints
    counts: Mapping[Measure, Ints]
    sums: Mapping[Measure, Sums]
    extremes: Mapping[Measure, Floats]

    def __len__(self) -> int:
        return len(self.key)

    def take(self, tiles: np.ndarray) -> "Tiles":
        """Some of the tiles (places, or a mask), in their order."""
        return self._each(self.key[tiles], self.index[tiles], lambda part: part[tiles], lambda part: part.take(tiles))

    def with_key(self, key: Ints) -> "Tiles":
        """The same tiles under other numbers of their keys."""
        return self._each(key, self.index, lambda part: part, lambda part: part)

    def negative(self) -> "Tiles":
        """What takes these rows away again: counts and sums with the other sign, and no extremes."""
        nothing = dict.fromkeys(self.extremes, np.full(len(self), NO_EXTREME))
        taken = self._each(self.key, self.index, lambda part: -part, lambda part: part.negative())
        return Tiles(tile_set=self.tile_set, key=self.key, index=self.index, counts=taken.counts, sums=taken.sums, extremes=nothing)

    def _each(self, key: Ints, index: Ints, plain: "Callable[[np.ndarray], np.ndarray]", exact: "Callable[[Sums], Sums]") -> "Tiles":
        return Tiles(
            tile_set=self.tile_set,
            key=key,
            index=index,
            counts={measure: plain(values) for measure, values in self.counts.items()},
            sums={measure: exact(values) for measure, values in self.sums.items()},
            extremes={measure: plain(values) for measure, values in self.extremes.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Window:
    """Some tiles of each key, added up as far as they are asked for: `places` are those of the tiles, `starts` where the next key begins.

    key: the keys that have any tile in the window, ascending; what is asked for has a number for each of them.
    """

    tiles: Tiles
    places: Ints
    starts: Ints
    key: Ints

    @property
    def first(self) -> Ints:
        """The index of the oldest tile."""
        return self.tiles.index[self.places[self.starts]]

    def count(self, measure: Measure) -> Ints:
        """How many rows, or values."""
        return self._reduced(np.add, self.tiles.counts[measure])

    def extreme(self, measure: Measure) -> Floats:
        """The greatest value, or the negative of the least."""
        return self._reduced(np.maximum, self.tiles.extremes[measure])

    def total(self, measure: Measure) -> Sums:
        """The exact sum."""
        inside = self.tiles.sums[measure].take(self.places)
        return sums.added(inside, self.starts) if len(self.starts) < len(self.places) else inside

    def _reduced(self, how: np.ufunc, values: np.ndarray) -> np.ndarray:
        inside: np.ndarray = values[self.places]
        return how.reduceat(inside, self.starts) if len(self.starts) < len(self.places) else inside


def no_tiles(tile_set: TileSet) -> Tiles:
    """None."""
    none = np.zeros(0, np.int64)
    return Tiles(
        tile_set=tile_set,
        key=none,
        index=none,
        counts={one: none for one in tile_set.measures if one.part == "count"},
        sums={one: sums.nothing(0) for one in tile_set.measures if one.part in ("sum", "squares")},
        extremes={one: np.zeros(0) for one in tile_set.measures if one.part in ("greatest", "least")},
    )


def tiles_of(tile_set: TileSet, rows: Rows) -> Tiles:
    """The tiles that these rows make."""
    counts = {measure: rows.has(measure.cell).astype(np.int64) for measure in tile_set.measures if measure.part == "count"}
    totals = {measure: _summands(rows, measure) for measure in tile_set.measures if measure.part in ("sum", "squares")}
    extremes = {measure: _extremes(rows, measure) for measure in tile_set.measures if measure.part in ("greatest", "least")}
    each = Tiles(tile_set=tile_set, key=rows.key, index=rows.event_at // tile_set.hop, counts=counts, sums=totals, extremes=extremes)
    return _united(each)


def joined(parts: Sequence[Tiles]) -> Tiles:
    """The tiles of all rows of some parts, at least one; those without any row are gone."""
    first = parts[0]
    whole = Tiles(
        tile_set=first.tile_set,
        key=np.concatenate([part.key for part in parts]),
        index=np.concatenate([part.index for part in parts]),
        counts={measure: np.concatenate([part.counts[measure] for part in parts]) for measure in first.counts},
        sums={measure: sums.joined([part.sums[measure] for part in parts]) for measure in first.sums},
        extremes={measure: np.concatenate([part.extremes[measure] for part in parts]) for measure in first.extremes},
    )
    united = _united(whole)
    is_empty = united.counts[ROWS] == 0
    return united.take(~is_empty) if is_empty.any() else united


def lost_extremes(tiles: Tiles, gone: Tiles) -> Ints:
    """The keys of which a tile loses its extreme with some of its rows: what it becomes is not known from the tile."""
    if not gone.extremes:
        return np.zeros(0, np.int64)
    both = np.concatenate([tiles.key, gone.key]), np.concatenate([tiles.index, gone.index])
    order = np.lexsort((np.arange(len(both[0])), both[1], both[0]))
    pairs = np.flatnonzero((np.diff(both[0][order]) == 0) & (np.diff(both[1][order]) == 0))
    held, lost = order[pairs], order[pairs + 1] - len(tiles)
    is_lost = np.zeros(len(pairs), np.bool_)
    for measure, values in gone.extremes.items():
        is_lost |= (values[lost] != NO_EXTREME) & (values[lost] >= tiles.extremes[measure][held])
    return np.unique(gone.key[lost[is_lost]])


def within(tiles: Tiles, first: Ints) -> Window:
    """The tiles of each key from the index `first` (one per key) on."""
    places = np.flatnonzero(tiles.index >= first[tiles.key])
    key = tiles.key[places]
    starts = np.flatnonzero(np.concatenate((np.ones(min(len(key), 1), np.bool_), key[1:] != key[:-1])))
    return Window(tiles=tiles, places=places, starts=starts, key=key[starts])


def _united(tiles: Tiles) -> Tiles:
    """The tiles with those of one key and index made one."""
    if len(tiles) == 0:
        return tiles
    order = np.lexsort((tiles.index, tiles.key))
    key, index = tiles.key[order], tiles.index[order]
    is_new = np.concatenate(([True], (np.diff(key) != 0) | (np.diff(index) != 0)))
    starts = np.flatnonzero(is_new)
    if len(starts) == len(order) and bool((np.diff(order) == 1).all()):
        return tiles
    return Tiles(
        tile_set=tiles.tile_set,
        key=key[starts],
        index=index[starts],
        counts={measure: np.add.reduceat(values[order], starts) for measure, values in tiles.counts.items()},
        sums={measure: sums.added(values.take(order), starts) for measure, values in tiles.sums.items()},
        extremes={measure: np.maximum.reduceat(values[order], starts) for measure, values in tiles.extremes.items()},
    )


def _summands(rows: Rows, measure: Measure) -> Sums:
    values = rows.value(str(measure.cell))
    return sums.sums_of(values) if measure.part == "sum" else sums.squares_of(values)


def _extremes(rows: Rows, measure: Measure) -> Floats:
    values = rows.value(str(measure.cell)).astype(np.float64)
    signed = values if measure.part == "greatest" else -values
    return np.where(rows.has(measure.cell), signed, NO_EXTREME)
