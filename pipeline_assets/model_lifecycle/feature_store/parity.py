"""The proof that vectors are the historical features of their decisions: a sample is computed anew and compared with them, bit for bit."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.processing.features.cleaned import NEWEST, Snapshots, read_observations, snapshots_of
from pipeline_assets.spec.models import Model

LOG = logging.getLogger(__name__)
SAMPLE_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Rows of a day that were computed anew, and in how many of them each column differs that differs at all."""

    day: date
    rows: int
    differing: Mapping[str, int]


def check_parity(settings: Settings, project: Project, model: Model, day: date, at: Snapshots = NEWEST) -> Parity:
    """Computes up to SAMPLE_ROWS vectors of a day (UTC) anew, as `historical_features`, and counts what differs from the lake's.

    Cleaned tables are read at the snapshots `at`, or at their newest. The sample is spread evenly over the day, so the same day gives the
    same one. Raises TableMismatch if the day's observations and vectors are not the same decisions.
    """
    snapshots = snapshots_of(settings, offline.tables_read(model), at)
    observations = read_observations(settings, model.observations, day, day, snapshots)
    vectors = offline.vectors(settings, model, day, day)
    _check_same(model, observations, vectors)
    rows = _spread(vectors.num_rows)
    if len(rows) == 0:
        return Parity(day=day, rows=0, differing={})
    spine = offline.with_decision_at(model.observations, observations.take(rows))
    found = offline.historical_features(settings, project, model.name, spine, at=snapshots, on_notice=LOG.info)
    found = found.append_column(FEATURE_HASH, feature_hashes(found, offline.feature_names(model)))
    kept = vectors.take(rows)
    counts = {name: count_different(found[name], kept[name]) for name in (*offline.feature_names(model), FEATURE_HASH)}
    return Parity(day=day, rows=len(rows), differing={name: count for name, count in counts.items() if count})


def count_different(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> int:
    """How many rows differ: one is null and the other is not, the types differ, or (for floats) any bit does."""
    if ours.type != theirs.type:
        return len(ours)
    unlike_null = _numpy(pc.is_null(ours)) != _numpy(pc.is_null(theirs))
    return int(np.count_nonzero(unlike_null | (_values(ours) != _values(theirs))))


def _values(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """The values, floats as the integers of their bits; one and the same value for every null."""
    if pa.types.is_floating(column.type):
        return _numpy(column.fill_null(0.0)).view(np.int64)
    return _numpy(column.fill_null("" if pa.types.is_string(column.type) else 0))


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    array: npt.NDArray[np.generic] = column.to_numpy()
    return array


def _check_same(model: Model, observations: pa.Table, vectors: pa.Table) -> None:
    """Both are in the order of (decision_at, keys), and must be the same rows."""
    same = (model.observations.decision_at, *model.observations.keys)
    if any(not observations[column].equals(vectors[column]) for column in same):
        problem = f"has {vectors.num_rows} rows, which are not those of the {observations.num_rows} observations"
        raise TableMismatch(".".join(names.vectors(model.name)), problem, vectors.column_names)


def _spread(rows: int) -> pa.Array:
    """Up to SAMPLE_ROWS positions, evenly from the first row to the last."""
    return pa.array(np.unique(np.linspace(0, rows - 1, min(rows, SAMPLE_ROWS)).astype(np.int64)))
