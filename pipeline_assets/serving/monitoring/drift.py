"""Drift of each feature and of the score per day: histograms over all rows, compared with the training reference.

The measure is the population stability index, sum over bins of (p - q) · ln(p / q), where p is the share of the day's rows in a bin and q
that of the reference (Siddiqi, Credit Risk Scorecards, 2006); nulls are a bin of their own, text has a bin per category, and so has a value
at which the reference heaps up. A day is small beside its reference, and a feature that moves slowly takes few values on one day, so its
index is large on every day, drift or not. A feature has therefore drifted when its index exceeds both the declared limit and what the days
of the reference themselves show. The reference is made anew from the archived training set whenever days are measured; no bins are stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_assets.serving.monitoring.bins import Bins, cut

SMALLEST_SHARE = 1e-4
REFERENCE_DAYS_QUANTILE = 0.99
NO_CATEGORIES: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Categories:
    """A column of text with a bin per category, and one for every other text."""

    column: str
    values: tuple[str, ...]

    @property
    def count(self) -> int:
        """The bins of values; that of nulls comes after them."""
        return len(self.values) + 1

    def places(self, column: pa.ChunkedArray) -> NDArray[np.intp]:
        """The bin of each value, any for a null."""
        found = pc.index_in(column.cast(pa.string()), value_set=pa.array(self.values, pa.string()), skip_nulls=True)
        places: NDArray[np.intp] = pc.fill_null(found, len(self.values)).to_numpy().astype(np.intp)
        return places


AnyBins = Bins | Categories


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What drift is measured against: bins, shares and the limit of each column."""

    bins: tuple[AnyBins, ...]
    shares: tuple[NDArray[np.float64], ...]
    limits: tuple[float, ...]
    rows: int


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The drift of one column on one day: its index, the limit it is held against, and the share of nulls."""

    day: date
    column: str
    psi: float
    limit: float
    rows: int
    null_share: float

    @property
    def is_drifted(self) -> bool:
        """Whether the index exceeds its limit."""
        return self.psi > self.limit


def reference(
    rows: pa.Table,
    columns: Sequence[str],
    time_column: str,
    *,
    bins: int,
    max_psi: float,
    categories: Mapping[str, Sequence[str]] = NO_CATEGORIES,
) -> Reference:
    """The reference made of training rows: `bins` bins of equal frequency per column, and a bin per heap (see `bins.cut`).

    rows: one row per observation, with `columns` and with `time_column` in UTC. A column is numbers, or text if `categories` names those
    that have bins of their own. The limit of a column is the larger of `max_psi` and the 99th percentile of the index over the reference's
    own days.
    """
    chosen = tuple(
        Categories(column=column, values=tuple(categories[column])) if column in categories else cut(rows.column(column), column, bins)
        for column in columns
    )
    days, counts = histograms(rows, chosen, time_column)
    totals = [per_day.sum(axis=0) for per_day in counts]
    shares = tuple(total / max(total.sum(), 1) for total in totals)
    limits = tuple(
        max(max_psi, float(np.quantile([psi(day, share) for day in per_day], REFERENCE_DAYS_QUANTILE))) if days else max_psi
        for per_day, share in zip(counts, shares, strict=True)
    )
    return Reference(bins=chosen, shares=shares, limits=limits, rows=rows.num_rows)


def measure(rows: pa.Table, against: Reference, time_column: str) -> list[Drift]:
    """The drift of each column of the reference on each UTC day of `rows`, by day and then in the reference's order."""
    days, counts = histograms(rows, against.bins, time_column)
    return [
        Drift(
            day=day,
            column=bins.column,
            psi=psi(per_day[position], share),
            limit=limit,
            rows=int(per_day[position].sum()),
            null_share=float(per_day[position][-1] / max(per_day[position].sum(), 1)),
        )
        for position, day in enumerate(days)
        for bins, per_day, share, limit in zip(against.bins, counts, against.shares, against.limits, strict=True)
    ]


def psi(counts: NDArray[np.int64], reference_shares: NDArray[np.float64]) -> float:
    """The population stability index of bin counts against reference shares; a share below 1e-4 is taken as 1e-4, so it stays finite."""
    p = np.maximum(counts / max(counts.sum(), 1), SMALLEST_SHARE)
    q = np.maximum(reference_shares, SMALLEST_SHARE)
    return float(np.sum((p - q) * np.log(p / q)))


def histograms(rows: pa.Table, bins: Sequence[AnyBins], time_column: str) -> tuple[list[date], list[NDArray[np.int64]]]:
    """The UTC days of `rows`, and per column its bin counts: one row per day, one column per bin, nulls last. A NaN is above every edge."""
    days, day_of = np.unique(rows.column(time_column).to_numpy().astype("datetime64[D]"), return_inverse=True)
    return days.astype(object).tolist(), [_counts(rows.column(one.column), one, day_of, len(days)) for one in bins]


def _counts(column: pa.ChunkedArray, bins: AnyBins, day_of: NDArray[np.intp], days: int) -> NDArray[np.int64]:
    """The rows of each day (by number) in each bin, and its nulls last."""
    width = bins.count + 1
    found = bins.places(column)
    found[column.is_null().to_numpy()] = bins.count
    return np.bincount(day_of * width + found, minlength=days * width).reshape(days, width)
