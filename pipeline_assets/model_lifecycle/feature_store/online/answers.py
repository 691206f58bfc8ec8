"""The features of a view from the states of its keys: the same columns, bit for bit, as the offline kernel makes from all rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.aggregates import AGGREGATES
from pipeline_assets.model_lifecycle.feature_store.online import sums
from pipeline_assets.model_lifecycle.feature_store.online import tiles as tiling
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, cell_name, measure_of, microseconds
from pipeline_assets.model_lifecycle.feature_store.online.rows import Rows, concat, newest
from pipeline_assets.model_lifecycle.feature_store.online.state import States
from pipeline_assets.model_lifecycle.feature_store.online.sums import Sums
from pipeline_assets.model_lifecycle.feature_store.online.tiles import Tiles, tiles_of
from pipeline_assets.processing.features.columns import Bools, Floats, Ints, Numbers, arrow_numbers
from pipeline_assets.processing.features.exact import rounded, sample_variance
from pipeline_assets.processing.features.hops import hop_of
from pipeline_assets.processing.features.timeline import NEVER
from pipeline_assets.processing.features.values import Values, feature_of
from pipeline_assets.spec.features import Latest, Windowed


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The states of some keys as they are at a time each: tiles and newest rows with what stands apart and counts then.

    Not before the base of a key.
    """

    layout: Layout
    at: Ints
    tiles: Mapping[int, Tiles]
    newest: Mapping[str | None, Rows]
    _windows: dict[tuple[int, int], tuple[Tiles, Bools]] = field(default_factory=dict)

    def window(self, window: int, hop: int) -> tuple[Tiles, Bools]:
        """The one tile of each key that the window makes, and which keys have any row in it."""
        if (window, hop) not in self._windows:
            own = self.tiles[hop]
            self._windows[window, hop] = tiling.within(own, (self.at - window) // hop)
        return self._windows[window, hop]


def moment_of(layout: Layout, states: States, at: Ints) -> Moment:
    """The states of the keys 0 … n-1 at the times `at`, one per key and not before its base."""
    recent = states.recent
    counts = recent.take((recent.visible_at <= at[recent.key]) & (recent.superseded_at > at[recent.key]))
    tiles, heads = {own.tile_set.hop: own for own in states.tiles}, dict(states.newest)
    if len(counts):
        tiles = {hop: tiling.joined([own, tiles_of(own.tile_set, counts)]) for hop, own in tiles.items()}
        heads = {slot: concat([own, counts.take(counts.has(slot))]) for slot, own in heads.items()}
        heads = {slot: own.take(_found(newest(own, states.count))) for slot, own in heads.items()}
    return Moment(layout=layout, at=at, tiles=tiles, newest=heads)


def features_at(moment: Moment) -> dict[str, pa.Array]:
    """The features of the view at the moment, one column per feature in the view's order, one row per key."""
    columns: dict[str, pa.Array] = {}
    view = moment.layout.view
    for feature in view.features:
        if isinstance(feature, Latest):
            columns[names.feature(view.name, feature.name)] = latest(moment, feature)
        else:
            for window in feature.windows:
                name = names.feature(view.name, feature.name, window)
                columns[name] = _windowed(moment, feature, microseconds(window), microseconds(hop_of(window, feature.hop)))
    return columns


def held_until(moment: Moment, states: States) -> Ints:
    """Until when (exclusive) nothing of each key changes by the passing of time alone: no row comes to count, ends, or leaves a window."""
    until = np.full(states.count, NEVER)
    recent = states.recent
    for times in (recent.visible_at, recent.superseded_at):
        later = times > moment.at[recent.key]
        np.minimum.at(until, recent.key[later], times[later])
    for feature in moment.layout.view.features:
        if isinstance(feature, Latest):
            if feature.ttl is not None:
                head = moment.newest[None]
                _leaves(until, head.key, head.event_at + microseconds(feature.ttl) + 1, moment.at)
        else:
            for window in feature.windows:
                _of_window(until, moment, feature, microseconds(window), microseconds(hop_of(window, feature.hop)))
    return until


def head_of(moment: Moment, feature: Windowed | Latest) -> Rows:
    """The newest row of each key that has one, as the feature asks for it."""
    slot = None if isinstance(feature, Latest) or feature.column is None else cell_name(feature)
    return moment.newest[slot]


def in_window(moment: Moment, feature: Windowed, window: int, hop: int) -> Rows:
    """The newest row of each key that has one in the window."""
    head = head_of(moment, feature)
    start = (moment.at - window) // hop * hop
    return head.take(head.event_at >= start[head.key])


def fresh(moment: Moment, feature: Latest) -> Rows:
    """The newest row of each key that is not older than the feature allows."""
    head = head_of(moment, feature)
    return head if feature.ttl is None else head.take(head.event_at >= (moment.at - microseconds(feature.ttl))[head.key])


def latest(moment: Moment, feature: Latest) -> pa.Array:
    """The newest value of each key."""
    head = fresh(moment, feature)
    rows, present = np.zeros(len(moment.at), np.int64), np.zeros(len(moment.at), np.bool_)
    rows[head.key], present[head.key] = np.arange(len(head)), True
    if len(head) == 0:
        head, rows = _blank(moment.layout), np.zeros(len(moment.at), np.int64)
    return feature_of(values_of(moment.layout, head, feature), rows, present, moment.at)


def values_of(layout: Layout, rows: Rows, feature: Latest) -> Values:
    """What the rows have for a latest value, as the offline kernel takes it."""
    cell = next(cell for cell in layout.cells if cell.name == cell_name(feature))
    if cell.dtype == "text":
        return Values(kind="text", texts=rows.text(layout.texts.index(cell)))
    kind: Literal["code", "moment", "number"] = "code" if feature.values else "moment" if cell.is_moment else "number"
    return Values(kind=kind, data=Numbers(values=rows.value(cell.name), valid=rows.has(cell.name)))


def _blank(layout: Layout) -> Rows:
    tail = np.empty(1, object)
    tail[0] = (b"", *(None for _ in layout.texts))
    return Rows(key=np.zeros(1, np.int64), fixed=np.zeros(1, layout.dtype), tail=tail)


def _windowed(moment: Moment, feature: Windowed, window: int, hop: int) -> pa.Array:
    kind, keys = AGGREGATES[feature.aggregate], len(moment.at)
    if "newest" in kind.parts:
        return _newest(moment, feature, in_window(moment, feature, window, hop))
    tiles, has_any = moment.window(window, hop)
    if "extreme" in kind.parts:
        sign = 1.0 if kind.finish == "greatest" else -1.0
        best = _spread(tiles.extremes[measure_of(feature, "extreme")], has_any, tiling.NO_EXTREME)
        # Adding zero turns the -0.0 of a negated zero back into 0.0.
        return arrow_numbers(best * sign + 0.0, np.isfinite(best))
    count = _spread(tiles.counts[measure_of(feature, "count")], has_any, 0)
    if kind.finish == "count":
        return pa.array(count)
    found = np.zeros(keys)
    found[has_any] = _finished(feature, tiles, count[has_any])
    return arrow_numbers(found, count >= kind.fewest)


def _finished(feature: Windowed, tiles: Tiles, count: Ints) -> Floats:
    finish, total = AGGREGATES[feature.aggregate].finish, tiles.sums[measure_of(feature, "sum")]
    if finish == "sum":
        return rounded(total.as_digits())
    if finish == "mean":
        return rounded(total.as_digits()) / np.maximum(count, 1)
    variance = _variance(count, total, tiles.sums[measure_of(feature, "squares")])
    return np.sqrt(variance) if finish == "stddev" else variance


def _variance(count: Ints, total: Sums, of_squares: Sums) -> Floats:
    return sample_variance(count, *sums.aligned(total, of_squares))


def _newest(moment: Moment, feature: Windowed, head: Rows) -> pa.Array:
    found, present = np.zeros(len(moment.at)), np.zeros(len(moment.at), np.bool_)
    present[head.key] = True
    if AGGREGATES[feature.aggregate].finish == "value":
        found[head.key] = head.value(cell_name(feature))
    else:
        found[head.key] = (moment.at[head.key] - head.event_at) / 1e6
    return arrow_numbers(found, present)


def _spread(values: np.ndarray, has_any: Bools, nothing: float) -> np.ndarray:
    spread = np.full(len(has_any), nothing, values.dtype)
    spread[has_any] = values
    return spread


def _found(places: Ints) -> Ints:
    return places[places >= 0]


def _of_window(until: Ints, moment: Moment, feature: Windowed, window: int, hop: int) -> None:
    if "newest" in AGGREGATES[feature.aggregate].parts:
        head = in_window(moment, feature, window, hop)
        _leaves(until, head.key, (head.event_at // hop + 1) * hop + window, moment.at)
    else:
        own = moment.tiles[hop]
        inside = own.take(own.index >= ((moment.at - window) // hop)[own.key])
        _leaves(until, inside.key, (inside.index + 1) * hop + window, moment.at)


def _leaves(until: Ints, key: Ints, ends: Ints, at: Ints) -> None:
    later = ends > at[key]
    np.minimum.at(until, key[later], ends[later])
