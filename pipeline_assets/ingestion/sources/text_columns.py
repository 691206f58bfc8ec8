"""Columns of texts in the types of their fields, exactly: as Arrow reads them where they are written as most are, else one by one."""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.ingestion.sources.arrow_types import arrow_type
from pipeline_assets.ingestion.sources.values import read_values, value_of
from pipeline_assets.spec.contracts import Field, FieldType

if TYPE_CHECKING:
    from pipeline_assets.ingestion.sources.contracts import Reason

INSTANT = r"[12]\d{3}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{3}(?:\d{3})?)?(?:[Zz]|[+-](?:0\d|1[0-4]):[0-5]\d)"
# How most values are written; Arrow reads these as `values` does. The exponent of a number is so short that it stays within the floats.
PLAIN: Mapping[FieldType, str] = {
    "string": r"^[^\x00]*$",
    "integer": r"^-?[0-9]{1,18}(\.0*)?$",
    "number": r"^-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?$",
    "boolean": r"^(true|false)$",
    "timestamp": f"^{INSTANT}$",
}
# A decimal of so many digits has a place in 128 bits; one of more Arrow reads as another one, without a word.
MOST_DIGITS = 38
EXPONENTS = np.frombuffer(b"eE", np.int8)
# Which values of a column cannot be read, by reason.
Faults: TypeAlias = "dict[Reason, np.ndarray]"
Typed = tuple[pa.Array, Faults]


def from_texts(field: Field, texts: pa.Array) -> Typed:
    """Texts in the type of their field, null where one cannot be read, and which these are by reason; null stays null."""
    if field.type == "string":
        return _held(texts)
    if field.type == "decimal" and _are_held(texts, field.scale or 0):
        with suppress(pa.ArrowInvalid):
            return texts.cast(arrow_type(field)), {}
    is_plain = pc.match_substring_regex(texts, plain_text(field)).fill_null(True)
    try:
        column = _cast(field, texts if is_plain.true_count == len(texts) else pc.if_else(is_plain, texts, pa.scalar(None, texts.type)))
    except pa.ArrowInvalid:  # such as the 30th of February
        is_plain, column = texts.is_null(), pa.nulls(len(texts), arrow_type(field))
    odd = np.flatnonzero(~np.asarray(is_plain))
    if not odd.size:
        return column, {}
    values, unread = from_values(field, [value_of(field.type, text) for text in texts.take(pa.array(odd)).to_pylist()])
    faults = {reason: _at(mask, odd, len(texts)) for reason, mask in unread.items()}
    return pc.replace_with_mask(column, pc.invert(is_plain), values), faults


def _held(texts: pa.Array) -> Typed:
    """Texts that every part of the platform can hold; those with a NUL or with bytes that are no UTF-8 are of the wrong type."""
    signs = _signs(texts)
    # All between 1 and 127, which is soon seen.
    if signs.min(initial=1) > 0 or (signs.all() and _is_utf8(texts)):
        return texts, {}
    unread = np.array([text is not None and (b"\0" in text or not _is_text(text)) for text in texts.cast(pa.binary()).to_pylist()])
    return pc.if_else(pa.array(unread), pa.scalar(None, texts.type), texts), {"wrong type": unread} if unread.any() else {}


def _signs(texts: pa.Array) -> np.ndarray:
    """The bytes of all texts of a column, one after the other, as numbers from -128 on."""
    _, places, signs = texts.buffers()
    if signs is None or not len(texts):
        return np.empty(0, np.int8)
    ends = np.frombuffer(places, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(signs, np.int8)[ends[0] : ends[-1]]


def _is_utf8(texts: pa.Array) -> bool:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_text(found: bytes) -> bool:
    try:
        found.decode()
    except UnicodeDecodeError:
        return False
    return True


def from_values(field: Field, found: list[object]) -> Typed:
    """Values as JSON has them as a column, as `from_texts`."""
    values, unread = read_values(field, found)
    faults: Faults = {}
    for place, reason in unread.items():
        faults.setdefault(reason, np.zeros(len(values), dtype=bool))[place] = True
    return pa.array(values, arrow_type(field)), faults


def _at(mask: np.ndarray, places: np.ndarray, rows: int) -> np.ndarray:
    found = np.zeros(rows, dtype=bool)
    found[places[mask]] = True
    return found


def plain_text(field: Field) -> str:
    """A regular expression of how most values of a field are written."""
    if field.type != "decimal":
        return PLAIN[field.type]
    before, after = (field.precision or 0) - (field.scale or 0), field.scale or 0
    whole = f"[0-9]{{1,{before}}}" if before else "0"
    return rf"^-?{whole}(\.[0-9]{{0,{after}}}0*)?$"


def _are_held(texts: pa.Array, scale: int) -> bool:
    """Whether 128 bits hold all numbers of so many signs, written out to a scale; no text has an exponent, which makes it longer."""
    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    if longest + scale > MOST_DIGITS:
        return False
    return not np.isin(_signs(texts), EXPONENTS).any()


def _cast(field: Field, texts: pa.Array) -> pa.Array:
    """Texts that are written as most are."""
    if field.type == "boolean":
        return pc.equal(texts, "true")
    if field.type == "timestamp":
        # Arrow wants the `T` and the `Z` of a time in upper case.
        texts = pc.utf8_upper(texts)
    if field.type in {"integer", "decimal"}:
        texts = _without_zeros(texts, field.scale or 0)
    return texts.cast(arrow_type(field))


def _without_zeros(texts: pa.Array, scale: int) -> pa.Array:
    """Numbers without the zeros that stand behind the last place that their field has."""
    surplus = rf"\.0*$|(\.[0-9]{{{scale}}})0+$" if scale else r"\.0*$"
    if not pc.any(pc.match_substring_regex(texts, surplus)).as_py():
        return texts
    return pc.replace_substring_regex(texts, surplus, r"\1" if scale else "")
