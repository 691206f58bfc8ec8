"""Values as JSON has them, or as texts say them, in the types of contracts: one at a time, strictly, and what is wrong with the others.

Nothing is guessed: "21.5" is not a number, 1 is not true, and a time without a zone names no instant. As in JSON Schema, a number without a
fraction is an integer. A decimal may come as a text, which is how most systems send one.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isnan
from typing import TYPE_CHECKING, Any

from pipeline_assets.ingestion.sources.numbers import (
    NotFiniteError,
    Reader,
    TooPreciseError,
    decimal_reader,
    integer,
    number,
    number_in,
)
from pipeline_assets.spec.contracts import Field, FieldType

if TYPE_CHECKING:
    from pipeline_assets.ingestion.sources.contracts import Reason

NUMERIC: frozenset[FieldType] = frozenset({"integer", "number", "decimal"})
BOOLEANS = {"true": True, "false": False}
# What Postgres has beyond its times, and a year that is none of 1 to 9999, as ISO 8601 writes it.
INFINITIES = {"infinity": float("inf"), "-infinity": float("-inf")}
OTHER_YEAR = re.compile(r"[+-]\d{4,}-\d\d-\d\d")


class WithoutZoneError(ValueError):
    """A time without a zone."""


FAULTS: "tuple[tuple[type[Exception], Reason], ...]" = (
    (WithoutZoneError, "without zone"),
    (TooPreciseError, "too precise"),
    (NotFiniteError, "not finite"),
    (ArithmeticError, "out of range"),
    (TypeError, "wrong type"),
    (ValueError, "wrong type"),
)
UNREADABLE = tuple(kind for kind, _ in FAULTS)


def read_values(field: Field, values: Sequence[Any]) -> "tuple[list[Any], dict[int, Reason]]":
    """Values as JSON has them in the type of a field, null where one cannot be read, and why by its place.

    Sentinels that have no place in the type are null, and no fault.
    """
    read, is_nothing = reader_of(field), Sentinels(field)
    found: list[Any] = []
    unread: dict[int, Reason] = {}
    for place, value in enumerate(values):
        try:
            found.append(None if value is None or is_nothing(value) else read(value))
        except UNREADABLE as error:
            found.append(None)
            unread[place] = next(reason for kind, reason in FAULTS if isinstance(error, kind))
    return found, unread


class Sentinels:
    """Whether a value, before it is read, is a sentinel of a field that its type does not have: a text, NaN or an infinity."""

    def __init__(self, field: Field) -> None:
        self._texts = frozenset(one for one in field.sentinels if isinstance(one, str)) if field.type != "string" else frozenset()
        self._is_time = field.type == "timestamp"
        floats = [one for one in field.sentinels if isinstance(one, float)]
        self._has_nan = any(isnan(one) for one in floats)
        self._infinities = frozenset(one for one in floats if one in {float("inf"), float("-inf")})

    def __call__(self, value: Any) -> bool:
        """Whether it is one."""
        if isinstance(value, str):
            return value in self._texts or (self._is_time and INFINITIES.get(value) in self._infinities)
        return isinstance(value, float) and (value in self._infinities or (self._has_nan and isnan(value)))


def value_of(kind: FieldType | None, text: str) -> Any:
    """The value that a text stands for; the text itself where it is none of that kind, which the contract then finds."""
    if not text:
        return None
    if kind in NUMERIC:
        found = number_in(text)
        return text if found is None else found
    return BOOLEANS.get(text, text) if kind == "boolean" else text


def reader_of(field: Field) -> Reader:
    """How a value of a field is read; the function raises one of UNREADABLE for a value that cannot be."""
    return decimal_reader(field.precision or 0, field.scale or 0) if field.type == "decimal" else READERS[field.type]


def _string(value: Any) -> str:
    """A text that every part of the platform can hold: lone surrogates have no bytes, and Postgres takes no NUL."""
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    value.encode()
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _timestamp(value: Any) -> datetime:
    if not isinstance(value, str):
        raise TypeError
    if value in INFINITIES or OTHER_YEAR.match(value):
        raise OverflowError
    # RFC 3339 takes `t` and `z` too; Python takes the first alone.
    instant = datetime.fromisoformat(f"{value[:-1]}Z" if value[-1:] == "z" else value)
    if instant.utcoffset() is None:
        raise WithoutZoneError
    return instant.astimezone(UTC)


READERS: Mapping[FieldType, Reader] = {
    "string": _string,
    "integer": integer,
    "number": number,
    "boolean": _boolean,
    "timestamp": _timestamp,
}
