"""What a feature table is judged by before it is written: are all rows there, are all numbers finite, how much is unknown?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_assets.processing.lake.tables import MadeFrom

# A feature that is null for more than this share of the rows is worth a look.
MAX_NULL_SHARE = 0.95
NO_DAYS: "Mapping[date, MadeFrom]" = MappingProxyType({})


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


def judge(requests: "pa.Table", table: "pa.Table", identity: Sequence[str], settled: "Mapping[date, MadeFrom]" = NO_DAYS) -> Quality:
    """The quality of a feature table. `identity` are its key columns and time, all others are features; requests may hold repeats.

    `settled` days are not among these rows: they were judged when they were written, and count with what is known of them.
    """
    features, before = [name for name in table.column_names if name not in identity], judge_settled(settled)
    rows = before.rows + table.num_rows
    nulls = {name: table.column(name).null_count + sum(one.nulls.get(name, 0) for one in settled.values()) for name in features}
    broken = {name: _not_finite(table.column(name)) for name in features}
    return Quality(
        asked=before.asked + _distinct(requests, identity),
        rows=rows,
        distinct=before.distinct + _distinct(table, identity),
        broken={name: count for name, count in broken.items() if count},
        null_shares={name: count / max(rows, 1) for name, count in nulls.items()},
    )


def judge_settled(settled: "Mapping[date, MadeFrom]", features: Sequence[str] = ()) -> Quality:
    """The quality of days that were judged when they were written, with the shares of nulls of some features."""
    rows = sum(one.rows for one in settled.values())
    nulls = {name: sum(one.nulls.get(name, 0) for one in settled.values()) for name in features}
    shares = {name: count / max(rows, 1) for name, count in nulls.items()}
    return Quality(asked=rows, rows=rows, distinct=rows, broken={}, null_shares=shares)


def _distinct(table: "pa.Table", columns: Sequence[str]) -> int:
    import polars as pl

    return pl.DataFrame(table.select(columns)).n_unique()


def _not_finite(column: "pa.ChunkedArray") -> int:
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_floating(column.type):
        return 0
    return int((~np.isfinite(column.fill_null(0.0).to_numpy())).sum())
