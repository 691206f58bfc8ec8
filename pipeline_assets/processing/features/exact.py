"""Sums without rounding: numbers as columns of integer digits, which prefix sums add and subtract without any loss.

A window's sum found as the difference of two prefix sums loses bits to whatever came before the window, if floats are added. Here a column
is written as Σ digit_j · 2^(exponent + 24·j) with int64 digits, so every sum is exact and is rounded once, when it becomes a float: what
comes out depends on the window's values alone, not on their order, on older events, or on how the keys were split into buckets. See
docs/adr/0002-window-kernel.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_assets.processing.features.columns import Bools, Floats, Ints

WIDTH = 24
MASK = (1 << WIDTH) - 1
# Sums stay below 2^62, so that adding two of them cannot overflow.
ROOM = 62
# Enough bits for a float64 and two more, which is what rounding to odd needs to be right (Boldo and Melquiond, 2008).
KEPT = 62


@dataclass(frozen=True, kw_only=True)
class Digits:
    """One number per row: Σ columns[j] · 2^(exponent + 24·j). One column may hold any int64; of several, each adds up below 2^62."""

    exponent: int
    columns: tuple[Ints, ...]


def whole(values: Ints) -> Digits:
    """Small integers as they are."""
    return Digits(exponent=0, columns=(values,))


def digits(values: Ints | Floats) -> Digits:
    """The numbers, exactly; as many columns as their range of bits needs: one for most integers, three for most floats.

    Every value is finite. The sum of all rows in one column does not overflow.
    """
    exponent, bits = _bit_range(values)
    count = 1 if bits + len(values).bit_length() <= ROOM else -(-bits // WIDTH)
    return Digits(exponent=exponent, columns=_split(values, exponent, count))


def squares(values: Ints | Floats) -> Digits:
    """The squares of the numbers, exactly; its exponent is twice that of `digits` of the same values."""
    exponent, bits = _bit_range(values)
    if 2 * bits + len(values).bit_length() <= ROOM:
        column = digits(values).columns[0]
        return Digits(exponent=2 * exponent, columns=(column * column,))
    product = _convolve(_split(values, exponent, -(-bits // WIDTH)))
    return Digits(exponent=2 * exponent, columns=tuple(carried(product)))


def rounded(total: Digits) -> Floats:
    """The numbers as float64, each rounded once to the nearest, ties to even."""
    if len(total.columns) == 1:
        return _scaled(total.columns[0], total.exponent)
    negative, parts = _magnitude(total)
    length = _bit_length(parts)
    kept = np.zeros(len(length), np.int64)
    lost = np.zeros(len(length), np.bool_)
    for place, part in enumerate(parts):
        shift = place * WIDTH - (length - KEPT)
        kept |= np.where(shift >= 0, part << np.clip(shift, 0, KEPT), part >> np.clip(-shift, 0, KEPT))
        lost |= (part & ((np.int64(1) << np.clip(-shift, 0, KEPT)) - 1)) != 0
    # Rounding to odd: a lost bit below makes the last kept bit 1, so the conversion to float64 rounds as if it had seen them all.
    value = _scaled(kept | lost, length - KEPT + total.exponent)
    return np.where(negative, -value, value)


def sample_variance(count: Ints, sums: Digits, sums_of_squares: Digits) -> Floats:
    """(n·Σx² − (Σx)²) / (n·(n − 1)): the numerator exact and rounded once, the quotient rounded once; 0 where n < 2."""
    largest = int(count.max(initial=0))
    if _fits_one_column(largest, sums, sums_of_squares):
        numerator = Digits(
            exponent=sums_of_squares.exponent, columns=(count * sums_of_squares.columns[0] - sums.columns[0] * sums.columns[0],)
        )
    else:
        numerator = _numerator(count, sums, sums_of_squares)
    several = count > 1
    pairs = np.where(several, count * (count - 1), 1).astype(np.float64)
    return np.where(several, rounded(numerator) / pairs, 0.0)


def _scaled(values: Ints, exponent: int | Ints) -> Floats:
    """Values · 2^exponent; infinite beyond the range of float64, which the check of the features then reports."""
    with np.errstate(over="ignore"):
        return np.ldexp(values.astype(np.float64), exponent)


def _fits_one_column(largest: int, sums: Digits, sums_of_squares: Digits) -> bool:
    if len(sums.columns) > 1 or len(sums_of_squares.columns) > 1:
        return False
    # Cauchy–Schwarz: (Σx)² ≤ n·Σx², so one bound serves both terms.
    return largest * int(sums_of_squares.columns[0].max(initial=0)) < 1 << ROOM


def _numerator(count: Ints, sums: Digits, sums_of_squares: Digits) -> Digits:
    _, ones = _magnitude(sums)
    _, twos = _magnitude(sums_of_squares)
    product = _convolve(tuple(ones))
    places = max(len(product), len(twos))
    nothing = np.zeros(len(count), np.int64)
    columns = [
        (count * twos[place] if place < len(twos) else nothing) - (product[place] if place < len(product) else nothing)
        for place in range(places)
    ]
    return Digits(exponent=sums_of_squares.exponent, columns=(*columns, nothing))


def _bit_range(values: Ints | Floats) -> tuple[int, int]:
    """The place of the lowest bit that is set in any value, and how many bits lie from it to the highest."""
    if values.dtype != np.float64:
        return 0, max(int(values.max(initial=0)), -int(values.min(initial=0))).bit_length()
    used = values[values != 0]
    if len(used) == 0:
        return 0, 0
    fraction, top = np.frexp(used)
    mantissa = np.ldexp(fraction, 53).astype(np.int64)
    lowest = np.frexp((mantissa & -mantissa).astype(np.float64))[1] - 1
    bottom = int((top - 53 + lowest).min())
    return bottom, int(top.max()) - bottom


def _split(values: Ints | Floats, exponent: int, count: int) -> tuple[Ints, ...]:
    if values.dtype == np.float64:
        return _split_floats(values.astype(np.float64, copy=False), exponent, count)
    return _split_integers(values.astype(np.int64, copy=False), count)


def _split_integers(values: Ints, count: int) -> tuple[Ints, ...]:
    columns, rest = [], values
    for _ in range(count - 1):
        columns.append(rest & MASK)
        rest = rest >> WIDTH
    return (*columns, rest)


def _split_floats(values: Floats, exponent: int, count: int) -> tuple[Ints, ...]:
    """From the top digit down: cut off, subtract, go on; every step is exact."""
    columns, rest = [], values
    for place in reversed(range(count)):
        cut = np.trunc(np.ldexp(rest, -(exponent + place * WIDTH)))
        rest = rest - np.ldexp(cut, exponent + place * WIDTH)
        columns.append(cut.astype(np.int64))
    return tuple(reversed(columns))


def _convolve(parts: tuple[Ints, ...]) -> list[Ints]:
    """The square of a number from its digits, not yet carried; the last column is left free for the carry."""
    product = [np.zeros(len(parts[0]), np.int64) for _ in range(2 * len(parts))]
    for left, first in enumerate(parts):
        for right, second in enumerate(parts):
            product[left + right] += first * second
    return product


def carried(columns: Sequence[Ints]) -> list[Ints]:
    """The same numbers with every digit but the top one in [0, 2^24)."""
    done, over = [], np.zeros(len(columns[0]), np.int64)
    for column in columns[:-1]:
        full = column + over
        done.append(full & MASK)
        over = full >> WIDTH
    return [*done, columns[-1] + over]


def _magnitude(total: Digits) -> tuple[Bools, list[Ints]]:
    """Which rows are negative, and the digits of the absolute values, all in [0, 2^24)."""
    parts = carried(total.columns)
    negative = parts[-1] < 0
    parts = carried([np.where(negative, -part, part) for part in parts])
    while len(parts[-1]) and int(parts[-1].max()) > MASK:
        parts = [*parts[:-1], parts[-1] & MASK, parts[-1] >> WIDTH]
    return negative, parts


def _bit_length(parts: list[Ints]) -> Ints:
    length = np.zeros(len(parts[0]), np.int64)
    for place, part in enumerate(parts):
        length = np.where(part > 0, np.frexp(part.astype(np.float64))[1] + place * WIDTH, length)
    return length
