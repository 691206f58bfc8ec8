"""What a text stands for as the value of a field, as in CSV and in decimals that come as text."""

import re
from typing import Any

from pipeline_assets.spec.contracts import FieldType

INTEGER = re.compile(r"-?[0-9]{1,400}")
NUMBER = re.compile(r"-?[0-9]{1,400}(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")
BOOLEANS = {"true": True, "false": False}


def value_of(kind: FieldType | None, text: str) -> Any:
    """The value that a text stands for; the text itself where it is none of that kind, which the contract then finds."""
    if not text:
        return None
    if kind == "integer" and INTEGER.fullmatch(text):
        return int(text)
    if kind == "number" and NUMBER.fullmatch(text):
        return float(text)
    return BOOLEANS.get(text, text) if kind == "boolean" else text
