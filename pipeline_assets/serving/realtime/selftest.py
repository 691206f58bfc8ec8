"""Rows with known scores, and the proof that a booster gives them back to the last bit, and how fast it scores one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from xgboost import Booster

SPREAD_ROWS = 32
SPARSE_ROWS = 8
WARM_UP_ROWS = 20
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Rows of feature values in the model's order, null where unknown, and the score that each must get."""

    features: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one row takes to score, in milliseconds, over `rows` rows one after the other on one thread."""

    rows: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


def golden_rows(model: Model, vectors: pa.Table, features: Sequence[str]) -> pa.Table:
    """Rows worth testing: SPREAD_ROWS evenly over the decisions, the SPARSE_ROWS with the most nulls, and one of nulls only.

    The same vectors give the same rows, whatever their order. Returns the columns `features` alone; one row where there are no vectors.
    """
    decisions = [(model.observations.decision_at, "ascending"), (model.observations.key, "ascending")]
    ordered = vectors.take(pc.sort_indices(vectors, sort_keys=decisions)).select(list(features))
    spread = np.unique(np.linspace(0, max(ordered.num_rows - 1, 0), SPREAD_ROWS).astype(np.int64))
    nulls = sum((np.asarray(pc.is_null(column)).astype(np.int64) for column in ordered.columns), np.zeros(ordered.num_rows, np.int64))
    sparse = np.argsort(-nulls, kind="stable")[:SPARSE_ROWS]
    chosen = ordered.take(pa.array(np.unique(np.concatenate([spread[: ordered.num_rows], sparse]))))
    empty = pa.table({name: pa.nulls(1, chosen.schema.field(name).type) for name in features})
    return pa.concat_tables([chosen, empty])


def golden(rows: pa.Table, scores: npt.NDArray[np.float64]) -> Golden:
    """The rows with the scores that they got."""
    columns = [column.cast(pa.float64()).to_pylist() for column in rows.columns]
    return Golden(features=tuple(rows.column_names), rows=tuple(zip(*columns, strict=True)), scores=tuple(float(score) for score in scores))


def golden_from(stored: Mapping[str, Any]) -> Golden:
    """What `dataclasses.asdict` made of golden rows and JSON gave back; a float survives JSON to the last bit."""
    return Golden(features=tuple(stored["features"]), rows=tuple(tuple(row) for row in stored["rows"]), scores=tuple(stored["scores"]))


def wrong_scores(booster: "Booster", known: Golden) -> tuple[str, ...]:
    """What the booster scores otherwise than the golden rows say, one sentence a row; empty if all are equal to the last bit."""
    found = _score(booster, matrix(known)).astype(np.float64)
    return tuple(
        f"row {position} scores {got!r}, expected {expected!r}"
        for position, (got, expected) in enumerate(zip(found.tolist(), known.scores, strict=True))
        if got != expected
    )


def measure(booster: "Booster", known: Golden, rows: int) -> Latency:
    """Scores `rows` single rows, the golden ones in turn, after a warm-up."""
    values = matrix(known)
    booster.set_param({"nthread": 1})
    taken = []
    for position in range(-WARM_UP_ROWS, rows):
        row = values[position % len(values)].reshape(1, -1)
        began = perf_counter_ns()
        _score(booster, row)
        if position >= 0:
            taken.append((perf_counter_ns() - began) / 1e6)
    p50, p95, p99 = (float(value) for value in np.percentile(taken, [50, 95, 99]))
    return Latency(rows=rows, p50_ms=p50, p95_ms=p95, p99_ms=p99)


def matrix(known: Golden) -> Floats:
    """The rows as XGBoost takes them: 32-bit floats, NaN for null."""
    return np.array([[np.nan if value is None else value for value in row] for row in known.rows], dtype=np.float32)


def _score(booster: "Booster", values: Floats) -> npt.NDArray[np.float32]:
    return np.asarray(booster.inplace_predict(values, validate_features=False), dtype=np.float32)
