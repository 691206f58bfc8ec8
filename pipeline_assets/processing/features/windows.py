"""Aggregates over time windows, from sorted positions and prefix sums: what is true of a window at t is written here.

A window w asked at t covers the events with floor_hop(t − w) <= event_at <= t, known_at <= t and t < superseded_at, where they have one.
So an event counts at a range of questions: from the first that sees it to the first whose window starts after it, or that knows it as
superseded. The sum over a window is (all seen) − (all before its start), prefix sums of two sorted orders, but for strays: events that no
question saw before they left the window, and events superseded in it. What these change is added at the question where the change begins,
subtracted where it ends, and summed up along the questions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.aggregates import AGGREGATES, Part
from pipeline_assets.processing.features.as_of import newest_positions
from pipeline_assets.processing.features.columns import (
    Bools,
    Floats,
    Ints,
    Numbers,
    arrow_numbers,
    numbers,
    plain_column,
    present_in,
    truths,
)
from pipeline_assets.processing.features.exact import Digits, digits, rounded, sample_variance, squares, whole
from pipeline_assets.processing.features.extremes import greatest_covering
from pipeline_assets.processing.features.hops import hop_of
from pipeline_assets.processing.features.timeline import Timeline
from pipeline_assets.spec.features import FeatureView, Windowed

MICROSECOND = timedelta(microseconds=1)
COUNT: Part = "count"
SUM: Part = "sum"
SQUARES: Part = "squares"
# The parts that are added up; the others are looked up.
ADDED = (COUNT, SUM, SQUARES)
Measure = tuple[str | None, Part]


def window_values(events: pa.Table, name: str, feature: Windowed) -> Numbers:
    """The column of the events that a windowed feature is made of; raises TableMismatch where it is not what its aggregate needs.

    Of a column that is no number only how many values it has is asked: each counts 1.
    """
    found = plain_column(events, name, str(feature.column))
    if AGGREGATES[feature.aggregate].finish == "count" and not pa.types.is_floating(found.type):
        valid = present_in(found)
        return Numbers(values=valid.astype(np.int64), valid=valid)
    return (truths if feature.aggregate == "rate" else numbers)(events, name, str(feature.column))


def window_start(asked_at: Ints, window: timedelta, hop: timedelta) -> Ints:
    """floor_hop(asked_at − window), in microseconds since the epoch, also before it."""
    size = hop // MICROSECOND
    return (asked_at - window // MICROSECOND) // size * size


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """The events of one bucket in the order of its timeline, read and summed up once for all windows."""

    timeline: Timeline
    events: pa.Table
    name: str
    _columns: dict[tuple[str, str], Numbers] = field(default_factory=dict)
    _sums: dict[Measure, "PrefixSums"] = field(default_factory=dict)

    def column(self, feature: Windowed) -> Numbers:
        """The feature's column per position; ones where it has none. Raises TableMismatch where it is not what the aggregate needs."""
        if feature.column is None:
            count = len(self.timeline.rows)
            return Numbers(values=np.ones(count, np.int64), valid=np.ones(count, np.bool_))
        key = (feature.column, feature.aggregate if feature.aggregate in ("rate", "count") else "")
        if key not in self._columns:
            data = window_values(self.events, self.name, feature)
            self._columns[key] = Numbers(values=data.values[self.timeline.rows], valid=data.valid[self.timeline.rows])
        return self._columns[key]

    def sums(self, feature: Windowed, kind: Part) -> "PrefixSums":
        """The prefix sums of one measure of the feature's column."""
        measure = (feature.column, kind)
        if measure not in self._sums:
            data = self.column(feature)
            added = whole(data.valid.astype(np.int64)) if kind == COUNT else (digits if kind == SUM else squares)(data.values)
            self._sums[measure] = prefix_sums(self.timeline, added)
        return self._sums[measure]


@dataclass(frozen=True, kw_only=True)
class PrefixSums:
    """Of each column of digits: the values, their sums up to each position, and the sum of what each question sees."""

    exponent: int
    values: tuple[Ints, ...]
    upto: tuple[Ints, ...]
    seen: tuple[Ints, ...]


def prefix_sums(timeline: Timeline, added: Digits) -> PrefixSums:
    """The prefix sums of one number per position; int64 wraps around, which differences undo."""
    by_visibility = [timeline.in_visible_order(column) for column in added.columns]
    return PrefixSums(
        exponent=added.exponent,
        values=added.columns,
        upto=tuple(_upto(column) for column in added.columns),
        seen=tuple(_upto(column)[timeline.seen] for column in by_visibility),
    )


