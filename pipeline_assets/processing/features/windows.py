"""Aggregates over time windows, from sorted positions and prefix sums: what is true of a window at t is written here.

A window w asked at t covers the events with floor_hop(t − w) <= event_at <= t, known_at <= t and t < superseded_at, where they have one.
Sums take a superseded event back from then on, as an event of the same time whose values are negative. With v = max(event_at, known_at) the
sum over a window is (all with v <= t) − (all with event_at < start) + (those with event_at < start and v > t). The first two are prefix
sums of two sorted orders; the third is empty unless a row became known more than w after it happened, and is then found by a wavelet tree.
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
from pipeline_assets.processing.features.dominance import Queries, early_sums
from pipeline_assets.processing.features.exact import Digits, digits, rounded, sample_variance, squares, whole
from pipeline_assets.processing.features.extremes import Split, greatest, split_by_lateness
from pipeline_assets.processing.features.hops import hop_of
from pipeline_assets.processing.features.superseded import greatest_superseded
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
            self._sums[measure] = prefix_sums(self.timeline, self._weighted(added))
        return self._sums[measure]

    def _weighted(self, added: Digits) -> Digits:
        """The numbers, negative where a position takes an event back."""
        if not self.timeline.has_superseded:
            return added
        return Digits(exponent=added.exponent, columns=tuple(column * self.timeline.weight for column in added.columns))

    @cached_property
    def split(self) -> Split:
        """Which positions sorting alone serves, for minimum and maximum."""
        return split_by_lateness(self.timeline)


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
class Unseen:
    """Positions that no question finds in a window: whoever sees one has its event before the start of the window.

    by_visibility: the same positions in that order. before: how many lie before the start of each window; seen: how many each question
    sees.
    """

    positions: Ints
    by_visibility: Ints
    before: Ints
    seen: Ints

    def sums(self, values: Ints) -> Ints:
        """The sum, for each question, over those before its window that it does not see: all before it, less all that it sees."""
        return _upto(values[self.positions])[self.before] - _upto(values[self.by_visibility])[self.seen]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One window at each question: its first position, and the rows that may be before it and not yet known.

    Of these the unseen are never in the window; only the others, known within a hop of leaving it, need a search.
    """

    timeline: Timeline
    start: Ints
    unseen: Unseen
    straddlers: Ints
    rank: Ints
    queries: Queries

    @cached_property
    def counts(self) -> Bools | None:
        """The positions that a window can hold for good: not superseded, and known before they left it; None where all are so."""
        if len(self.unseen.positions) == 0 and not self.timeline.has_superseded:
            return None
        counts = self.timeline.is_lasting.copy()
        counts[self.unseen.positions] = False
        return counts

    @cached_property
    def split(self) -> Split:
        """Which of the positions that count sorting alone serves, for minimum and maximum."""
        return split_by_lateness(self.timeline, self.counts)


def frame_of(timeline: Timeline, window: timedelta, hop: timedelta) -> Frame:
    """The window's frame. Straddlers became known more than the window after they happened: usually none."""
    start = timeline.positions_from(window_start(timeline.questions.at, window, hop))
    lateness = timeline.visible_at - timeline.event_at
    is_unseen = lateness >= (window + hop) // MICROSECOND
    is_straddler = (lateness > window // MICROSECOND) & ~is_unseen
    unseen = _unseen(timeline, is_unseen, start)
    straddlers = np.flatnonzero(is_straddler)
    if len(straddlers) == 0:
        none = Queries(left=start, right=start, first=start)
        return Frame(timeline=timeline, start=start, unseen=unseen, straddlers=straddlers, rank=straddlers, queries=none)
    before = _upto(is_straddler.astype(np.int64))
    by_visibility = timeline.by_visibility[timeline.in_visible_order(is_straddler)]
    key_end = before[timeline.key_bounds[timeline.code[by_visibility] + 1]]
    rank = np.empty(len(is_straddler), np.int64)
    rank[by_visibility] = key_end - 1 - np.arange(len(straddlers))
    seen = _upto(timeline.in_visible_order(is_straddler).astype(np.int64))[timeline.seen]
    # Earlier ones are known by now: they became so within a window and a hop.
    first = timeline.positions_from(timeline.questions.at - (window + hop) // MICROSECOND)
    queries = Queries(left=before[first], right=before[start], first=before[timeline.key_end] - seen)
    return Frame(timeline=timeline, start=start, unseen=unseen, straddlers=straddlers, rank=rank[straddlers], queries=queries)


def _unseen(timeline: Timeline, is_unseen: Bools, start: Ints) -> Unseen:
    positions = np.flatnonzero(is_unseen)
    if len(positions) == 0:
        return Unseen(positions=positions, by_visibility=positions, before=positions, seen=positions)
    visible = timeline.in_visible_order(is_unseen)
    return Unseen(
        positions=positions,
        by_visibility=timeline.by_visibility[visible],
        before=_upto(is_unseen.astype(np.int64))[start],
        seen=_upto(visible.astype(np.int64))[timeline.seen],
    )


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
    if len(frame.unseen.positions):
        columns = [values for prefix in sums.values() for values in prefix.values]
        totals = [total + frame.unseen.sums(values) for total, values in zip(totals, columns, strict=True)]
    if len(frame.straddlers):
        late = [values[frame.straddlers] for prefix in sums.values() for values in prefix.values]
        totals = [total + missed for total, missed in zip(totals, early_sums(frame.rank, frame.queries, late), strict=True)]
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
    values, timeline = data.values.astype(np.float64) * sign, bucket.timeline
    if frame.counts is None:
        best = greatest(timeline, bucket.split, frame.start, values, data.valid)
    else:
        best = greatest(timeline, frame.split, frame.start, values, data.valid & frame.counts)
    if timeline.has_superseded:
        best = np.maximum(best, greatest_superseded(timeline.superseded, frame.start, values, data.valid))
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
