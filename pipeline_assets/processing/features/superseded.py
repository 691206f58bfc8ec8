"""Rows that were superseded while they could be asked about: each counts from its visibility until the next version of it was known.

Sums need none of this: they add such a row, and subtract it from when it was superseded (`timeline.weight`). The newest row and the
greatest value can not be subtracted. Here the rows are intervals of the marks of a clock, and a question looks for those that hold its
own: a segment tree over the moments at which one begins or ends (Bentley, 1977), filled for all rows and asked for all questions
together. Rows that nothing superseded are in none of it.
"""

from collections.abc import Iterator

import numpy as np

from pipeline_assets.processing.features.columns import Bools, Floats, Ints
from pipeline_assets.processing.features.timeline import Superseded

NOTHING = -1


def newest_superseded(rows: Superseded, valid: Bools | None) -> Ints:
    """For each question the last position that counts then, NOTHING where there is none; with `valid` (per position) of those alone."""
    tree = np.full(2 * rows.size, NOTHING, np.int64)
    chosen = np.arange(len(rows.positions)) if valid is None else np.flatnonzero(valid[rows.positions])
    for node, row in _levels(rows, chosen):
        np.maximum.at(tree, node, rows.positions[row])
    width = 1
    while width < rows.size:
        tree[2 * width : 4 * width] = np.maximum(tree[2 * width : 4 * width], np.repeat(tree[width : 2 * width], 2))
        width *= 2
    return np.where(rows.asked >= 0, tree[rows.size + np.maximum(rows.asked, 0)], NOTHING)


def greatest_superseded(rows: Superseded, start: Ints, values: Floats, valid: Bools) -> Floats:
    """The greatest valid value from position `start` on that counts at each question; −inf where there is none."""
    best = np.full(len(start), -np.inf)
    asked = np.flatnonzero(newest_superseded(rows, valid) >= start)
    if len(asked) == 0:
        return best
    ranked, place = np.unique(values[rows.positions], return_inverse=True)
    room = int(rows.positions[-1]) + 1
    first, leaf, found = np.minimum(start[asked], room - 1), rows.size + rows.asked[asked], np.full(len(asked), NOTHING, np.int64)
    for level, (nodes, covered) in enumerate(_levels(rows, np.flatnonzero(valid[rows.positions]))):
        keys = nodes * room + rows.positions[covered]
        sort = np.argsort(keys)
        at = np.searchsorted(keys, (leaf >> level) * room + first, sorter=sort)
        node = nodes[sort]
        is_there = np.flatnonzero(np.append(node, NOTHING)[at] == leaf >> level)
        found[is_there] = np.maximum(found[is_there], _greatest_after(node, place[covered[sort]])[at[is_there]])
    best[asked] = np.where(found >= 0, ranked[np.maximum(found, 0)], -np.inf)
    return best


def _greatest_after(node: Ints, values: Ints) -> Ints:
    """The greatest of the values of the same node (sorted) from each place on; values are from 0 upwards."""
    node, values = node[::-1], values[::-1]
    lift = np.cumsum(np.append([False], node[1:] != node[:-1])[: len(node)]) * (int(values.max(initial=0)) + 1)
    greatest: Ints = (np.maximum.accumulate(values + lift) - lift)[::-1]
    return greatest


def _levels(rows: Superseded, chosen: Ints) -> Iterator[tuple[Ints, Ints]]:
    """The nodes that together cover the interval of each chosen row, level by level from the leaves, and the row of each."""
    left, right = rows.begin[chosen] + rows.size, rows.end[chosen] + rows.size
    while len(chosen):
        begins, ends = left & 1 == 1, right & 1 == 1
        yield np.concatenate((left[begins], right[ends] - 1)), np.concatenate((chosen[begins], chosen[ends]))
        left, right = (left + 1) >> 1, right >> 1
        alive = left < right
        chosen, left, right = chosen[alive], left[alive], right[alive]
