"""Numbers as they are written, read exactly or not at all: one value at a time, by the type of the field that they are for.

A decimal text says one number, and that is what is read: nothing passes through a float on its way to an integer or a decimal. A `number`
is the float that is nearest; one that is beyond all floats, or so small that nothing would be left of it, is out of range.
"""

import re
from collections.abc import Callable, Mapping
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from math import isfinite
from typing import Any

INT64 = 2**63
# As databases, JSON and CSV write them; and what Postgres, its Arrow driver and Debezium call values that are no numbers, in any case.
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?")
NO_NUMBERS: Mapping[str, float] = {
    "nan": float("nan"),
    **dict.fromkeys(("infinity", "inf", "positive_infinity"), float("inf")),
    **dict.fromkeys(("-infinity", "-inf", "negative_infinity"), float("-inf")),
}
# The most digits of a text that is read as a number: what Postgres' `numeric` has at most is 131,072 before the point.
MOST_SIGNS = 200_000
EXACT = Context(prec=MOST_SIGNS, Emax=MAX_EMAX, Emin=MIN_EMIN)
# More places than that before its point has no number that fits any field.
MOST_PLACES = 400

Reader = Callable[[Any], Any]


class TooPreciseError(ValueError):
    """A number with more digits after the point than its field has."""


class NotFiniteError(ValueError):
    """NaN or an infinity, which is no value of an integer or a decimal."""


def number_in(text: str) -> Decimal | float | None:
    """The number that a text says, exactly; None where it says none."""
    if len(text) <= MOST_SIGNS and NUMBER.fullmatch(text):
        return EXACT.create_decimal(text)
    return NO_NUMBERS.get(text.lower())


def integer(value: Any) -> int:
    """A whole number of 64 bits; raises TypeError for what is none, OverflowError for one beyond, NotFiniteError."""
    found = _numeric(value)
    if not _is_finite(found):
        raise NotFiniteError
    whole = _whole(found) if isinstance(found, Decimal) else int(found)
    if whole != found:
        raise TypeError
    if not -INT64 <= whole < INT64:
        raise OverflowError
    return whole


def _whole(value: Decimal) -> int:
    """A decimal without its fraction; raises OverflowError for one that is too long to be written out."""
    if value and value.adjusted() > MOST_PLACES:
        raise OverflowError
    return int(value)


def number(value: Any) -> float:
    """The nearest float, or NaN, or an infinity; raises OverflowError for a number beyond all, or too near to 0 for any."""
    found = _numeric(value)
    nearest = float(found)
    is_lost = not nearest and bool(found)
    # What says infinity is one; a number of too many digits is not.
    is_beyond = not isfinite(nearest) and _is_finite(found)
    if is_lost or is_beyond:
        raise OverflowError
    return nearest


def decimal_reader(precision: int, scale: int) -> Reader:
    """A function to decimals of so many digits, exact; they may come as texts.

    It raises TypeError for what is no number (or a float, which says none exactly), OverflowError for one with too many digits before the
    point, TooPreciseError for one with too many after it, NotFiniteError.
    """
    unit = Decimal((0, (1,), -scale))

    def decimal(value: Any) -> Decimal:
        found = _numeric(number_in(value) if isinstance(value, str) else value)
        if not _is_finite(found):
            raise NotFiniteError
        if isinstance(found, float):
            raise TypeError
        exact = Decimal(found)
        if exact and exact.adjusted() >= precision - scale:
            raise OverflowError
        # Digits far behind the point need not be written out to be seen.
        if exact and exact.adjusted() < -scale:
            raise TooPreciseError
        rounded = exact.quantize(unit, context=EXACT)
        if rounded != exact:
            raise TooPreciseError
        return rounded if exact else abs(rounded)

    return decimal


def _numeric(value: Any) -> int | float | Decimal:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return value
    raise TypeError


def _is_finite(value: float | Decimal) -> bool:
    """Whether a value says a number, however large."""
    return value.is_finite() if isinstance(value, Decimal) else isinstance(value, int) or isfinite(value)
