"""The greatest value of the ranges that hold a place, asked of random ranges and held against looking."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.processing.features.extremes import greatest_covering

RANGES = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70), st.integers(-9, 9)))


@settings(max_examples=100)
@given(count=st.integers(0, 70), ranges=RANGES)
def test_the_greatest_covering_value_is_that_which_looking_finds(count: int, ranges: list[tuple[int, int, int]]) -> None:
    """Ranges of every length, empty ones, and ones that end before they begin: numbers and positions alike."""
    kept = [(min(first, count), min(end, count), value) for first, end, value in ranges]
    first, end, values = (np.array([one[side] for one in kept], np.int64) for side in range(3))
    expected = [max((value for left, right, value in kept if left <= place < right), default=-10) for place in range(count)]

    assert greatest_covering(first, end, values, count, -10).tolist() == expected
    assert greatest_covering(first, end, values.astype(np.float64), count, -10.0).tolist() == expected
