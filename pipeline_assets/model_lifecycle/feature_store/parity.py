"""The proof that vectors are the historical features of their decisions: a sample is computed anew and compared with them, bit for bit.

Of the days that a run makes it is a proof of the run. Of days that were made before it says which of them a version that came late has
changed: they are stale until they are made again, and no other day is.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.names import OBSERVATION_KNOWN_AT
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store import offline, vector_inputs
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.processing.features.cleaned import NEWEST, Snapshots, among, read_observations, snapshots_of
from pipeline_assets.processing.features.columns import is_text
from pipeline_assets.spec.models import Model

LOG = logging.getLogger(__name__)
SAMPLE_ROWS = 200
# Days are compared together if no more than these lie between the first and the last of them.
DAYS_AT_ONCE = 31
DAY, OURS, THEIRS = "_day", "_ours", "_theirs"

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A day's vectors beside what they would be if they were made now.

    `rows` were computed anew, and each column that differs at all differs in so many of them. `gained` decisions are asked for and have no
    vector, `lost` ones have a vector and are not asked for.
    """

    day: date
    rows: int
    differing: Mapping[str, int]
    gained: int
    lost: int

    @property
    def is_equal(self) -> bool:
        """Whether the day would come out as it is."""
        return not self.differing and not self.gained and not self.lost


def check_days(
    settings: Settings, project: Project, model: Model, days: Collection[date], at: Snapshots = NEWEST, rows: int | None = SAMPLE_ROWS
) -> list[Parity]:
    """Computes up to `rows` (None: all) vectors of each day (UTC) anew, as `historical_features`, and compares them with the lake's.

    Cleaned tables are read at the snapshots `at`, or at their newest. The sample is spread evenly over the day, so the same day gives the
    same one. One result per day, in order.
    """
    sources = vector_inputs.sources_of(model)
    snapshots = snapshots_of(settings, sources, among(at, sources))
    return [parity for span in spans(days) for parity in _check_span(settings, project, model, span, snapshots, rows)]


def spans(days: Collection[date]) -> list[list[date]]:
    """The days in order, in groups that are read together."""
    spans: list[list[date]] = []
    for day in sorted(days):
        if spans and day - spans[-1][0] < timedelta(days=DAYS_AT_ONCE):
            spans[-1].append(day)
        else:
            spans.append([day])
    return spans


def _check_span(
    settings: Settings, project: Project, model: Model, days: Sequence[date], snapshots: Snapshots, sample: int | None
) -> list[Parity]:
    observations = read_observations(settings, model.observations, days[0], days[-1], snapshots)
    vectors = offline.vectors(settings, model, days[0], days[-1])
    pairs = _pairs(model, observations, vectors)
    both = pl.concat([_spread(pairs.filter(pl.col(DAY) == day).drop_nulls(), sample) for day in days])
    asked, kept = observations.take(both[OURS].to_arrow()), vectors.take(both[THEIRS].to_arrow())
    differs = _differing(settings, project, model, asked, kept, snapshots) if both.height else {}
    return [_of_day(day, pairs.filter(pl.col(DAY) == day), (both[DAY] == day).to_numpy(), differs) for day in days]


def _of_day(day: date, pairs: pl.DataFrame, rows: Flags, differs: Mapping[str, Flags]) -> Parity:
    counts = {name: int(np.count_nonzero(flags[rows])) for name, flags in differs.items()}
    return Parity(
        day=day,
        rows=int(np.count_nonzero(rows)),
        differing={name: count for name, count in counts.items() if count},
        gained=pairs[THEIRS].null_count(),
        lost=pairs[OURS].null_count(),
    )


def _pairs(model: Model, observations: pa.Table, vectors: pa.Table) -> pl.DataFrame:
    """The places of each decision among the observations and among the vectors (null: it is not there), with its day, in their order."""
    same = [model.observations.decision_at, *model.observations.keys]
    ours, theirs = (pl.DataFrame(pl.from_arrow(table.select(same))) for table in (observations, vectors))
    joined = ours.with_row_index(OURS).join(theirs.with_row_index(THEIRS), on=same, how="full", coalesce=True, maintain_order="left_right")
    return joined.select(OURS, THEIRS, pl.col(same[0]).dt.date().alias(DAY))


def _spread(rows: pl.DataFrame, sample: int | None) -> pl.DataFrame:
    """Up to so many of the rows (None: all), evenly from the first to the last."""
    if sample is None or rows.height <= sample:
        return rows
    return rows[np.unique(np.linspace(0, rows.height - 1, sample).astype(np.int64))]


def _differing(
    settings: Settings, project: Project, model: Model, asked: pa.Table, kept: pa.Table, snapshots: Snapshots
) -> dict[str, Flags]:
    """For each column of vectors but those that say which decision it is, in which rows it is not what is computed anew."""
    spine = offline.with_decision_at(model.observations, asked)
    found = offline.historical_features(settings, project, model.name, spine, at=snapshots, on_notice=LOG.info)
    found = found.append_column(FEATURE_HASH, feature_hashes(found, offline.feature_names(model)))
    compared = {name: found[name] for name in (*model.slices, *offline.feature_names(model), FEATURE_HASH)}
    if model.observations.versions is not None:
        compared[OBSERVATION_KNOWN_AT] = asked[model.observations.versions.known_at]
    return {name: differs(column, kept[name]) if name in kept.column_names else _all(kept) for name, column in compared.items()}


def differs(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> Flags:
    """Which rows differ: one is null and the other is not, the types differ, or (for floats) any bit does."""
    if ours.type != theirs.type:
        return np.ones(len(ours), dtype=np.bool_)
    unlike_null = _numpy(pc.is_null(ours)) != _numpy(pc.is_null(theirs))
    flags: Flags = unlike_null | (_values(ours) != _values(theirs))
    return flags


def _all(rows: pa.Table) -> Flags:
    return np.ones(rows.num_rows, dtype=np.bool_)


def _values(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """The values, floats as the integers of their bits; one and the same value for every null."""
    if pa.types.is_floating(column.type):
        return _numpy(column.fill_null(0.0)).view(np.int64)
    if pa.types.is_timestamp(column.type):
        return _numpy(column.cast(pa.int64()).fill_null(0))
    return _numpy(column.fill_null("" if is_text(column.type) else 0))


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    array: npt.NDArray[np.generic] = column.to_numpy()
    return array
