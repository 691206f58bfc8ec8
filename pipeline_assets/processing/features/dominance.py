"""Questions of two orders at once: which rows of a range in one order come early in the other?

Rows that become known late are early by event time and late by visibility, so no single sorted order has a window's rows side by side.
This is a wavelet tree (Grossi, Gupta, Vitter, 2003), built and asked one level at a time for all queries together: log2(rows) passes over
the arrays, memory for one level. The kernel asks it only about rows for which sorting alone does not do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_assets.processing.features.columns import Ints


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Each query asks for the rows in [left, right) whose rank is below `first`; a range stays within one group."""

    left: Ints
    right: Ints
    first: Ints


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Rows `order[left:right]` answer the queries `asked`; all blocks of a query together are its answer, each row once.

    Rows of one group and one value of `node` lie side by side in `order`, in their first order.
    """

    order: Ints
    node: Ints
    asked: Ints
    left: Ints
    right: Ints


def early_rows(rank: Ints, queries: Queries) -> Iterator[Blocks]:
    """The rows that answer each query, as ranges of one arrangement of the rows per level.

    rank: the place of each row within its group by the second order, from 0; rows lie group by group in the first order.
    """
    asked = np.flatnonzero((queries.left < queries.right) & (queries.first > 0))
    if len(asked) == 0:
        return
    order, left, right, first = np.arange(len(rank)), queries.left[asked], queries.right[asked], queries.first[asked]
    for level in reversed(range(max(int(rank.max()), int(first.max())).bit_length())):
        high = (rank[order] >> level) & 1 == 1
        lows = np.concatenate(([0], np.cumsum(~high)))
        order = np.concatenate((order[~high], order[high]))
        takes = (first >> level) & 1 == 1
        yield Blocks(order=order, node=rank[order] >> level, asked=asked[takes], left=lows[left[takes]], right=lows[right[takes]])
        left, right = (np.where(takes, lows[-1] + side - lows[side], lows[side]) for side in (left, right))
        alive = left < right
        asked, left, right, first = asked[alive], left[alive], right[alive], first[alive]


def early_sums(rank: Ints, queries: Queries, columns: Sequence[Ints]) -> list[Ints]:
    """The sum of each column over the rows that answer each query; 0 where none does."""
    sums = [np.zeros(len(queries.left), np.int64) for _ in columns]
    for blocks in early_rows(rank, queries):
        for total, column in zip(sums, columns, strict=True):
            upto = np.concatenate(([0], np.cumsum(column[blocks.order])))
            total[blocks.asked] += upto[blocks.right] - upto[blocks.left]
    return sums


def early_maxima(rank: Ints, group: Ints, queries: Queries, values: Ints) -> Ints:
    """The greatest value over the rows that answer each query; -1 where none does.

    values: from 0 upwards. group: the group of each row. Every query's range reaches to the end of its group.
    """
    best = np.full(len(queries.left), -1, np.int64)
    step = int(values.max(initial=0)) + 1
    for blocks in early_rows(rank, queries):
        groups = group[blocks.order][::-1]
        nodes = blocks.node[::-1]
        starts = np.concatenate(([False], (groups[1:] != groups[:-1]) | (nodes[1:] != nodes[:-1])))
        lift = np.cumsum(starts) * step
        greatest = (np.maximum.accumulate(values[blocks.order][::-1] + lift) - lift)[::-1]
        filled = blocks.left < blocks.right
        asked = blocks.asked[filled]
        best[asked] = np.maximum(best[asked], greatest[blocks.left[filled]])
    return best
