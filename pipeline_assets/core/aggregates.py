"""What an aggregate is, in one table: the columns it takes, what is added up for it, its type, its empty value, its wording."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.spec.features import Aggregate

# What is kept of the events of a window: how many values are not null, their sum, the sum of their squares, an extreme, the newest value.
Part = Literal["count", "sum", "squares", "extreme", "newest"]
NUMBERS: tuple[ColumnKind, ...] = ("integer", "number", "boolean")


@dataclass(frozen=True, kw_only=True)
class AggregateKind:
    """One aggregate over a window of events.

    takes: the kinds of column that it can be asked of. needs_column: whether it must be asked of one. parts: what is kept of a window for
    it. dtype: of the feature. empty: its value where no event is in the window. wording: `{column}` over `{rows}` as people read it.
    """

    takes: tuple[ColumnKind, ...]
    needs_column: bool
    parts: tuple[Part, ...]
    dtype: Literal["int64", "float64"]
    empty: int | None
    wording: str


def _of_numbers(parts: tuple[Part, ...], wording: str) -> AggregateKind:
    return AggregateKind(takes=NUMBERS, needs_column=True, parts=parts, dtype="float64", empty=None, wording=wording)


AGGREGATES: Mapping[Aggregate, AggregateKind] = {
    "count": AggregateKind(
        takes=(*NUMBERS, "string", "timestamp", "date"),
        needs_column=False,
        parts=("count",),
        dtype="int64",
        empty=0,
        wording="Number of {rows}",
    ),
    "sum": _of_numbers(("count", "sum"), "Sum of {column} over {rows}"),
    "mean": _of_numbers(("count", "sum"), "Mean of {column} over {rows}"),
    "rate": AggregateKind(
        takes=("boolean",),
        needs_column=True,
        parts=("count", "sum"),
        dtype="float64",
        empty=None,
        wording="Share with {column} among {rows}",
    ),
    "variance": _of_numbers(("count", "sum", "squares"), "Variance (of the sample) of {column} over {rows}"),
    "stddev": _of_numbers(("count", "sum", "squares"), "Standard deviation (of the sample) of {column} over {rows}"),
    "min": _of_numbers(("extreme",), "Least {column} of {rows}"),
    "max": _of_numbers(("extreme",), "Greatest {column} of {rows}"),
    "last": _of_numbers(("newest",), "Newest {column} of {rows}"),
    "time_since_last": AggregateKind(
        takes=(), needs_column=False, parts=("newest",), dtype="float64", empty=None, wording="Seconds since the newest of {rows}"
    ),
}
