"""Samples of sources: some of their rows by column, each column in the type of a field, or with the reason why it can be none.

The type of a column of texts, or of JSON, is the first in which the readers of this room read every value that was seen.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline_assets.ingestion.sources.contracts import ARROW_TYPES, check_batch
from pipeline_assets.ingestion.sources.json_objects import Fault, json_object
from pipeline_assets.ingestion.sources.json_rows import read_values
from pipeline_assets.ingestion.sources.text_values import INTEGER, NUMBER, value_of
from pipeline_assets.spec.contracts import Contract, Field, FieldType

# The bounds of a sample, whatever it is of.
SAMPLE_ROWS, SAMPLE_BYTES, SAMPLE_SECONDS = 10_000, 32 << 20, 30.0
MOST_COLUMNS = 500
# In this order the types are tried.
TRIED: tuple[FieldType, ...] = ("boolean", "integer", "number", "timestamp", "string")
# A number that is written so is more than its value, such as a postal code.
LEADING_ZERO = re.compile(r"-?0[0-9].*")
# How many digits a 64-bit float keeps of any number.
FLOAT_DIGITS = 15
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
    allowed: tuple[str, ...] = ()
    max_length: int | None = None
    description: str = ""
    remarks: tuple[str, ...] = ()
    is_added: bool = False

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
            found = _read(name, kind, values)
            if found is not None:
                return _remarked(found, given)
    return Column(name=name, type=None, values=values, reason=_why_none(given))


def text_column(name: str, texts: Sequence[str]) -> Column:
    """A column of texts, of which an empty one is null."""
    given = [text for text in texts if text]
    if not given:
        return Column(name=name, type=None, values=[None] * len(texts), reason="no value was seen")
    for kind in TRIED:
        if all(_is_text_of(kind, text) for text in given):
            found = _read(name, kind, [value_of(kind, text) for text in texts])
            if found is not None:
                return _remarked(found, given)
    return Column(name=name, type=None, values=[None] * len(texts), reason="it has text that no part of the platform can hold")


def arrow_column(column: Column, values: pa.Array) -> Column:
    """The column with values of its type, in any Arrow type that serves it; none where some of them would break their rows."""
    if column.type is None:
        return column
    checked = check_batch(
        nameless([Field(name="value", type=column.type, description="")]),
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
    """Whether a value of JSON is written as those of a type are: 1.0 is read as a whole number, but no whole number is written so."""
    return not (kind == "integer" and isinstance(value, float))


def _is_text_of(kind: FieldType, text: str) -> bool:
    """Whether a text is written as values of a type are, and loses nothing by being one."""
    if kind == "integer":
        return INTEGER.fullmatch(text) is not None and not LEADING_ZERO.fullmatch(text)
    if kind == "number":
        is_whole = INTEGER.fullmatch(text) is not None
        # Whole numbers beyond 64 bits are names of things rather than amounts, and a text keeps all of their digits.
        return NUMBER.fullmatch(text) is not None and not re.match(r"-?0[0-9]", text) and not (is_whole and abs(int(text)) >= LARGEST)
    return True


def _read(name: str, kind: FieldType, values: Sequence[Any]) -> Column | None:
    """The column in a type; None where a value is none of that type."""
    read, unread = read_values(Field(name=name, type=kind, description=""), values)
    if unread:
        return None
    found = arrow_column(Column(name=name, type=kind), pa.array(read, ARROW_TYPES[kind]))
    return found if found.type is not None else None


def _remarked(column: Column, given: Sequence[Any]) -> Column:
    """The column with what its values, as they came, say beyond their type."""
    if column.type == "number":
        digits = max(_digits(value) for value in given)
        lost = f"up to {digits} digits were seen, and a number keeps {FLOAT_DIGITS}" if digits > FLOAT_DIGITS else ""
        return replace(column, remarks=(lost,)) if lost else column
    if column.type != "string":
        return column
    if all(INTEGER.fullmatch(text) for text in given) and any(abs(int(text)) >= LARGEST for text in given):
        return replace(column, remarks=("whole numbers beyond 64 bits",))
    times = sum(NAIVE_TIME.fullmatch(text) is not None for text in given)
    return replace(column, remarks=("times or days without a zone name no instant, so they stay text",)) if times == len(given) else column


def _digits(value: Any) -> int:
    """How many digits a number is written with; what was read as a float has lost those that it does not keep."""
    mantissa = "" if isinstance(value, float) else re.split("[eE]", str(value))[0]
    return len(re.sub(r"[^0-9]", "", mantissa).strip("0"))


def _why_none(given: Sequence[Any]) -> str:
    kinds = sorted({_kind_of(value) for value in given})
    if len(kinds) > 1:
        return f"its values are {' and '.join(kinds)}: a field has one type"
    if kinds[0] in {"objects", "lists"}:
        return f"{kinds[0]}: contracts have single values alone"
    return f"{kinds[0]} that no part of the platform can hold"


def _kind_of(value: Any) -> str:
    names = {bool: "true or false", int: "numbers", float: "numbers", str: "texts", dict: "objects", list: "lists"}
    return names[type(value)]
