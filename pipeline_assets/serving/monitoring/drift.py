"""Drift of each feature and of the score per day: histograms over all rows, compared with the training reference.

The measure is the population stability index, sum over bins of (p - q) · ln(p / q), where p is the share of the day's rows in a bin and q
that of the reference (Siddiqi, Credit Risk Scorecards, 2006); nulls are a bin of their own, categories have a bin each, and so has a value
at which the reference heaps up. A day is small beside its reference, and a feature that moves slowly takes few values on one day, so its
index is large on every day, drift or not. A feature has therefore drifted when its index exceeds both the declared limit and what the days
of the reference themselves show. What follows the days of the week has one value on a day and is judged by the seven days up to it, in the
reference as well. The reference is made anew from the archived training set whenever days are measured; no bins are stored.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_assets.serving.monitoring.bins import Bins, cut

SMALLEST_SHARE = 1e-4
REFERENCE_DAYS_QUANTILE = 0.99
WEEK = timedelta(days=7)
NO_CATEGORIES: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Categories:
    """A column of categories, as text or by their positions, with a bin for each, and one for everything else."""

    column: str
    values: tuple[str, ...]

    @property
    def count(self) -> int:
        """The bins of values; that of nulls comes after them."""
        return len(self.values) + 1

    def places(self, column: pa.ChunkedArray) -> NDArray[np.intp]:
        """The bin of each value, any for a null."""
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            codes = pc.fill_null(column.cast(pa.float64()), -1.0).to_numpy()
            is_known = (codes >= 0) & (codes < len(self.values)) & (codes == np.floor(codes))
            return np.where(is_known, codes, len(self.values)).astype(np.intp)
        found = pc.index_in(column.cast(pa.string()), value_set=pa.array(self.values, pa.string()), skip_nulls=True)
        places: NDArray[np.intp] = pc.fill_null(found, len(self.values)).to_numpy().astype(np.intp)
        return places


AnyBins = Bins | Categories


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What drift is measured against: bins, shares and the limit of each column; `weekly` are those that are judged by weeks."""

    bins: tuple[AnyBins, ...]
    shares: tuple[NDArray[np.float64], ...]
    limits: tuple[float, ...]
    rows: int
    weekly: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The drift of one column on one day: its index, the limit it is held against, and the share of nulls.

    `rows` are those of the day, or of the seven days up to it where the column is judged by weeks.
    """

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
    weekly: Collection[str] = (),
) -> Reference:
    """The reference made of training rows: `bins` bins of equal frequency per column, and a bin per heap (see `bins.cut`).

    rows: one row per observation, with `columns` and with `time_column` in UTC. A column is numbers, or those of `categories`, as text or
    by their positions. The limit of a column is the larger of `max_psi` and the 99th percentile of the index over the reference's own days,
    or over its weeks where the column is one of `weekly`.
    """
    chosen = tuple(
        Categories(column=column, values=tuple(categories[column])) if column in categories else cut(rows.column(column), column, bins)
        for column in columns
    )
    days, counts = histograms(rows, chosen, time_column)
    totals = [per_day.sum(axis=0) for per_day in counts]
    shares = tuple(total / max(total.sum(), 1) for total in totals)
    judged = [by_weeks(days, per_day) if one.column in weekly else per_day for one, per_day in zip(chosen, counts, strict=True)]
    limits = tuple(_limit(per_day, share, max_psi) for per_day, share in zip(judged, shares, strict=True))
    return Reference(bins=chosen, shares=shares, limits=limits, rows=rows.num_rows, weekly=frozenset(weekly))


def measure(rows: pa.Table, against: Reference, time_column: str, weeks: pa.Table | None = None, begins: date | None = None) -> list[Drift]:
    """The drift of each column of the reference on each UTC day of `rows`, by day and then in the reference's order.

    weeks: rows of these days and of the six before, by which columns are judged that are judged by weeks (None: `rows`). begins: the first
    day of which there can be any (None: the first of which there are). Such a column is left out on the six days after it, on which the
    week is not whole; so a day is judged alike in whatever range of days it is measured.
    """
    days, counts = histograms(rows, against.bins, time_column)
    of_weeks = _weeks(rows if weeks is None else weeks, against, time_column, begins)
    found: list[Drift] = []
    for position, day in enumerate(days):
        for bins, per_day, share, limit in zip(against.bins, counts, against.shares, against.limits, strict=True):
            if bins.column not in of_weeks:
                found.append(_drift(day, bins.column, per_day[position], share, limit))
            elif day in of_weeks[bins.column]:
                found.append(_drift(day, bins.column, of_weeks[bins.column][day], share, limit))
    return found


def _weeks(rows: pa.Table, against: Reference, time_column: str, begins: date | None) -> dict[str, dict[date, NDArray[np.int64]]]:
    """The counts of each column that is judged by weeks, by the last day of each whole week."""
    weekly = [one for one in against.bins if one.column in against.weekly]
    days, counts = histograms(rows, weekly, time_column)
    weeks = {one.column: by_weeks(days, per_day, begins) for one, per_day in zip(weekly, counts, strict=True)}
    return {column: dict(zip(days[len(days) - len(found) :], found, strict=True)) for column, found in weeks.items()}


def by_weeks(days: Sequence[date], per_day: NDArray[np.int64], begins: date | None = None) -> NDArray[np.int64]:
    """The counts of the seven days up to each of `days` (ascending), for those at least six days after `begins` (None: the first)."""
    places = np.asarray(days, dtype="datetime64[D]").astype(np.int64)
    sums = np.concatenate((np.zeros((1, per_day.shape[1]), np.int64), per_day.cumsum(axis=0)))
    starts = np.searchsorted(places, places - (WEEK.days - 1))
    since = places[:1] if begins is None else np.asarray([begins], dtype="datetime64[D]").astype(np.int64)
    weeks: NDArray[np.int64] = (sums[1:] - sums[starts])[places - since >= WEEK.days - 1]
    return weeks


def _drift(day: date, column: str, counts: NDArray[np.int64], share: NDArray[np.float64], limit: float) -> Drift:
    rows = int(counts.sum())
    return Drift(day=day, column=column, psi=psi(counts, share), limit=limit, rows=rows, null_share=float(counts[-1] / max(rows, 1)))


def _limit(counts: NDArray[np.int64], share: NDArray[np.float64], max_psi: float) -> float:
    if not len(counts):
        return max_psi
    return max(max_psi, float(np.quantile([psi(one, share) for one in counts], REFERENCE_DAYS_QUANTILE)))


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
