"""What a plain value of a column becomes as a feature: a number, a category, or the time that has passed since a moment."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.columns import (
    Bools,
    Ints,
    Numbers,
    arrow_numbers,
    as_type,
    is_text,
    moments,
    numbers,
    plain_column,
    present_in,
)
from pipeline_assets.spec.features import Learned

Categories = tuple[str, ...] | Learned
NOTHING = Numbers(values=np.empty(0, np.int64), valid=np.empty(0, np.bool_))


@dataclass(frozen=True, kw_only=True)
class Values:
    """A column as its feature takes it.

    `data` holds numbers as they are, codes (the place of a text among the listed categories, not valid for any other) or moments
    (microseconds since the epoch; the feature is the seconds from then to the decision). `texts` holds those of learned categories.
    """

    kind: Literal["number", "code", "moment", "text"]
    data: Numbers = NOTHING
    texts: pa.Array | None = None


def values_of(table: pa.Table, name: str, column: str, categories: Categories) -> Values:
    """The column of a table, read by its type: see `Latest`.

    Raises TableMismatch where it is missing, text without categories or categories without text, a naive time, or not finite.
    """
    found = plain_column(table, name, column)
    if categories:
        return _categorical(found, table, name, column, categories)
    if pa.types.is_timestamp(found.type) or pa.types.is_date(found.type):
        return Values(kind="moment", data=moments(table, name, column))
    return Values(kind="number", data=numbers(table, name, column))


def feature_of(values: Values, rows: Ints, present: Bools, decided_at: Ints) -> pa.Array:
    """The feature of each decision: values[rows] where `present`, else null.

    rows: the row of each decision, any row where it is not present. decided_at: when each decision was made, in microseconds.
    """
    if values.texts is not None:
        return values.texts.take(pa.array(rows, mask=~present))
    found = numbers_of(values, rows, decided_at)
    return arrow_numbers(found.values, present & found.valid)


def numbers_of(values: Values, rows: Ints, decided_at: Ints) -> Numbers:
    """The feature of each decision as numbers, of values that are no texts: those of its row."""
    found, valid = taken(values.data.values, rows), taken(values.data.valid, rows)
    if values.kind == "moment":
        found = (decided_at - found) / 1e6
    elif values.kind == "number":
        found = found.astype(np.float64)
    return Numbers(values=found, valid=valid)


def taken(values: npt.NDArray[Any], rows: Ints) -> npt.NDArray[Any]:
    """values[rows], and zeros where there are no values at all."""
    return values[rows] if len(values) else np.zeros(len(rows), values.dtype)


def _categorical(found: pa.Array, table: pa.Table, name: str, column: str, categories: Categories) -> Values:
    if not (is_text(found.type) or pa.types.is_null(found.type)):
        raise TableMismatch(name, f"has {found.type} in column '{column}', expected string", table.column_names)
    texts = as_type(found, pa.string())
    if isinstance(categories, Learned):
        return Values(kind="text", texts=texts)
    codes = pc.index_in(texts, value_set=_value_set(categories))
    whole: Ints = codes.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return Values(kind="code", data=Numbers(values=whole, valid=present_in(codes)))


@lru_cache
def _value_set(categories: tuple[str, ...]) -> pa.Array:
    return pa.array(categories, pa.string())
