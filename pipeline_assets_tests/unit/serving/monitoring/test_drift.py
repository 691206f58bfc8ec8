"""Drift: histograms equal counting by hand, and the index says what it should."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.serving.monitoring.drift import Bins, histograms, measure, psi, reference

START = datetime(2013, 5, 1, tzinfo=UTC)
VALUES = st.lists(st.one_of(st.none(), st.floats(-5, 5, allow_nan=False), st.integers(-5, 5).map(float)), max_size=40)


def _rows(values: list[float | None], hours: int = 7) -> pa.Table:
    """A table of `values`, one row every `hours`."""
    times = [START + position * timedelta(hours=hours) for position in range(len(values))]
    return pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "x": pa.array(values, pa.float64())})


def _count(values: list[float | None], edges: tuple[float, ...]) -> list[int]:
    """Bin counts by the definition: the first bin whose edge the value does not exceed; nulls last."""
    counts = [0] * (len(edges) + 2)
    for value in values:
        counts[-1 if value is None else sum(value > edge for edge in edges)] += 1
    return counts


@settings(deadline=None, max_examples=60)
@given(values=VALUES, edges=st.sets(st.integers(-5, 5).map(float), max_size=4))
def test_histograms_equal_counting_by_hand(values: list[float | None], edges: set[float]) -> None:
    """For any values, nulls and ties at the edges included, each UTC day has the counts that the definition gives."""
    bins = Bins(column="x", edges=tuple(sorted(edges)))
    expected: dict[date, list[float | None]] = {}
    for position, value in enumerate(values):
        expected.setdefault((START + position * timedelta(hours=7)).date(), []).append(value)

    days, counts = histograms(_rows(values), [bins], "at")

    assert days == sorted(expected)
    assert [list(row) for row in counts[0]] == [_count(expected[day], bins.edges) for day in days]


def test_equal_shares_have_no_drift_and_moved_ones_have() -> None:
    """The index is 0 for equal shares, positive for others, and finite where a bin is empty."""
    shares = np.array([0.5, 0.5, 0.0])

    assert psi(np.array([10, 10, 0]), shares) == pytest.approx(0)
    assert 0.8 < psi(np.array([18, 2, 0]), shares) < 0.95
    assert np.isfinite(psi(np.array([0, 0, 20]), shares))


def test_a_feature_that_is_large_on_every_day_of_the_reference_has_not_drifted() -> None:
    """A column that is constant within a day is held against what its own reference days show, and still drifts when it leaves them."""
    slow = _rows([float(position // 24 % 5) for position in range(24 * 60)], hours=1)
    against = reference(slow, ["x"], "at", bins=5, max_psi=0.25)

    inside = measure(_rows([3.0] * 24, hours=1), against, "at")
    outside = measure(_rows([None] * 24, hours=1), against, "at")

    assert against.limits[0] > 0.25
    assert [one.is_drifted for one in inside] == [False]
    assert [(one.is_drifted, one.null_share) for one in outside] == [(True, 1.0)]


def test_a_column_of_nulls_and_a_constant_column_have_a_reference() -> None:
    """Columns without anything to cut have few bins, and no error."""
    rows = _rows([None] * 30).append_column("y", pa.array([1.0] * 30))
    against = reference(rows, ["x", "y"], "at", bins=10, max_psi=0.25)

    assert [bins.edges for bins in against.bins] == [(), (1.0,)]
    assert not any(one.is_drifted for one in measure(rows, against, "at"))
