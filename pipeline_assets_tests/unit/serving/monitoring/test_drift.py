"""Drift: histograms equal counting by hand, and the index says what it should."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.serving.monitoring.bins import Bins
from pipeline_assets.serving.monitoring.drift import Categories, Drift, Reference, by_weeks, histograms, measure, psi, reference

START = datetime(2013, 5, 1, tzinfo=UTC)
VALUES = st.lists(st.one_of(st.none(), st.floats(-5, 5, allow_nan=False), st.integers(-5, 5).map(float)), max_size=40)


def _rows(values: list[float | None], hours: int = 7) -> pa.Table:
    """A table of `values`, one row every `hours`."""
    times = [START + position * timedelta(hours=hours) for position in range(len(values))]
    return pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "x": pa.array(values, pa.float64())})


def _reference(rows: pa.Table, columns: list[str], bins: int) -> Reference:
    return reference(rows, columns, "at", bins=bins, max_psi=0.25)


def _count(values: list[float | None], edges: tuple[float, ...]) -> list[int]:
    """Bin counts by the definition: the first bin whose edge the value does not exceed; nulls last."""
    counts = [0] * (len(edges) + 2)
    for value in values:
        counts[-1 if value is None else sum(value > edge for edge in edges)] += 1
    return counts


@settings(max_examples=60)
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
    against = _reference(slow, ["x"], 5)

    inside = measure(_rows([3.0] * 24, hours=1), against, "at")
    outside = measure(_rows([None] * 24, hours=1), against, "at")

    assert against.limits[0] > 0.25
    assert [one.is_drifted for one in inside] == [False]
    assert [(one.is_drifted, one.null_share) for one in outside] == [(True, 1.0)]


def test_a_column_of_nulls_and_a_constant_column_have_a_reference() -> None:
    """Columns without anything to cut have few bins, and no error: none, or below, at and above the constant."""
    rows = _rows([None] * 30).append_column("y", pa.array([1.0] * 30))
    against = _reference(rows, ["x", "y"], 10)

    assert against.bins == (Bins(column="x", edges=()), Bins(column="y", edges=(np.nextafter(1.0, 0.0), 1.0)))
    assert not any(one.is_drifted for one in measure(rows, against, "at"))


def _mixed(share: float, low: list[float], high: float, seed: int) -> list[float]:
    """4,000 values, `share` of them `high` and the others drawn from `low`."""
    generator = np.random.default_rng(seed)
    values: list[float] = np.where(generator.random(4000) < share, high, generator.choice(low, 4000)).tolist()
    return values


RATES = np.random.default_rng(4).random(500).tolist()
HEAPS = {
    "flag": (_mixed(0.95, [0.0], 1.0, 1), [0.0] * 200),
    "constant that falls": ([1.0] * 2000, [0.0] * 200),
    "constant that moves by one bit": ([1.0] * 2000, [float(np.nextafter(1.0, 0.0))] * 200),
    "rate": (_mixed(0.93, RATES, 1.0, 2), [0.5] * 200),
    "category": (_mixed(0.92, [0.0, 1.0, 2.0, 3.0], 4.0, 3), [0.0] * 200),
    "two heaps, and then what lies between": (_mixed(0.5, [0.0], 1.0, 5), [0.5] * 200),
    "heap in the middle": (_mixed(0.92, [-1.0, 1.0], 0.0, 6), [1.0] * 200),
    "nulls, and then none": ([None, 2.0, None, None] * 500, [2.0] * 200),
}


@pytest.mark.parametrize(("before", "after"), HEAPS.values(), ids=HEAPS)
@pytest.mark.parametrize("sign", [1, -1], ids=["as it is", "mirrored"])
def test_a_world_that_turns_over_drifts_where_values_heap_up(before: list[float | None], after: list[float | None], sign: int) -> None:
    """Regression: with most of the reference at its greatest value all others shared its bin, and the index was 0 when they came."""
    rows = [_rows(_signed(values, sign), hours=1) for values in (before, after)]
    against = _reference(rows[0], ["x"], 10)

    assert all(one.is_drifted for one in measure(rows[1], against, "at"))


@pytest.mark.parametrize(("before", "after"), HEAPS.values(), ids=HEAPS)
def test_negated_heaps_drift_as_much(before: list[float | None], after: list[float | None]) -> None:
    """Index and limit are those of the negated values, whichever end the heap lies at."""
    days = [*after[:100], *before[:100]]
    found, mirrored = (measure(_rows(_signed(days, sign)), _reference(_rows(_signed(before, sign)), ["x"], 10), "at") for sign in (1, -1))

    assert [one.psi for one in found] == pytest.approx([one.psi for one in mirrored])
    assert [one.limit for one in found] == pytest.approx([one.limit for one in mirrored])


def _signed(values: list[float | None], sign: int) -> list[float | None]:
    return [None if value is None else sign * value for value in values]


def _texts(*texts: str | None) -> pa.Table:
    times = [START + position * timedelta(minutes=1) for position in range(len(texts))]
    return pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "x": pa.array(texts, pa.string())})


def test_text_has_a_bin_per_category_one_for_the_rest_and_one_for_null() -> None:
    """Categories are counted in their order, whatever else occurs comes after them, and nulls are last."""
    _, (counts,) = histograms(_texts("b", "a", None, "z", "b", "y"), [Categories(column="x", values=("a", "b", "c"))], "at")

    assert counts.tolist() == [[1, 2, 0, 2, 1]]


def test_text_drifts_when_its_categories_change() -> None:
    """The same shares have no drift; another category, and one that was never seen, have."""
    against = reference(_texts(*"aaab" * 50), ["x"], "at", bins=10, max_psi=0.25, categories={"x": ("a", "b")})
    found = [measure(_texts(*texts), against, "at")[0].is_drifted for texts in ("aaab" * 9, "bbba" * 9, "zzzz" * 9)]

    assert found == [False, True, True]


def _weekdays(first: date, days: int, only: set[int] | None = None) -> pa.Table:
    """Twenty rows on each day from `first` on, with the day of the week (Monday 1); of some days of the week only."""
    chosen = [first + timedelta(days=day) for day in range(days) if only is None or (first + timedelta(days=day)).isoweekday() in only]
    times = [datetime.combine(day, datetime.min.time(), UTC) for day in chosen for _ in range(20)]
    return pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "weekday": [time.isoweekday() for time in times]})


def test_what_follows_the_days_of_the_week_is_judged_by_weeks() -> None:
    """Regression: one value a day is as far from the reference on each day, so that a world without weekends would not be seen."""
    before = _weekdays(date(2013, 3, 4), 56)
    against = reference(before, ["weekday"], "at", bins=10, max_psi=0.25, weekly=["weekday"])
    first = date(2013, 5, 6)

    def found(only: set[int] | None) -> list[bool]:
        weeks = _weekdays(first - timedelta(days=6), 13, only)
        return [one.is_drifted for one in measure(_weekdays(first, 7, only), against, "at", weeks)]

    assert against.limits == (0.25,)
    assert found(None) == [False] * 7
    assert found({1, 2, 3, 4, 5}) == [True] * 5


def test_a_day_without_a_week_before_it_is_not_judged_by_weeks() -> None:
    """Other columns of these days are judged all the same."""
    rows, before = (_weekdays(first, days) for first, days in ((date(2013, 3, 4), 9), (date(2013, 1, 7), 28)))
    rows, before = (table.append_column("x", table["weekday"]) for table in (rows, before))
    against = reference(before, ["weekday", "x"], "at", bins=10, max_psi=0.25, weekly=["weekday"])

    found = [(one.day.day, one.column) for one in measure(rows, against, "at")]

    assert [day for day, column in found if column == "weekday"] == [10, 11, 12]
    assert [day for day, column in found if column == "x"] == [*range(4, 13)]


@settings(max_examples=60)
@given(offsets=st.sets(st.integers(0, 25), min_size=1), scored=st.sets(st.integers(0, 25)), start=st.integers(0, 25))
def test_a_day_is_judged_alike_in_whatever_range_it_is_measured(offsets: set[int], scored: set[int], start: int) -> None:
    """Regression: alone, a day without rows six days before was not judged by its week, and in a range it was, by other rows.

    Rows that were scored are some of all rows; weeks are of all rows.
    """
    origin, step = date(2013, 5, 1), timedelta(days=1)
    present = [origin + offset * step for offset in sorted(offsets)]
    against = reference(_weekdays(date(2013, 3, 4), 56), ["weekday"], "at", bins=10, max_psi=0.25, weekly=["weekday"])

    def rows(days: list[date]) -> pa.Table:
        return pa.concat_tables([_weekdays(day, 1) for day in days] or [_weekdays(origin, 0)])

    def measured(first: date, last: date) -> list[Drift]:
        known = [day for day in present if first <= day <= last and (day - origin).days in scored]
        weeks = [day for day in present if first - 6 * step <= day <= last]
        return measure(rows(known), against, "at", rows(weeks), present[0])

    last = origin + 25 * step
    alone = [one for offset in range(start, 26) for one in measured(origin + offset * step, origin + offset * step)]

    assert measured(origin + start * step, last) == alone
    whole = {day for day in present if day - present[0] >= 6 * step}
    assert {one.day for one in alone} == {origin + each * step for each in scored & offsets if each >= start} & whole


@settings(max_examples=60)
@given(offsets=st.sets(st.integers(0, 25), min_size=1), seed=st.integers(0, 9))
def test_weeks_are_the_sums_of_their_days(offsets: set[int], seed: int) -> None:
    """Also where days are missing; a week is whole if it begins no earlier than the first day."""
    days = [date(2013, 5, 1) + timedelta(days=offset) for offset in sorted(offsets)]
    counts = np.random.default_rng(seed).integers(0, 5, (len(days), 3))
    expected = [
        sum(counts[place] for place, other in enumerate(days) if timedelta(0) <= day - other < timedelta(days=7)).tolist()
        for day in days
        if day - days[0] >= timedelta(days=6)
    ]

    assert by_weeks(days, counts).tolist() == expected


def test_categories_by_their_positions_have_a_bin_each() -> None:
    """Regression: more categories than bins were cut as if they were quantities, and a category that took over was in the bin of another.

    A number that is no position is in the last bin, as a text is that is no category.
    """
    times = pa.array([START] * 6, pa.timestamp("us", "UTC"))
    rows = pa.table({"at": times, "x": pa.array([0, 29, None, 30, -1, 29], pa.int64())})
    bins = Categories(column="x", values=tuple(map(str, range(30))))

    _, (counts,) = histograms(rows, [bins], "at")

    assert {place: int(count) for place, count in enumerate(counts[0]) if count} == {0: 1, 29: 2, 30: 2, 31: 1}
