"""The JSON object of a row, read strictly, or what is wrong with the row."""

import json
import re
from collections.abc import Callable, Iterator
from decimal import MAX_EMAX, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, AnyStr

if TYPE_CHECKING:
    from pipeline_assets.ingestion.sources.contracts import Reason

# Stand for numbers with an exponent that nothing can hold: no field of a contract holds them either.
HUGE, TINY = Decimal((0, (1,), MAX_EMAX)), Decimal((0, (1,), -MAX_EMAX))


# How deep a row may be nested. What a contract knows stands at the first level; the rest is only passed over.
DEEPEST = 100
# What begins and ends a value that holds others, and texts, which may have such signs in them. A text without an end reaches to the end of
# the row, and nothing is looked at twice, whatever the row is.
BRACKETS = r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]'
IN_BYTES, IN_TEXT = re.compile(BRACKETS.encode(), re.DOTALL), re.compile(BRACKETS, re.DOTALL)


def is_too_deep(row: bytes) -> bool:
    """Whether a row is nested deeper than DEEPEST; says so before anything is made of it."""
    if row.count(b"[") + row.count(b"{") <= DEEPEST:
        return False
    return any(depth > DEEPEST for depth, _ in _depths(IN_BYTES.finditer(row)))


def end_of_value(text: str, place: int) -> int | None:
    """The place after the value that begins at `place` and holds others; None where it has no end."""
    return next((end for depth, end in _depths(IN_TEXT.finditer(text, place)) if depth == 0), None)


def _depths(found: "Iterator[re.Match[AnyStr]]") -> Iterator[tuple[int, int]]:
    """How deep it is after each bracket, and the place after it."""
    depth = 0
    for one in found:
        sign = one.string[one.start() : one.start() + 1]
        if sign in ("[", "{", b"[", b"{"):
            depth += 1
        elif sign in ("]", "}", b"]", b"}"):
            depth -= 1
        else:
            continue
        yield depth, one.end()


class Fault(ValueError):
    """What is wrong with a row that gives no values: the field at fault, if it is a single one, and the reason."""

    def __init__(self, reason: "Reason", field: str = "") -> None:
        self.reason: Reason = reason
        self.field = field
        super().__init__(f"{field} {reason}".strip())

    def as_value(self) -> "Fault":
        """The same to be kept. One that was raised holds the frames it came through, which hold all records that were read with its own."""
        return Fault(self.reason, self.field)


def json_object(row: bytes) -> dict[str, Any]:
    """The fields of a JSON object; raises Fault for bytes that are none, or that name a field twice at any depth.

    A number with a point or an exponent is a Decimal: exactly what stands there, unless nothing can hold its exponent.
    """
    if is_too_deep(row):
        raise Fault("nested too deeply")
    try:
        return _fields(row, Decimal)
    except InvalidOperation:
        return _fields(row, _bounded)


def _fields(row: bytes, number: Callable[[str], Decimal]) -> dict[str, Any]:
    try:
        found = json.loads(row, object_pairs_hook=_distinct, parse_float=number)
    except Fault:
        raise
    except (ValueError, RecursionError) as error:
        raise Fault("not a JSON object") from error
    if not isinstance(found, dict):
        raise Fault("not a JSON object")
    return found


def _bounded(text: str) -> Decimal:
    """A number; one with an exponent that nothing can hold is one that no field holds either, as large or as small."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return TINY if "e-" in text.lower() else HUGE


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Fault("repeated field", next(name for name in names if names.count(name) > 1))
    return found
