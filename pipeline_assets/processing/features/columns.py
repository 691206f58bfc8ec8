"""Columns of Arrow tables as the arrays the kernel computes on, refused with a name where they are not what was declared."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
DECISION_AT = names.DECISION_AT


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A numeric column: int64 (also for booleans, 0 and 1) or float64 values, 0 where null, and which rows have a value."""

    values: Ints | Floats
    valid: Bools


def plain_column(table: pa.Table, name: str, column: str) -> pa.Array:
    """The one column of that name in a single chunk, dictionaries decoded; raises TableMismatch where there is none, or several."""
    found = table.schema.get_all_field_indices(column)
    if len(found) != 1:
        problem = f"has {len(found)} columns '{column}'" if found else f"lacks column '{column}'"
        raise TableMismatch(name, problem, table.column_names)
    chunked = table.column(found[0])
    if pa.types.is_dictionary(chunked.type):
        chunked = chunked.cast(chunked.type.value_type)
    return chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)


def instants(table: pa.Table, name: str, column: str, *, unless: int | None = None) -> Ints:
    """Microseconds since the epoch, one per row, `unless` for null (None: refused).

    Raises TableMismatch where the column has such nulls, no time zone or no whole microseconds.
    """
    values = plain_column(table, name, column)
    if not pa.types.is_timestamp(values.type):
        raise TableMismatch(name, f"has {values.type} in column '{column}', expected timestamp[us, tz=UTC]", table.column_names)
    if values.type.tz is None:
        raise TableMismatch(name, f"has naive times in column '{column}', expected timestamp[us, tz=UTC]", table.column_names)
    if values.null_count and unless is None:
        raise TableMismatch(name, f"has {values.null_count} nulls in column '{column}', expected a time in every row", table.column_names)
    times = _microseconds(values, table, name, column)
    found: Ints = _numpy(times if unless is None else times.fill_null(unless))
    return found


def numbers(table: pa.Table, name: str, column: str) -> Numbers:
    """The column as numbers; raises TableMismatch where it is neither integer, number nor boolean, or holds NaN or an infinite value."""
    values = plain_column(table, name, column)
    kind = values.type
    if pa.types.is_null(kind):
        kind, values = pa.float64(), values.cast(pa.float64())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise TableMismatch(name, f"has {kind} in column '{column}', expected integer, number or boolean", table.column_names)
    try:
        cast = as_type(values, pa.float64() if pa.types.is_floating(kind) else pa.int64())
    except pa.ArrowInvalid as error:
        raise TableMismatch(name, f"has integers beyond 64 bits in column '{column}'", table.column_names) from error
    valid = present_in(values)
    plain = _numpy(cast.fill_null(0) if cast.null_count else cast)
    if pa.types.is_floating(kind):
        plain = plain + 0.0  # turns -0.0 into 0.0, so that equal values have equal bits
        _refuse_infinite(plain, table, name, column)
    return Numbers(values=plain, valid=valid)


def truths(table: pa.Table, name: str, column: str) -> Numbers:
    """A boolean column as 0 and 1; raises TableMismatch for any other type."""
    kind = plain_column(table, name, column).type
    if not pa.types.is_boolean(kind):
        raise TableMismatch(name, f"has {kind} in column '{column}', expected boolean", table.column_names)
    return numbers(table, name, column)


def arrow_numbers(values: Ints | Floats, present: Bools) -> pa.Array:
    """int64 or float64 with nulls where not present; the bytes under a null are zero, so that equal answers are equal to the byte."""
    values = np.where(present, values, 0)
    return pa.array(values) if present.all() else pa.array(values, mask=~present)


def present_in(column: pa.Array) -> Bools:
    """Which rows of a column have a value."""
    present: Bools = _numpy(column.is_valid()) if column.null_count else np.ones(len(column), np.bool_)
    return present


def as_type(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values in a type; as they are where they have it, as a cast of a single value costs what one of thousands does."""
    return values if values.type.equals(kind) else values.cast(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's types of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def moments(table: pa.Table, name: str, column: str) -> Numbers:
    """A column of times, or of dates (their first instant in UTC), in microseconds since the epoch; 0 where null.

    Raises TableMismatch where times are naive or finer than a microsecond.
    """
    values = plain_column(table, name, column)
    if pa.types.is_timestamp(values.type) and values.type.tz is None:
        raise TableMismatch(name, f"has naive times in column '{column}', expected timestamp[us, tz=UTC]", table.column_names)
    return Numbers(values=_numpy(_microseconds(values, table, name, column).fill_null(0)), valid=present_in(values))


def _microseconds(values: pa.Array, table: pa.Table, name: str, column: str) -> pa.Array:
    zone = None if pa.types.is_date(values.type) else "UTC"
    try:
        return as_type(values, pa.timestamp("us", tz=zone)).view(pa.int64())
    except pa.ArrowInvalid as error:
        raise TableMismatch(name, f"has times finer than a microsecond in column '{column}'", table.column_names) from error


def _refuse_infinite(values: Floats, table: pa.Table, name: str, column: str) -> None:
    broken = int(len(values) - np.isfinite(values).sum())
    if broken:
        raise TableMismatch(name, f"has {broken} NaN or infinite values in column '{column}'", table.column_names)


def _numpy(values: pa.Array) -> Any:
    return values.to_numpy(zero_copy_only=False)


def text_or_whole(table: pa.Table, name: str, column: str) -> pa.Array:
    """A key column: text as string, whole numbers and booleans as int64; raises TableMismatch for any other type."""
    values = plain_column(table, name, column)
    kind = values.type
    if is_text(kind) or pa.types.is_null(kind):
        return as_type(values, pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return as_type(values, pa.int64())
    raise TableMismatch(name, f"has {kind} in key column '{column}', expected string or integer", table.column_names)
