"""Sums without rounding: what goes in as numbers comes out as their exact sum, rounded once."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.processing.features.exact import Digits, digits, rounded, sample_variance, squares

NUMBERS = st.one_of(
    st.floats(-1e100, 1e100, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-100),
    st.sampled_from([0.1, 0.2, 0.3, 1e16, -1e16, 5e-324, 1.0]),
)
WHOLE = st.one_of(st.integers(-10, 10), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**53, 2**53 + 1, -(2**63)]))


def added(number: Digits) -> Digits:
    """All rows added up, in one row."""
    return Digits(exponent=number.exponent, columns=tuple(column.sum(keepdims=True) for column in number.columns))


def total(number: Digits) -> float:
    """The sum of all rows, rounded."""
    return float(rounded(added(number))[0])


@settings(max_examples=300)
@given(st.lists(NUMBERS, min_size=1, max_size=30))
def test_a_sum_of_floats_is_exact_and_rounded_once(values: list[float]) -> None:
    """The sum is that of `math.fsum`, whatever the order and the range of the numbers."""
    assert total(digits(np.array(values))) == math.fsum(values)
    assert total(digits(np.array(values[::-1]))) == math.fsum(values)


@settings(max_examples=300)
@given(st.lists(WHOLE, min_size=1, max_size=30))
def test_a_sum_of_integers_is_exact_and_rounded_once(values: list[int]) -> None:
    """Integers of 64 bits add up beyond 64 bits, and are rounded as Python rounds them."""
    assert total(digits(np.array(values, np.int64))) == float(sum(values))
    assert total(squares(np.array(values, np.int64))) == float(sum(value * value for value in values))


@settings(max_examples=200)
@given(st.lists(NUMBERS.filter(lambda value: value != 5e-324), min_size=1, max_size=12))
def test_a_variance_is_exact_until_it_is_divided(values: list[float]) -> None:
    """The numerator n·Σx² − (Σx)² is that of exact fractions; no digit is lost to cancellation."""
    column, count = np.array(values), len(values)
    found = sample_variance(np.array([count]), added(digits(column)), added(squares(column)))[0]
    exact = [Fraction(value) for value in values]
    numerator = count * sum(value * value for value in exact) - sum(exact, Fraction(0)) ** 2

    assert found == (float(numerator) / (count * (count - 1)) if count > 1 else 0.0)


def test_small_numbers_need_one_column() -> None:
    """Delays in minutes, and halves, are added as plain integers."""
    assert len(digits(np.arange(1000)).columns) == 1
    assert len(squares(np.arange(1000)).columns) == 1
    assert len(digits(np.array([0.5, 2.25, -8.0])).columns) == 1


def test_decimals_need_three_columns() -> None:
    """A year of hourly readings with decimals, which no float holds exactly, needs three digits of 24 bits."""
    assert len(digits(np.tile([1013.4, 1012.9, 998.1], 3_000)).columns) == 3


def test_a_sum_beyond_the_range_of_floats_is_infinite() -> None:
    """What no float can hold comes out as infinite, for the check of the features to tell, and not as an error on the way."""
    assert total(digits(np.array([1.7e308, 1.7e308]))) == math.inf


@pytest.mark.parametrize("values", [np.array([], np.float64), np.array([], np.int64), np.zeros(3), np.zeros(3, np.int64)])
def test_nothing_adds_up_to_zero(values: np.ndarray) -> None:
    """No numbers, or zeros, give zero."""
    assert total(digits(values)) == 0.0
    assert total(squares(values)) == 0.0
