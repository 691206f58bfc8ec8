"""Bins of numbers: heaps of equal values are alone, and what lies beside them is cut by exact frequencies, without a direction."""

from collections import Counter
from fractions import Fraction
from itertools import groupby
from math import inf, nan

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline_assets.serving.monitoring.bins import Bins, cut, labels

NUMBERS = st.one_of(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 7.0]), st.integers(-9, 9).map(float), st.floats(-5, 5, allow_nan=False))
COLUMNS = st.lists(NUMBERS, min_size=1, max_size=60)
BINS = st.integers(2, 12)


def _cut(values: list[float], bins: int) -> Bins:
    return cut(_column(values), "x", bins)


def _column(values: list[float] | list[float | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.float64())])


def _together(values: list[float], bins: int) -> list[list[float]]:
    """The different values in groups of one bin each, by the definition: heaps alone, the others by the middle of their exact rank."""
    counts, heaps = Counter(sorted(values)), _heaps(values, bins)
    groups = []
    for is_heap, run in groupby(counts, key=heaps.__contains__):
        own = list(run)
        groups += [[value] for value in own] if is_heap else _of_run({value: counts[value] for value in own}, len(values), bins)
    return groups


def _heaps(values: list[float], bins: int) -> set[float]:
    """The numbers that come at least twice and hold a bin's share, or are among few different ones."""
    counts = Counter(values)
    shares = {value: Fraction(count, len(values)) for value, count in counts.items() if count > 1}
    return {value for value, share in shares.items() if share >= Fraction(1, bins) or len(counts) <= bins}


def _with_heap(values: list[float], bins: int) -> list[float]:
    """The numbers, with as many more of the first where none is a heap yet: to leave such columns out would leave out most."""
    return values if _heaps(values, bins) else [*values, *values[:1] * len(values)]


def _of_run(counts: dict[float, int], rows: int, bins: int) -> list[list[float]]:
    total = sum(counts.values())
    parts = max(1, int(Fraction(total * bins, rows) + Fraction(1, 2)))
    labels = {}
    for value, count in counts.items():
        middle = Fraction(sum(other for each, other in counts.items() if each < value) * 2 + count, 2 * total) * parts
        # Exactly between two parts: the outer one; exactly in the middle of the run: alone.
        is_between, from_middle = middle.denominator == 1, middle - Fraction(parts, 2)
        labels[value] = Fraction(parts, 2) if is_between and not from_middle else Fraction(middle // 1) + Fraction(1, 2)
        if is_between and from_middle < 0:
            labels[value] -= 1
    return [list(group) for _, group in groupby(counts, key=labels.__getitem__)]


@settings(max_examples=100)
@given(values=COLUMNS, bins=BINS)
# Regression: between these two there is no float half way, so that the lower one fell into a bin of its own.
@example(values=[-2.0, -2.0, -1.0, -0.0, 1.0, 5e-324], bins=3)
def test_numbers_share_a_bin_exactly_where_the_definition_says(values: list[float], bins: int) -> None:
    """For any numbers with a heap, ties included, the bins are those that exact frequencies give, in the order of the numbers."""
    values = _with_heap(values, bins)
    found = _cut(values, bins)
    expected = _together(values, bins)

    places = [set(found.places(_column(group)).tolist()) for group in expected]

    assert [len(each) for each in places] == [1] * len(expected)
    assert len(set.union(*places)) == len(expected)
    assert sorted(places, key=min) == places


@settings(max_examples=100)
@given(values=COLUMNS, others=COLUMNS, bins=BINS)
def test_negated_numbers_have_the_mirrored_bins(values: list[float], others: list[float], bins: int) -> None:
    """Any number, seen in the reference or not, lies as far from the first bin as its negation from the last one of the negated bins."""
    values = _with_heap(values, bins)
    found, mirrored = _cut(values, bins), _cut([-value for value in values], bins)
    # Half way between two numbers is where a rule with a preferred direction would show.
    asked = [*values, *others, *((one + two) / 2 for one, two in zip(sorted(values), sorted(values)[1:], strict=False))]

    places = found.places(_column(asked))

    assert found.count == mirrored.count
    assert (found.count - 1 - mirrored.places(_column([-value for value in asked]))).tolist() == places.tolist()


@pytest.mark.parametrize(
    ("counts", "bins", "expected"),
    [
        ([1, 1, 1, 1], 2, [-1, -1, 1, 1]),
        ([1, 1, 1], 2, [-1, 0, 1]),
        ([1, 1, 1], 3, [-1, 0, 1]),
        ([2, 1, 1], 2, [-1, 1, 1]),
        ([1, 2, 1], 4, [-2, 0, 2]),
        ([1] * 6, 4, [-2, -2, -1, 1, 2, 2]),
    ],
)
def test_parts_of_a_run_are_counted_from_its_middle(counts: list[int], bins: int, expected: list[int]) -> None:
    """What lies exactly between two parts belongs to the outer one, and exactly in the middle of an even number of parts is alone."""
    assert labels(np.array(counts), bins).tolist() == expected


@settings(max_examples=80)
@given(values=COLUMNS, others=COLUMNS, bins=BINS)
def test_no_other_number_shares_the_bin_of_a_heap(values: list[float], others: list[float], bins: int) -> None:
    """A number that holds a bin's share, or is one of few, is alone in its bin, whatever comes later."""
    heaps, found = _heaps(values, bins), _cut(values, bins)

    of_heaps = found.places(_column(sorted(heaps)))
    of_others = found.places(_column([value for value in [*values, *others, -inf, inf, nan] if value not in heaps]))

    assert len(set(of_heaps.tolist())) == len(heaps)
    assert not set(of_heaps.tolist()) & set(of_others.tolist())


def test_different_numbers_have_bins_of_equal_frequency() -> None:
    """Without repeats every bin holds as many numbers as the others."""
    values = np.random.default_rng(1).normal(size=5000).tolist()

    found = _cut(values, 10)

    assert np.bincount(found.places(_column(values))).tolist() == pytest.approx([500] * 10, abs=1)


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([None, nan, inf], ()),
        ([5.0] * 30, (np.nextafter(5.0, -inf), 5.0)),
        ([0.0] * 10 + [1.0] * 10, (np.nextafter(0.0, -inf), 0.0, np.nextafter(1.0, -inf), 1.0)),
        ([1.0, 2.0, 3.0, 4.0], (3.0,)),
        ([0.0] * 8 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], (np.nextafter(0.0, -inf), 0.0)),
    ],
    ids=["no number", "constant", "flag", "no heap", "heap and the rest"],
)
def test_edges_of_small_columns(values: list[float | None], edges: tuple[float, ...]) -> None:
    """Two bins asked for: below, at and above a constant or a heap; both values of a flag; a plain quantile where there is no heap."""
    assert cut(_column(values), "x", 2) == Bins(column="x", edges=edges)
