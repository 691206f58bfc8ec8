"""Questions of two orders: which rows of a range come early in another order, asked of random tables and held against looking."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.processing.features.dominance import Queries, early_maxima, early_rows, early_sums
from pipeline_assets.processing.features.extremes import range_maxima


def grouped(seed: int, groups: int) -> tuple[np.ndarray, np.ndarray, Queries]:
    """Rows group by group, their rank by a second order, and queries that reach to the end of a group."""
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 40, groups)
    group = np.repeat(np.arange(groups), sizes)
    rank = np.concatenate([random.permutation(size) for size in sizes] or [np.zeros(0, np.int64)])
    asked = random.integers(0, groups, 50)
    ends = np.cumsum(sizes)
    left = ends[asked] - np.minimum(random.integers(0, 41, 50), sizes[asked])
    return group, rank.astype(np.int64), Queries(left=left, right=ends[asked], first=random.integers(0, 42, 50))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 6))
def test_early_rows_are_those_that_looking_finds(seed: int, groups: int) -> None:
    """Every row of the range with a lower rank answers once: rows, sums and greatest values are those of a loop."""
    group, rank, queries = grouped(seed, groups)
    values = np.random.default_rng(seed).integers(0, 9, len(rank))
    spans = zip(queries.left, queries.right, queries.first, strict=True)
    expected = [[row for row in range(left, right) if rank[row] < first] for left, right, first in spans]
    found: list[list[int]] = [[] for _ in expected]
    for blocks in early_rows(rank, queries):
        for asked, left, right in zip(blocks.asked, blocks.left, blocks.right, strict=True):
            found[asked] += blocks.order[left:right].tolist()

    assert [sorted(rows) for rows in found] == expected
    assert early_sums(rank, queries, [values])[0].tolist() == [int(values[rows].sum()) for rows in expected]
    assert early_maxima(rank, group, queries, values).tolist() == [int(values[rows].max()) if rows else -1 for rows in expected]


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(-9, 9), min_size=1, max_size=70), bounds=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70))))
def test_range_maxima_are_those_that_looking_finds(values: list[int], bounds: list[tuple[int, int]]) -> None:
    """The greatest value of each range; minus infinity for an empty one, or one whose end is before its start."""
    ranges = [(min(left, len(values)), min(right, len(values))) for left, right in bounds]
    left, right = (np.array([one[side] for one in ranges], np.int64) for side in (0, 1))
    expected = [float(max(values[first:last], default=-np.inf)) for first, last in ranges]

    assert range_maxima(np.array(values, np.float64), left, right).tolist() == expected
