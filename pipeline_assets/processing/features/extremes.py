"""The least and the greatest value of windows: range maxima where sorting puts a window side by side, a wavelet tree for the late rest."""

from dataclasses import dataclass

import numpy as np

from pipeline_assets.processing.features.columns import Bools, Floats, Ints
from pipeline_assets.processing.features.dominance import Queries, early_maxima
from pipeline_assets.processing.features.timeline import Timeline


@dataclass(frozen=True, kw_only=True)
class Split:
    """Positions whose visibility never decreases within a key (`steady`), and the others, overtaken by later events or overtaking them.

    Of the events that count; the others are neither.
    """

    steady: Ints
    steady_before: Ints
    steady_seen: Ints
    late: Ints
    late_before: Ints
    late_rank: Ints
    late_seen: Ints


def split_by_lateness(timeline: Timeline, counts: Bools | None = None) -> Split:
    """Steady and late positions, of those that count (None: all).

    before: how many lie before each position. seen: how many each question sees, those of lower keys included. late_rank: the place of each
    late position by visibility, within its key.
    """
    is_steady = _steady(timeline, counts)
    is_late = ~is_steady if counts is None else ~is_steady & counts
    late = np.flatnonzero(is_late)
    seen_late = timeline.in_visible_order(is_late)
    overall = np.empty(len(is_steady), np.int64)
    overall[timeline.by_visibility[seen_late]] = np.arange(len(late))
    late_before = _counts(is_late)
    first = late_before[timeline.key_bounds[timeline.code[late]]]
    return Split(
        steady=np.flatnonzero(is_steady),
        steady_before=_counts(is_steady),
        steady_seen=_counts(timeline.in_visible_order(is_steady))[timeline.seen],
        late=late,
        late_before=late_before,
        late_rank=overall[late] - first,
        late_seen=_counts(seen_late)[timeline.seen],
    )


def greatest(timeline: Timeline, split: Split, start: Ints, values: Floats, valid: Bools) -> Floats:
    """The greatest valid value from position `start` on that each question sees; −inf where there is none."""
    best = range_maxima(np.where(valid, values, -np.inf)[split.steady], split.steady_before[start], split.steady_seen)
    counted = split.late[valid[split.late]]
    if len(counted) == 0:
        return best
    ranked, place = np.unique(values[split.late], return_inverse=True)
    code = np.where(valid[split.late], place + 1, 0)
    first = split.late_before[timeline.key_start]
    queries = Queries(left=split.late_before[start], right=split.late_before[timeline.key_end], first=split.late_seen - first)
    found = early_maxima(split.late_rank, timeline.code[split.late], queries, code)
    return np.maximum(best, np.where(found > 0, ranked[np.maximum(found - 1, 0)], -np.inf))


def range_maxima(values: Floats, left: Ints, right: Ints) -> Floats:
    """The greatest of values[left:right] for each pair, −inf where that is empty; n·log2(longest) steps, memory for n numbers."""
    best = np.full(len(left), -np.inf)
    length = np.maximum(right - left, 0)
    level = np.frexp(length.astype(np.float64))[1] - 1
    for doubling in range(int(level.max(initial=-1)) + 1):
        if doubling:
            half = 1 << (doubling - 1)
            values = np.maximum(values[:-half], values[half:])
        asked = np.flatnonzero(level == doubling)
        best[asked] = np.maximum(values[left[asked]], values[right[asked] - (1 << doubling)])
    return best


def _steady(timeline: Timeline, counts: Bools | None) -> Bools:
    """Of the two greedy ways to drop positions until visibility never decreases, the one that drops fewer."""
    if timeline.visible_order is None and counts is None:
        return np.ones(len(timeline.rows), np.bool_)
    marks = timeline.clock.mark(timeline.code, timeline.visible_at)
    if counts is None:
        return _never_decreasing(marks)
    steady = counts.copy()
    steady[counts] = _never_decreasing(marks[counts])
    return steady


def _never_decreasing(marks: Ints) -> Bools:
    never_overtaken = marks <= np.minimum.accumulate(marks[::-1])[::-1]
    never_overtaking = marks >= np.maximum.accumulate(marks)
    return never_overtaken if never_overtaken.sum() >= never_overtaking.sum() else never_overtaking


def _counts(chosen: Bools) -> Ints:
    return np.concatenate(([0], np.cumsum(chosen)))
