"""Columns of any writer in the types of their contract: which of their values have none, and which mean that there is none."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isinf, isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.ingestion.sources.arrow_types import arrow_type
from pipeline_assets.ingestion.sources.text_columns import Faults, Typed, from_texts
from pipeline_assets.ingestion.sources.values import UNREADABLE, reader_of
from pipeline_assets.spec.contracts import Field

if TYPE_CHECKING:
    from pipeline_assets.ingestion.sources.contracts import Reason

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
# What Arrow's driver makes of Postgres' infinity: the greatest and the least number of microseconds since 2000, taken to be since 1970.
INFINITIES = {float("inf"): -9_222_425_352_054_775_809, float("-inf"): -9_222_425_352_054_775_808}
# Below it a 32-bit float has fewer than two digits, of which Java always writes two.
FEW_DIGITS = 1e-42


def typed(field: Field, column: pa.Array) -> Typed:
    """A column in its contract's type, null where a value has none, and which these are by reason.

    An integer may come as a number without a fraction (as in JSON Schema), a number as an integer; each numeric type as a text that says a
    number, which a reader hands on where its source calls the column a numeric one. A column of any other kind raises pa.ArrowInvalid; a
    reader sees to it that none comes here.
    """
    target, found = arrow_type(field), column.type
    if found == target and field.type == "string":
        return from_texts(field, column)
    if found == target or pa.types.is_null(found):
        return (column if found == target else column.cast(target)), {}
    if pa.types.is_timestamp(found):
        return _exactly(column, target)
    if field.type in {"integer", "number", "decimal"}:
        return _numbers(field, column)
    return column.cast(target), {}


def _numbers(field: Field, column: pa.Array) -> Typed:
    found, target = column.type, arrow_type(field)
    if pa.types.is_decimal(found):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        return from_texts(field, column)
    if field.type == "decimal":
        return from_texts(field, column.cast(pa.string()))
    if field.type == "number":
        return (from_floats(column) if pa.types.is_float32(found) else column.cast(target, safe=False)), {}
    if pa.types.is_floating(found):
        return _whole(column)
    return _exactly(column, target) if pa.types.is_uint64(found) else (column.cast(target), {})


def from_floats(column: pa.Array) -> pa.Array:
    """32-bit floats as the numbers that they are written as: 0.4, and not 0.4000000059604645, which nobody ever wrote.

    That is the shortest decimal that no other float is nearer to, as Postgres writes it and, with at least two digits, Java from 19 on.
    """
    numbers = column.cast(pa.string()).cast(pa.float64())
    values = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        is_tiny = (np.abs(values) < FEW_DIGITS) & (values != 0)
    if not is_tiny.any():
        return numbers
    return pc.replace_with_mask(numbers, pa.array(is_tiny), pa.array([_in_two_digits(value) for value in values[is_tiny]], pa.float64()))


def _in_two_digits(value: np.float32) -> float:
    """The decimal of at least two digits that Java writes for a float of hardly any precision."""
    shortest = np.format_float_scientific(value, unique=True)
    return float(shortest if len(Decimal(shortest).as_tuple().digits) > 1 else f"{float(value):.1e}")


def _whole(column: pa.Array) -> Typed:
    """Floats as integers."""
    whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2.0**63))
    read = pc.if_else(whole, column, pa.scalar(None, column.type)).cast(pa.int64(), safe=False)
    return read, _faults("wrong type", pc.invert(whole))


def _exactly(column: pa.Array, target: pa.DataType) -> Typed:
    """A column in another type, and which of its values that type does not have, such as times between two microseconds."""
    read = column.cast(target, safe=False)
    # Whole numbers beyond 64 bits with a sign come out negative, and back as they were.
    differs = pc.less(read, 0) if pa.types.is_uint64(column.type) else pc.not_equal(read.cast(column.type, safe=False), column)
    reason: Reason = "out of range" if pa.types.is_uint64(column.type) else "wrong type"
    return pc.if_else(differs, pa.scalar(None, target), read), _faults(reason, differs)


def _faults(reason: "Reason", found: pa.Array) -> Faults:
    mask = np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)
    return {reason: mask} if mask.any() else {}


def without_sentinels(field: Field, column: pa.Array) -> pa.Array:
    """A column in its contract's type with null for each value that a sentinel of its field is equal to."""
    if not field.sentinels:
        return column
    known = [value for one in field.sentinels if (value := _in_column(field, one)) is not None]
    if field.type == "timestamp":
        is_one = pc.is_in(column.view(pa.int64()), value_set=pa.array(known, pa.int64()))
    else:
        is_one = pc.is_in(column, value_set=pa.array(known, column.type))
    if field.type == "number" and any(isinstance(one, float) and isnan(one) for one in field.sentinels):
        is_one = pc.or_(is_one, pc.is_nan(column).fill_null(False))
    return pc.if_else(is_one, pa.scalar(None, column.type), column) if is_one.true_count else column


def _in_column(field: Field, sentinel: Any) -> Any:
    """A sentinel as a value of the type of its field (times as microseconds since 1970); None where the type does not have it."""
    if field.type == "timestamp":
        if isinstance(sentinel, float):
            return INFINITIES.get(sentinel)
        return (sentinel - EPOCH) // MICROSECOND if isinstance(sentinel, datetime) else None
    if isinstance(sentinel, float):
        if isnan(sentinel) or (isinf(sentinel) and field.type != "number"):
            return None
        sentinel = sentinel if field.type == "number" else Decimal(str(sentinel))
    try:
        return None if isinstance(sentinel, str) and field.type != "string" else reader_of(field)(sentinel)
    except UNREADABLE:
        return None
