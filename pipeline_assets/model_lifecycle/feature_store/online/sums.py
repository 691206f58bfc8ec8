"""Exact sums on one grid: many numbers as digits of 24 bits whose places are the same everywhere, so that stored sums can be added up.

Number i is Σ_j digits[i, j] · 2^(24 · (lowest + j)). Digits are between 0 and 2^24 but for the highest, which has the sign. What becomes of
them is `exact.Digits` of the offline kernel, which rounds both alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_assets.processing.features.columns import Floats, Ints
from pipeline_assets.processing.features.exact import MASK, WIDTH, Digits, carried, digits, squares

# A highest digit of no more bits than this has room to be added up.
TOP_BITS = 38


@dataclass(frozen=True, kw_only=True)
class Sums:
    """One exact number per row; `digits` has a row for each of them and at least one column."""

    lowest: int
    digits: Ints

    def __len__(self) -> int:
        return len(self.digits)

    def take(self, rows: np.ndarray) -> "Sums":
        """The numbers of some rows (places, or a mask)."""
        return Sums(lowest=self.lowest, digits=self.digits[rows])

    def negative(self) -> "Sums":
        """The numbers with the other sign."""
        return _normal(self.lowest, list((-self.digits).T))

    def as_digits(self) -> Digits:
        """The numbers as the offline kernel rounds them."""
        return Digits(exponent=self.lowest * WIDTH, columns=tuple(np.ascontiguousarray(column) for column in self.digits.T))


def nothing(rows: int) -> Sums:
    """Zeros."""
    return Sums(lowest=0, digits=np.zeros((rows, 1), np.int64))


def sums_of(values: Ints | Floats) -> Sums:
    """Finite numbers as they are."""
    return _on_grid(digits(values))


def squares_of(values: Ints | Floats) -> Sums:
    """The squares of finite numbers."""
    return _on_grid(squares(values))


def joined(parts: Sequence[Sums]) -> Sums:
    """The numbers of all parts, one part after the other; at least one part."""
    lowest = min(part.lowest for part in parts)
    width = max(part.lowest + part.digits.shape[1] for part in parts) - lowest
    return Sums(lowest=lowest, digits=np.concatenate([padded(part, lowest, width).digits for part in parts]))


def padded(sums: Sums, lowest: int, width: int) -> Sums:
    """The same numbers in `width` digits from a lower `lowest` on; the highest digit, which has the sign, is spread over those above it."""
    rows, count = sums.digits.shape
    below = sums.lowest - lowest
    spread = np.zeros((rows, width), np.int64)
    spread[:, below : below + count] = sums.digits
    for place in range(below + count - 1, width - 1):
        spread[:, place + 1] = spread[:, place] >> WIDTH
        spread[:, place] &= MASK
    return Sums(lowest=lowest, digits=spread)


def added(sums: Sums, starts: Ints) -> Sums:
    """The sums of runs of rows that begin at `starts` (from 0 upwards, each run has a row)."""
    return _normal(sums.lowest, list(np.add.reduceat(sums.digits, starts, axis=0).T))


def aligned(sums: Sums, of_squares: Sums) -> tuple[Digits, Digits]:
    """Sums and sums of squares as the variance of the offline kernel wants them: the exponent of squares is twice that of sums."""
    lowest = min(sums.lowest, of_squares.lowest // 2)
    ours = padded(sums, lowest, sums.lowest + sums.digits.shape[1] - lowest)
    theirs = padded(of_squares, 2 * lowest, of_squares.lowest + of_squares.digits.shape[1] - 2 * lowest)
    return ours.as_digits(), theirs.as_digits()


def shortest(sums: Sums) -> tuple[Ints, Ints]:
    """For each number its first digit that is not zero, and how many digits it needs from the lowest of the grid on.

    Zero has its first digit after all others, and needs one.
    """
    is_zero = sums.digits == 0
    first = np.where(is_zero.all(axis=1), sums.digits.shape[1], is_zero.argmin(axis=1))
    needed = np.full(len(sums), sums.digits.shape[1], np.int64)
    top = sums.digits[:, -1].copy()
    for place in range(sums.digits.shape[1] - 2, -1, -1):
        fits = (needed == place + 2) & (np.abs(top) < 1 << (TOP_BITS - WIDTH))
        top = np.where(fits, (top << WIDTH) | sums.digits[:, place], top)
        needed = np.where(fits, place + 1, needed)
    return first, needed


def shortened(sums: Sums, lowest: int, width: int) -> Sums:
    """The same numbers in fewer digits, which `shortest` found to be enough for all of them."""
    start = lowest - sums.lowest
    if start + width > sums.digits.shape[1]:
        sums = padded(sums, sums.lowest, start + width)
    kept = sums.digits[:, start : start + width].copy()
    top = sums.digits[:, -1]
    for place in range(sums.digits.shape[1] - 2, start + width - 2, -1):
        top = (top << WIDTH) | sums.digits[:, place]
    kept[:, -1] = top
    return Sums(lowest=lowest, digits=kept)


def _on_grid(numbers: Digits) -> Sums:
    """Digits of any exponent, moved to the places of the grid."""
    lowest, shift = divmod(numbers.exponent, WIDTH)
    plain = carried(numbers.columns)
    while _is_large(plain[-1], TOP_BITS):
        plain = [*plain[:-1], plain[-1] & MASK, plain[-1] >> WIDTH]
    return _normal(lowest, [column << shift for column in plain])


def _normal(lowest: int, columns: Sequence[Ints]) -> Sums:
    """Any int64 in the columns, with every digit but the highest in [0, 2^24), and that one short enough to be added up."""
    plain = carried(columns)
    while _is_large(plain[-1], TOP_BITS):
        plain = [*plain[:-1], plain[-1] & MASK, plain[-1] >> WIDTH]
    return Sums(lowest=lowest, digits=np.stack(plain, axis=1))


def _is_large(column: Ints, bits: int) -> bool:
    return max(int(column.max(initial=0)), -int(column.min(initial=0))).bit_length() > bits
