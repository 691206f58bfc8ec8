"""Samples of sources: some of their rows by column, each column in the type of a field, or with the reason why it can be none.

The type of a column of texts, or of JSON, is the first in which the readers of this room read every value that was seen.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline_assets.ingestion.sources.arrow_types import arrow_type
from pipeline_assets.ingestion.sources.contracts import check_batch
from pipeline_assets.ingestion.sources.json_objects import Fault, json_object
from pipeline_assets.ingestion.sources.values import read_values, value_of
from pipeline_assets.spec.contracts import MOST_DIGITS, Contract, Field, FieldType

# The bounds of a sample, whatever it is of.
SAMPLE_ROWS, SAMPLE_BYTES, SAMPLE_SECONDS = 10_000, 32 << 20, 30.0
MOST_COLUMNS = 500
# In this order the types are tried.
TRIED: tuple[FieldType, ...] = ("boolean", "integer", "number", "decimal", "timestamp", "string")
# What is a number without doubt: one with a sign or zeros before it may as well be a telephone number or a postal code.
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,399})")
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,399})(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
# How many digits a 64-bit float keeps of any number.
FLOAT_DIGITS = 15
# How many digits the largest whole number of 64 bits has.
INTEGER_DIGITS = 19
LARGEST = 2**63
NAIVE_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a sample.

    type: of the field that it can be; None where it can be none, which `reason` explains. values: in that type, None for null.
    required: whether the source promises a value (None: it promises nothing). The rules of a field are likewise promises.
    remarks: what a person should know of it. is_added: whether it is of the platform, as the time at which a record was received.
    """

    name: str
    type: FieldType | None
    values: Sequence[Any] = ()
    reason: str = ""
    required: bool | None = None
    minimum: float | None = None
    maximum: float | None = None
    precision: int | None = None
    scale: int | None = None
    allowed: tuple[str, ...] = ()
    max_length: int | None = None
    description: str = ""
    remarks: tuple[str, ...] = ()
    is_added: bool = False

    @property
    def field(self) -> Field:
        """The field that it can be, as far as its values are concerned."""
        return Field(name="value", type=self.type or "string", description="", precision=self.precision, scale=self.scale)

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.type == "integer" or (self.type == "decimal" and self.scale == 0)

    @property
    def nulls(self) -> int:
        """How many rows have no value."""
        return sum(value is None for value in self.values)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some rows of a source: `rows` that were read, column by column, and `unreadable` ones that have no columns.

    looked_at: what was looked at, for people. key: the columns by which the source itself knows its rows. days: for each row the UTC day
    that the source has it under; empty where it has none.
    """

    columns: Sequence[Column]
    rows: int
    looked_at: str
    unreadable: int = 0
    key: tuple[str, ...] = ()
    days: Sequence[date] = ()
    description: str = ""
    remarks: tuple[str, ...] = ()


def nameless(fields: Sequence[Field] = ()) -> Contract:
    """A contract of fields alone, as long as nothing else is known of a source."""
    return Contract(
        name="proposal",
        version="0",
        owner="",
        description="",
        fields=tuple(fields),
        primary_key=(),
        event_at="",
        known_at="",
        lateness=timedelta(0),
        freshness=timedelta(0),
        broken_share=1.0,
    )


class ReadRows(NamedTuple):
    """The columns of some rows, the places of the rows that have any, and what a person should know of them."""

    columns: list[Column]
    kept: list[int]
    remarks: tuple[str, ...]


def json_columns(rows: Sequence[bytes]) -> ReadRows:
    """The columns of JSON objects, in the order in which they were seen first."""
    objects = dict[int, Mapping[str, Any]]()
    for place, row in enumerate(rows):
        with suppress(Fault):
            objects[place] = json_object(row)
    names = list(dict.fromkeys(name for found in objects.values() for name in found))
    columns = [json_column(name, [found.get(name) for found in objects.values()]) for name in names[:MOST_COLUMNS]]
    return ReadRows(columns, list(objects), _too_many(len(names)))


def text_columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> ReadRows:
    """The columns of rows of texts; one with more or fewer of them than there are names has none."""
    kept = [place for place, row in enumerate(rows) if len(row) == len(names)]
    columns = [text_column(name, [rows[place][number] for place in kept]) for number, name in enumerate(names[:MOST_COLUMNS])]
    return ReadRows(columns, kept, _too_many(len(names)))


def _too_many(columns: int) -> tuple[str, ...]:
    return (f"of {columns:,} columns the first {MOST_COLUMNS} were looked at",) if columns > MOST_COLUMNS else ()


def json_column(name: str, values: Sequence[Any]) -> Column:
    """A column of values as JSON has them."""
    given = [value for value in values if value is not None]
    if not given:
        return Column(name=name, type=None, values=values, reason="no value was seen")
    for kind in TRIED:
        if all(_is_written_as(kind, value) for value in given):
            found = _read(typed(name, kind, given), values)
            if found is not None:
                return found
    return Column(name=name, type=None, values=values, reason=_why_none(given))


def text_column(name: str, texts: Sequence[str]) -> Column:
    """A column of texts, of which an empty one is null."""
    given = [text for text in texts if text]
    if not given:
        return Column(name=name, type=None, values=[None] * len(texts), reason="no value was seen")
    for kind in TRIED:
        if all(_is_text_of(kind, text) for text in given):
            found = _read(typed(name, kind, given), [value_of(kind, text) for text in texts])
            if found is not None:
                return found
    return Column(name=name, type=None, values=[None] * len(texts), reason="texts that no field can hold")


def typed(name: str, kind: FieldType, given: Sequence[Any]) -> Column:
    """A column of a type without its values, with what these, as they came, say beyond it.

    Numbers that a float does not keep are decimals of as many digits as there may be, of which so many after the point as were seen.
    """
    if kind == "decimal":
        scale = min(max(map(_places, given)), MOST_DIGITS)
        remark = f"guess: {scale} digits after the point were seen, and {max(map(_digits, given))} in all"
        return Column(name=name, type=kind, precision=MOST_DIGITS, scale=scale, remarks=(remark,))
    return Column(name=name, type=kind, remarks=_remarks(given) if kind == "string" else ())


def decimal_column(name: str, precision: int, scale: int) -> Column:
    """A column of exact numbers of so many digits, `scale` of them after the point, of a source that says so; without its values.

    A scale may be less than 0, or more than there are digits.
    """
    before, after = max(precision - scale, 0), max(scale, 0)
    if not after and before < INTEGER_DIGITS:
        return Column(name=name, type="integer")
    if before + after <= MOST_DIGITS:
        return Column(name=name, type="decimal", precision=before + after, scale=after)
    remark = f"of up to {before + after} digits a number keeps {FLOAT_DIGITS}, and a decimal has at most {MOST_DIGITS}"
    return Column(name=name, type="number", remarks=(remark,))


def arrow_column(column: Column, values: pa.Array) -> Column:
    """The column with values of its type, in any Arrow type that serves it; none where some of them would break their rows."""
    if column.type is None:
        return column
    checked = check_batch(
        nameless([column.field]),
        pa.RecordBatch.from_arrays([values], names=["value"]),
        first_position=0,
    )
    if checked.broken:
        return _breaking(column, len(checked.broken), checked.broken[0].reason, len(values))
    return replace(column, values=checked.good.column(0).to_pylist())


def _breaking(column: Column, broken: int, reason: str, rows: int) -> Column:
    explained = f"{column.type}, but {broken:,} of {rows:,} values would put their rows in quarantine ({reason})"
    return replace(column, type=None, values=[None] * rows, reason=explained)


def _is_written_as(kind: FieldType, value: Any) -> bool:
    """Whether a value of JSON is written as those of a type are, and loses nothing by being one.

    1.0 is read as a whole number, but no whole number is written so; a decimal may come as a text, but is none where numbers do.
    """
    if kind == "integer":
        return not isinstance(value, float | Decimal)
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if kind == "number":
        return is_number and _is_kept_by_float(value)
    return is_number if kind == "decimal" else isinstance(value, bool if kind == "boolean" else str)


def _is_text_of(kind: FieldType, text: str) -> bool:
    """Whether a text is written as values of a type are, and loses nothing by being one.

    Whole numbers beyond 64 bits are names of things rather than amounts, and stay text.
    """
    if kind == "integer":
        return INTEGER.fullmatch(text) is not None
    if kind in {"number", "decimal"}:
        is_number = NUMBER.fullmatch(text) is not None and not (INTEGER.fullmatch(text) and abs(int(text)) >= LARGEST)
        return is_number and (kind == "decimal" or _is_kept_by_float(text))
    return True


def _read(column: Column, values: Sequence[Any]) -> Column | None:
    """The column with its values; None where one is none of its type."""
    read, unread = read_values(column.field, values)
    if unread:
        return None
    found = arrow_column(column, pa.array(read, arrow_type(column.field)))
    return found if found.type is not None else None


def _remarks(texts: Sequence[str]) -> tuple[str, ...]:
    """What texts say beyond that they are."""
    if all(INTEGER.fullmatch(text) for text in texts):
        return ("whole numbers, some of them beyond 64 bits",) if any(abs(int(text)) >= LARGEST for text in texts) else ()
    if all(NAIVE_TIME.fullmatch(text) for text in texts):
        return ("times or days without a zone name no instant, so they stay text",)
    return ()


def _is_kept_by_float(value: Any) -> bool:
    """Whether the float that is nearest to a number is written as it is; NaN and infinities are no numbers, and are found later."""
    exact = Decimal(str(value))
    return not exact.is_finite() or Decimal(repr(float(exact))) == exact


def _digits(value: Any) -> int:
    """How many digits a number is written with, without zeros around them."""
    return len(re.sub(r"[^0-9]", "", re.split("[eE]", str(value))[0]).strip("0"))


def _places(value: Any) -> int:
    """How many digits of a number stand after the point."""
    exponent = Decimal(str(value)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _why_none(given: Sequence[Any]) -> str:
    kinds = sorted({_kind_of(value) for value in given})
    if len(kinds) > 1:
        return f"its values are {' and '.join(kinds)}: a field has one type"
    if kinds[0] in {"objects", "lists"}:
        return f"{kinds[0]}: contracts have single values alone"
    return f"{kinds[0]} that no field can hold"


def _kind_of(value: Any) -> str:
    names = {bool: "true or false", int: "numbers", float: "numbers", str: "texts", Decimal: "numbers", dict: "objects", list: "lists"}
    return names[type(value)]
