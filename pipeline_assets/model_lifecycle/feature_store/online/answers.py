"""The features of a view from the states of its keys: the same values, bit for bit, as the offline kernel makes from all rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline_assets.core.aggregates import AGGREGATES
from pipeline_assets.model_lifecycle.feature_store.online import sums
from pipeline_assets.model_lifecycle.feature_store.online import tiles as tiling
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, Output, cell_name, measure_of, microseconds
from pipeline_assets.model_lifecycle.feature_store.online.rows import Rows, concat, newest
from pipeline_assets.model_lifecycle.feature_store.online.state import States
from pipeline_assets.model_lifecycle.feature_store.online.tiles import Tiles, Window, tiles_of
from pipeline_assets.processing.features.columns import Bools, Floats, Ints, Numbers
from pipeline_assets.processing.features.exact import rounded, sample_variance
from pipeline_assets.processing.features.timeline import NEVER
from pipeline_assets.processing.features.values import Values, numbers_of
from pipeline_assets.spec.features import Latest, Windowed


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Features of some questions: a row per feature, a column per question.

    bits: integers, or the bits of floats; 0 where there is no value, so that equal answers are equal to the byte. present: which have a
    value. texts: the values of those that are text, by their row; null where there is none.
    """

    bits: Ints
    present: Bools
    texts: Mapping[int, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The states of some keys as they are at a time each: tiles and newest rows with what stands apart and counts then.

    Not before the base of a key.
    """

    layout: Layout
    at: Ints
    tiles: Mapping[int, Tiles]
    newest: Mapping[str | None, Rows]
    _windows: dict[tuple[int, int], Window] = field(default_factory=dict)

    def window(self, output: Output) -> Window:
        """The tiles that a window is made of."""
        known = (output.window, output.hop)
        if known not in self._windows:
            self._windows[known] = tiling.within(self.tiles[output.hop], (self.at - output.window) // output.hop)
        return self._windows[known]


def no_answers(outputs: Iterable[Output], count: int) -> Answers:
    """Features without a value."""
    kinds = [output.kind for output in outputs]
    shape = len(kinds), count
    texts = {row: np.full(count, None, object) for row, kind in enumerate(kinds) if kind == "text"}
    return Answers(bits=np.zeros(shape, np.int64), present=np.zeros(shape, np.bool_), texts=texts)


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


def features_at(moment: Moment) -> Answers:
    """The features of the view at the moment, in the view's order, a question per key."""
    answers = no_answers(moment.layout.outputs, len(moment.at))
    for row, output in enumerate(moment.layout.outputs):
        if row in answers.texts:
            head = fresh(moment, output.feature)
            cell = next(place for place, one in enumerate(moment.layout.texts) if one.name == cell_name(output.feature))
            answers.texts[row][head.key] = head.texts(cell)
            continue
        key, found = _feature(moment, output)
        answers.present[row, key] = found.valid
        answers.bits[row, key] = np.where(found.valid, found.values, 0).view(np.int64)
        if output.kind == "int" and isinstance(output.feature, Windowed):
            answers.present[row] = True
    return answers


def held_until(moment: Moment, states: States) -> Ints:
    """Until when (exclusive) nothing of each key changes by the passing of time alone: no row comes to count, ends, or leaves a window."""
    until = np.full(states.count, NEVER)
    recent = states.recent
    for times in (recent.visible_at, recent.superseded_at):
        later = times > moment.at[recent.key]
        np.minimum.at(until, recent.key[later], times[later])
    for output in moment.layout.outputs:
        key, ends = _leaves(moment, output)
        until[key] = np.minimum(until[key], ends)
    return until


def head_of(moment: Moment, feature: Windowed | Latest) -> Rows:
    """The newest row of each key that has one, as the feature asks for it."""
    slot = None if isinstance(feature, Latest) or feature.column is None else cell_name(feature)
    return moment.newest[slot]


def in_window(moment: Moment, output: Output) -> Rows:
    """The newest row of each key that has one in the window."""
    head = head_of(moment, output.feature)
    start = (moment.at - output.window) // output.hop * output.hop
    return head.take(head.event_at >= start[head.key])


def fresh(moment: Moment, feature: Windowed | Latest) -> Rows:
    """The newest row of each key that is not older than a latest value may be."""
    head = head_of(moment, feature)
    ttl = feature.ttl if isinstance(feature, Latest) else None
    return head if ttl is None else head.take(head.event_at >= (moment.at - microseconds(ttl))[head.key])


def _feature(moment: Moment, output: Output) -> tuple[Ints, Numbers]:
    """The keys of which something counts, and a feature of them that is no text."""
    feature = output.feature
    if isinstance(feature, Latest):
        head = fresh(moment, feature)
        return head.key, numbers_of(_values_of(moment.layout, head, feature), np.arange(len(head)), moment.at[head.key])
    if "newest" in AGGREGATES[feature.aggregate].parts:
        return _newest(moment, output, in_window(moment, output))
    window = moment.window(output)
    return window.key, _windowed(feature, window)


def _values_of(layout: Layout, rows: Rows, feature: Latest) -> Values:
    """What the rows have for a latest value that is no text, as the offline kernel takes it."""
    cell = next(cell for cell in layout.cells if cell.name == cell_name(feature))
    kind: Literal["code", "moment", "number"] = "code" if feature.values else "moment" if cell.is_moment else "number"
    return Values(kind=kind, data=Numbers(values=rows.value(cell.name), valid=rows.has(cell.name)))


def _newest(moment: Moment, output: Output, head: Rows) -> tuple[Ints, Numbers]:
    is_age = output.kind == "age"
    values = (moment.at[head.key] - head.event_at) / 1e6 if is_age else head.value(cell_name(output.feature)).astype(np.float64)
    return head.key, Numbers(values=values, valid=np.ones(len(head), np.bool_))


def _windowed(feature: Windowed, window: Window) -> Numbers:
    kind = AGGREGATES[feature.aggregate]
    if "extreme" in kind.parts:
        best = window.extreme(measure_of(feature, "extreme"))
        # Adding zero turns the -0.0 of a negated zero back into 0.0.
        return Numbers(values=best * (1.0 if kind.finish == "greatest" else -1.0) + 0.0, valid=np.isfinite(best))
    count = window.count(measure_of(feature, "count"))
    values = count if kind.finish == "count" else _finished(feature, window, count)
    return Numbers(values=values, valid=count >= kind.fewest)


def _finished(feature: Windowed, window: Window, count: Ints) -> Floats:
    finish, total = AGGREGATES[feature.aggregate].finish, window.total(measure_of(feature, "sum"))
    if finish == "sum":
        return rounded(total.as_digits())
    if finish == "mean":
        return rounded(total.as_digits()) / np.maximum(count, 1)
    variance = sample_variance(count, *sums.aligned(total, window.total(measure_of(feature, "squares"))))
    return np.sqrt(variance) if finish == "stddev" else variance


def _found(places: Ints) -> Ints:
    return places[places >= 0]


def _leaves(moment: Moment, output: Output) -> tuple[Ints, Ints]:
    """The keys of which something counts for a feature, and when the oldest of that leaves its window."""
    feature = output.feature
    if isinstance(feature, Latest):
        head = fresh(moment, feature)
        return head.key, np.full(len(head), NEVER) if feature.ttl is None else head.event_at + microseconds(feature.ttl) + 1
    if "newest" in AGGREGATES[feature.aggregate].parts:
        head = in_window(moment, output)
        return head.key, (head.event_at // output.hop + 1) * output.hop + output.window
    window = moment.window(output)
    return window.key, (window.first + 1) * output.hop + output.window
