"""The states of some entity keys of one view, and what rows that come, change or vanish make of them.

A state has a time `base_at`. Rows that count from before that and that nothing superseded are in its tiles and newest rows; all others that
count at any time after it stand apart (`recent`). So the features at each moment from `base_at` on are exact, and those before are unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline_assets.model_lifecycle.feature_store.online import tiles as tiling
from pipeline_assets.model_lifecycle.feature_store.online.layout import RECENT_ROWS, Layout
from pipeline_assets.model_lifecycle.feature_store.online.rows import Rows, concat, newest, no_rows, without
from pipeline_assets.model_lifecycle.feature_store.online.tiles import Tiles, tiles_of
from pipeline_assets.processing.features.columns import Bools, Ints
from pipeline_assets.processing.features.timeline import NEVER

# The base of a state that nothing is in yet.
NO_BASE = np.iinfo(np.int64).min // 2


@dataclass(frozen=True, kw_only=True)
class States:
    """The states of the keys 0 … n-1: tiles by length, the newest row of each slot, and the rows that stand apart."""

    base_at: Ints
    tiles: tuple[Tiles, ...]
    newest: Mapping[str | None, Rows]
    recent: Rows

    @property
    def count(self) -> int:
        """How many keys there are."""
        return len(self.base_at)


def empty(layout: Layout, count: int) -> States:
    """The states of keys of which nothing is known."""
    nothing = no_rows(layout)
    return States(
        base_at=np.full(count, NO_BASE, np.int64),
        tiles=tuple(tiles_of(tile_set, nothing) for tile_set in layout.tile_sets),
        newest=dict.fromkeys(layout.slots, nothing),
        recent=nothing,
    )


def changed(states: States, gone: Rows, come: Rows, until: int, base_at: int) -> tuple[States, Bools]:
    """The states with the versions `gone` taken away and the versions `come` added, and which keys have to be built from their rows.

    until: up to when all is known that came so far; base_at: from when on questions are to be answered, not after `until`. A key's base
    never goes back, and goes further where more than RECENT_ROWS would stand apart. A key is to be built again where a row is gone that
    was an extreme or the newest, as what comes after it is not kept.
    """
    states = advanced(states, np.maximum(states.base_at, base_at))
    states, is_broken = _less(states, gone)
    states = _more(states, come)
    return advanced(states, np.minimum(_short_enough(states), np.maximum(until, states.base_at))), is_broken


def built(layout: Layout, rows: Rows, base_at: Ints) -> States:
    """The states that all rows of some keys make, with the bases given."""
    return _more(replace(empty(layout, len(base_at)), base_at=base_at), rows)


def replaced(states: States, keys: Ints, others: States) -> States:
    """The states with those of some keys (ascending) replaced by `others`, whose keys 0 … m-1 they are."""
    is_old = np.ones(states.count, np.bool_)
    is_old[keys] = False
    base_at = states.base_at.copy()
    base_at[keys] = others.base_at

    def rows(ours: Rows, theirs: Rows) -> Rows:
        return concat([ours.take(is_old[ours.key]), theirs.with_key(keys[theirs.key])])

    return States(
        base_at=base_at,
        tiles=tuple(
            tiling.joined([ours.take(is_old[ours.key]), theirs.with_key(keys[theirs.key])])
            for ours, theirs in zip(states.tiles, others.tiles, strict=True)
        ),
        newest={slot: rows(ours, others.newest[slot]) for slot, ours in states.newest.items()},
        recent=rows(states.recent, others.recent),
    )


def advanced(states: States, base_at: Ints) -> States:
    """The states with later bases: rows that stood apart go into the tiles, and what no question reaches any more is left out."""
    recent = states.recent
    base = base_at[recent.key]
    is_settled = (recent.superseded_at == NEVER) & (recent.visible_at <= base)
    kept = ~is_settled & (recent.superseded_at > base)
    moved = replace(states, base_at=base_at, recent=recent.take(kept))
    return _settled(moved, recent.take(is_settled))


def _settled(states: States, rows: Rows) -> States:
    """The states with rows in tiles and slots, without the tiles that no window reaches."""
    return replace(
        states,
        tiles=tuple(_reached(states, tiling.joined([own, tiles_of(own.tile_set, rows)]) if len(rows) else own) for own in states.tiles),
        newest={slot: _newest(states.count, [own, rows.take(rows.has(slot))]) for slot, own in states.newest.items()}
        if len(rows)
        else states.newest,
    )


def _reached(states: States, own: Tiles) -> Tiles:
    is_reached = own.index >= own.tile_set.oldest(states.base_at)[own.key]
    return own if is_reached.all() else own.take(is_reached)


def _newest(count: int, parts: Sequence[Rows]) -> Rows:
    rows = concat(parts)
    found = newest(rows, count)
    return rows.take(found[found >= 0])


def _is_settled(states: States, rows: Rows) -> Bools:
    is_settled: Bools = (rows.superseded_at == NEVER) & (rows.visible_at <= states.base_at[rows.key])
    return is_settled


def _more(states: States, come: Rows) -> States:
    """The states with more rows; one that no question from the base on sees is left out."""
    seen = come.take(come.superseded_at > np.maximum(states.base_at[come.key], come.visible_at))
    is_settled = _is_settled(states, seen)
    apart = seen.take(~is_settled)
    states = replace(states, recent=concat([states.recent, apart])) if len(apart) else states
    return _settled(states, seen.take(is_settled)) if is_settled.any() else states


def _less(states: States, gone: Rows) -> tuple[States, Bools]:
    is_broken = np.zeros(states.count, np.bool_)
    if len(gone) == 0:
        return states, is_broken
    seen = gone.take(gone.superseded_at > np.maximum(states.base_at[gone.key], gone.visible_at))
    is_settled = _is_settled(states, seen)
    recent, was_there = without(states.recent, apart := seen.take(~is_settled))
    is_broken[apart.key[~was_there]] = True
    states = replace(states, recent=recent)
    settled = seen.take(is_settled)
    if len(settled) == 0:
        return states, is_broken
    lost = [_reached(states, tiles_of(own.tile_set, settled)) for own in states.tiles]
    for own, taken in zip(states.tiles, lost, strict=True):
        is_broken[tiling.lost_extremes(own, taken)] = True
    for one in states.newest.values():
        is_broken[one.key[_is_among(one, settled)]] = True
    tiles = tuple(tiling.joined([own, taken.negative()]) for own, taken in zip(states.tiles, lost, strict=True))
    return replace(states, tiles=tiles), is_broken


def _is_among(rows: Rows, others: Rows) -> Bools:
    """Which of the rows are among the others, by key, identity and `known_at`."""
    kept, _ = without(rows, others)
    left = set(zip(kept.key.tolist(), kept.fixed["row_high"].tolist(), kept.fixed["known_at"].tolist(), strict=True))
    mine = zip(rows.key.tolist(), rows.fixed["row_high"].tolist(), rows.fixed["known_at"].tolist(), strict=True)
    return np.array([one not in left for one in mine], np.bool_)


def _short_enough(states: States) -> Ints:
    """The bases from which on no key has more than RECENT_ROWS rows apart that count already."""
    recent, base = states.recent, states.base_at.copy()
    counts = np.bincount(recent.key, minlength=states.count)
    for key in np.flatnonzero(counts > RECENT_ROWS):
        own = recent.take(recent.key == key)
        ends = np.where(own.superseded_at == NEVER, own.visible_at, own.superseded_at)
        base[key] = max(base[key], np.sort(ends)[len(own) - RECENT_ROWS - 1])
    return base