@dataclass(frozen=True, kw_only=True)
class Strays:
    """Positions for which (all seen) − (all before its start) is not the sum: it has them until question `left` in place of `end`."""

    positions: Ints
    left: Ints
    end: Ints

    def missing(self, values: Ints, questions: int) -> Ints:
        """What that sum lacks at each question, for one value per position."""
        strays = values[self.positions]
        change = np.zeros(questions + 1, np.int64)
        np.add.at(change, self.left, strays)
        np.subtract.at(change, self.end, strays)
        return np.cumsum(change[:questions])


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One window at each question: the first position in it, and at which questions each position counts.

    That is from `timeline.first_seen` to `end`: never, where `end` is not after it.
    """

    timeline: Timeline
    window: timedelta
    start: Ints

    @cached_property
    def left(self) -> Ints:
        """At each position, the first question whose window starts after it."""
        return self.timeline.first_beyond(self.start)

    @cached_property
    def end(self) -> Ints:
        """At each position, the first question at which it counts no more."""
        return np.minimum(self.left, self.timeline.first_superseded) if self.timeline.has_superseded else self.left

    @cached_property
    def strays(self) -> Strays:
        """What is superseded in its window, or seen by nobody before it left it; found without looking where nothing can be."""
        if not self.timeline.has_superseded and self.timeline.greatest_lateness <= self.window // MICROSECOND:
            none = np.zeros(0, np.int64)
            return Strays(positions=none, left=none, end=none)
        end = np.maximum(self.timeline.first_seen, self.end)
        positions = np.flatnonzero(end != self.left)
        return Strays(positions=positions, left=self.left[positions], end=end[positions])


def frame_of(timeline: Timeline, window: timedelta, hop: timedelta) -> Frame:
    """The window's frame."""
    return Frame(timeline=timeline, window=window, start=timeline.positions_from(window_start(timeline.questions.at, window, hop)))


def window_features(view: FeatureView, timeline: Timeline, events: pa.Table) -> dict[str, pa.Array]:
    """The windowed features of the view, one column per feature and window, one row per request: `count` int64, all others float64.

    Null where no counted event is in the window (0 for `count`), and for `variance` and `stddev` (of the sample: n − 1) where fewer than
    two are. Needs an ordered timeline for `last`. Raises TableMismatch where a column is not what its aggregate needs.
    """
    bucket = Bucket(timeline=timeline, events=events, name=view.source.name)
    frames: dict[tuple[timedelta, timedelta], list[Windowed]] = {}
    for feature in view.features:
        if isinstance(feature, Windowed):
            for window in feature.windows:
                frames.setdefault((window, hop_of(window, feature.hop)), []).append(feature)
    columns = {}
    for (window, hop), features in frames.items():
        frame = frame_of(timeline, window, hop)
        totals = window_totals(bucket, frame, features)
        for feature in features:
            columns[names.feature(view.name, feature.name, window)] = _column_of(feature, bucket, frame, totals)
    return columns


def window_totals(bucket: Bucket, frame: Frame, features: Iterable[Windowed]) -> dict[Measure, Digits]:
    """Every measure that the features need, added up over the window of each question."""
    sums = {(feature.column, part): bucket.sums(feature, part) for feature in features for part in _added(feature)}
    totals = [seen - upto[frame.start] for prefix in sums.values() for seen, upto in zip(prefix.seen, prefix.upto, strict=True)]
    if totals and len(frame.strays.positions):
        columns = [values for prefix in sums.values() for values in prefix.values]
        totals = [total + frame.strays.missing(values, len(total)) for total, values in zip(totals, columns, strict=True)]
    column = iter(totals)
    return {measure: Digits(exponent=prefix.exponent, columns=tuple(next(column) for _ in prefix.upto)) for measure, prefix in sums.items()}


def _added(feature: Windowed) -> list[Part]:
    return [part for part in AGGREGATES[feature.aggregate].parts if part in ADDED]


def _column_of(feature: Windowed, bucket: Bucket, frame: Frame, totals: dict[Measure, Digits]) -> pa.Array:
    """The feature's column in the order of the requests."""
    kind, questions = AGGREGATES[feature.aggregate], bucket.timeline.questions
    if kind.finish == "count":
        return pa.array(questions.per_request(totals[feature.column, COUNT].columns[0]))
    if "extreme" in kind.parts:
        values, present = _extreme(feature, bucket, frame)
    elif "newest" in kind.parts:
        values, present = _newest(feature, bucket, frame)
    else:
        values, present = _from_totals(feature, totals), totals[feature.column, COUNT].columns[0] >= kind.fewest
    return arrow_numbers(questions.per_request(values), questions.per_request(present))


def _from_totals(feature: Windowed, totals: dict[Measure, Digits]) -> Floats:
    finish = AGGREGATES[feature.aggregate].finish
    count, total = totals[feature.column, COUNT].columns[0], totals[feature.column, SUM]
    if finish == "sum":
        return rounded(total)
    if finish == "mean":
        return rounded(total) / np.maximum(count, 1)
    variance = sample_variance(count, total, totals[feature.column, SQUARES])
    return np.sqrt(variance) if finish == "stddev" else variance


def _extreme(feature: Windowed, bucket: Bucket, frame: Frame) -> tuple[Floats, Bools]:
    data = bucket.column(feature)
    sign = 1.0 if AGGREGATES[feature.aggregate].finish == "greatest" else -1.0
    values, end, timeline = data.values.astype(np.float64) * sign, np.where(data.valid, frame.end, 0), bucket.timeline
    best = greatest_covering(timeline.first_seen, end, values, timeline.questions.count, -np.inf)
    # Adding zero turns the -0.0 of a negated zero back into 0.0.
    return best * sign + 0.0, np.isfinite(best)


def _newest(feature: Windowed, bucket: Bucket, frame: Frame) -> tuple[Floats, Bools]:
    data, timeline = bucket.column(feature), bucket.timeline
    newest = newest_positions(timeline, data.valid)
    present = newest >= frame.start
    place = newest[present]
    values = np.zeros(len(newest))
    if AGGREGATES[feature.aggregate].finish == "value":
        values[present] = data.values[place]
    else:
        values[present] = (timeline.questions.at[present] - timeline.event_at[place]) / 1e6
    return values, present


def _upto(values: Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(values)))
