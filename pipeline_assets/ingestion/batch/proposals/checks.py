"""What the simple ones of a table's checks promise of a column: a range, or the only values of a text.

Read is what the server writes of `>=`, `<=`, `between` and `in`, and of `>` and `<` of whole numbers, alone or joined by `and`. Any other
check promises something that contracts do not say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from pipeline_assets.spec.contracts import FieldType

WHOLE = re.compile(r"CHECK \((?P<condition>.*)\)", re.DOTALL)
# The column itself, as a check of a table or of a domain has it.
COLUMN = r'\(?(?:VALUE|[a-z_][a-z0-9_]*|"[^"]+")\)?(?:::[a-z][a-z ]*)?'
NUMBER = r"\(?'?(?P<number>-?[0-9]{1,15}(?:\.[0-9]{1,15})?)'?\)?(?:::[a-z][a-z ]*)?"
COMPARED = re.compile(rf"\(*{COLUMN} (?P<sign>>=|<=|>|<) {NUMBER}\)*")
TEXT = r"'(?:[^'\\]|'')*'::[a-z][a-z ]*"
LISTED = re.compile(rf"\(*{COLUMN} = ANY \(\(?ARRAY\[(?P<texts>{TEXT}(?:, {TEXT})*)\]\)?(?:::[a-z ]+\[\])?\)\)*")
LEAST, MOST = {">=": 0, ">": 1}, {"<=": 0, "<": -1}


@dataclass(frozen=True, kw_only=True)
class Promise:
    """The rules of a field that checks come to, and the checks that are none."""

    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def promised(kind: FieldType | None, checks: Sequence[str]) -> Promise:
    """What the checks of one column promise, as the server writes them."""
    found = Promise()
    for check in checks:
        read = _read(kind, check)
        found = replace(found, others=(*found.others, check)) if read is None else _both(found, read)
    return found


def _read(kind: FieldType | None, check: str) -> Promise | None:
    """The promise of one check; None where it is another than a field can make."""
    whole = WHOLE.fullmatch(check)
    if whole is None:
        return None
    condition = whole["condition"]
    listed = LISTED.fullmatch(condition)
    if kind == "string" and listed is not None:
        return Promise(allowed=tuple(text.rpartition("'")[0][1:].replace("''", "'") for text in re.findall(TEXT, listed["texts"])))
    compared = [COMPARED.fullmatch(part) for part in condition.split(" AND ")]
    if kind not in {"integer", "number", "decimal"} or any(each is None for each in compared):
        return None
    read = Promise()
    for each in compared:
        bound = _bound(kind, each["sign"], each["number"]) if each is not None else None
        if bound is None:
            return None
        read = _both(read, bound)
    return read


def _bound(kind: FieldType, sign: str, number: str) -> Promise | None:
    value = float(number) if "." in number else int(number)
    step = {**LEAST, **MOST}[sign]
    if step and (kind != "integer" or isinstance(value, float)):
        return None
    return Promise(minimum=value + step) if sign in LEAST else Promise(maximum=value + step)


def _both(one: Promise, other: Promise) -> Promise:
    """What holds where both do."""
    least = max((each.minimum for each in (one, other) if each.minimum is not None), default=-inf)
    most = min((each.maximum for each in (one, other) if each.maximum is not None), default=inf)
    allowed = (
        tuple(value for value in one.allowed if value in other.allowed) if one.allowed and other.allowed else one.allowed or other.allowed
    )
    return Promise(
        minimum=None if least == -inf else least,
        maximum=None if most == inf else most,
        allowed=allowed,
        others=(*one.others, *other.others),
    )
