"""What an aggregate is, in one table: the columns it takes, what is kept of a window for it, how that becomes its value, its wording."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.spec.features import Aggregate

# What is kept of the events of a window: how many values are not null, their sum, the sum of their squares, an extreme, the newest value.
Part = Literal["count", "sum", "squares", "extreme", "newest"]
# How the parts become the value: the number of values, their sum, mean or spread, an extreme, the newest value, or the seconds since it.
Finish = Literal["count", "sum", "mean", "variance", "stddev", "least", "greatest", "value", "age"]
NUMBERS: tuple[ColumnKind, ...] = ("integer", "number", "boolean")


@dataclass(frozen=True, kw_only=True)
class AggregateKind:
    """One aggregate over a window of events.

    takes: the kinds of column that it can be asked of. needs_column: whether it must be asked of one. parts: what is kept of a window for
    it, and finish: how that becomes the value. dtype: of the feature. fewest: how many values a window must have; with fewer the feature
    is `empty`. wording: `{column}` over `{rows}` as people read it.
    """

    takes: tuple[ColumnKind, ...]
    needs_column: bool
    parts: tuple[Part, ...]
    finish: Finish
    wording: str
    dtype: Literal["int64", "float64"] = "float64"
    fewest: int = 1
    empty: int | None = None


def _of_numbers(parts: tuple[Part, ...], finish: Finish, wording: str, fewest: int = 1) -> AggregateKind:
    return AggregateKind(takes=NUMBERS, needs_column=True, parts=parts, finish=finish, wording=wording, fewest=fewest)


AGGREGATES: Mapping[Aggregate, AggregateKind] = {
    "count": AggregateKind(
        takes=(*NUMBERS, "string", "timestamp", "date"),
        needs_column=False,
        parts=("count",),
        finish="count",
        wording="Number of {rows}",
        dtype="int64",
        fewest=0,
        empty=0,
    ),
    "sum": _of_numbers(("count", "sum"), "sum", "Sum of {column} over {rows}"),
    "mean": _of_numbers(("count", "sum"), "mean", "Mean of {column} over {rows}"),
    "rate": AggregateKind(
        takes=("boolean",), needs_column=True, parts=("count", "sum"), finish="mean", wording="Share with {column} among {rows}"
    ),
    "variance": _of_numbers(("count", "sum", "squares"), "variance", "Variance (of the sample) of {column} over {rows}", fewest=2),
    "stddev": _of_numbers(("count", "sum", "squares"), "stddev", "Standard deviation (of the sample) of {column} over {rows}", fewest=2),
    "min": _of_numbers(("extreme",), "least", "Least {column} of {rows}"),
    "max": _of_numbers(("extreme",), "greatest", "Greatest {column} of {rows}"),
    "last": _of_numbers(("newest",), "value", "Newest {column} of {rows}"),
    "time_since_last": AggregateKind(
        takes=(), needs_column=False, parts=("newest",), finish="age", wording="Seconds since the newest of {rows}"
    ),
}
