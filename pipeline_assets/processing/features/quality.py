"""What a feature table is judged by before it is written: are all rows there, are all numbers finite, how much is unknown?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# A feature that is null for more than this share of the rows is worth a look.
MAX_NULL_SHARE = 0.95


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What was found.

    asked: distinct keys and times of the requests. rows: of the table; distinct: how many of them differ in key and time. broken: values
    that are NaN or infinite, by feature, where there are any. null_shares: by feature.
    """

    asked: int
    rows: int
    distinct: int
    broken: dict[str, int]
    null_shares: dict[str, float]

    @property
    def has_all_rows(self) -> bool:
        """One row for each distinct key and time asked for, and no other."""
        return self.asked == self.rows == self.distinct

    @property
    def is_finite(self) -> bool:
        """No feature holds NaN or an infinite value."""
        return not self.broken

    @property
    def mostly_null(self) -> dict[str, float]:
        """The features whose share of nulls exceeds `MAX_NULL_SHARE`."""
        return {name: share for name, share in self.null_shares.items() if share > MAX_NULL_SHARE}


def judge(requests: "pa.Table", table: "pa.Table", identity: Sequence[str]) -> Quality:
    """The quality of a feature table. `identity` are its key columns and time, all others are features; requests may hold repeats."""
    features = [name for name in table.column_names if name not in identity]
    shares = {name: table.column(name).null_count / max(table.num_rows, 1) for name in features}
    broken = {name: _not_finite(table.column(name)) for name in features}
    return Quality(
        asked=_distinct(requests, identity),
        rows=table.num_rows,
        distinct=_distinct(table, identity),
        broken={name: count for name, count in broken.items() if count},
        null_shares=shares,
    )


def _distinct(table: "pa.Table", columns: Sequence[str]) -> int:
    import polars as pl

    return pl.DataFrame(table.select(columns)).n_unique()


def _not_finite(column: "pa.ChunkedArray") -> int:
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_floating(column.type):
        return 0
    return int((~np.isfinite(column.fill_null(0.0).to_numpy())).sum())
