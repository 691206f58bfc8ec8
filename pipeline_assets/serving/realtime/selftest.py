"""Rows with known scores, and the proof that a model gives them back to the last bit, and how fast it scores one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.model_lifecycle.training.contract import ModelFeature
from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.model_lifecycle.training.matrix import feature_values
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.spec.models import Model

SPREAD_ROWS = 32
SPARSE_ROWS = 8
WARM_UP_ROWS = 20
Value = float | str | None
# One number, or for a multiclass model one probability per class.
Score = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Rows of feature values in the model's order, null where unknown, text as it is, and the score that each must get."""

    features: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    scores: tuple[Score, ...]


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
    decisions = [(name, "ascending") for name in (model.observations.decision_at, *model.observations.keys)]
    ordered = vectors.take(pc.sort_indices(vectors, sort_keys=decisions)).select(list(features))
    spread = np.unique(np.linspace(0, max(ordered.num_rows - 1, 0), SPREAD_ROWS).astype(np.int64))
    nulls = sum((np.asarray(pc.is_null(column)).astype(np.int64) for column in ordered.columns), np.zeros(ordered.num_rows, np.int64))
    sparse = np.argsort(-nulls, kind="stable")[:SPARSE_ROWS]
    chosen = ordered.take(pa.array(np.unique(np.concatenate([spread[: ordered.num_rows], sparse]))))
    empty = pa.table({name: pa.nulls(1, chosen.schema.field(name).type) for name in features})
    return pa.concat_tables([chosen, empty])


def golden(rows: pa.Table, scores: Scores) -> Golden:
    """The rows with the scores that they got."""
    columns = [_plain(column).to_pylist() for column in rows.columns]
    return Golden(features=tuple(rows.column_names), rows=tuple(zip(*columns, strict=True)), scores=_scores(scores))


def golden_from(stored: Mapping[str, Any]) -> Golden:
    """What `dataclasses.asdict` made of golden rows and JSON gave back; a float survives JSON to the last bit."""
    scores = (tuple(score) if isinstance(score, list) else score for score in stored["scores"])
    return Golden(features=tuple(stored["features"]), rows=tuple(tuple(row) for row in stored["rows"]), scores=tuple(scores))


def wrong_scores(scorer: Scorer, known: Golden) -> tuple[str, ...]:
    """What the model scores otherwise than the golden rows say, one sentence per row; empty if all are equal to the last bit."""
    found = _scores(scorer.score_values(matrix(scorer.contract.features, known)))
    return tuple(
        f"row {position} scores {_in_words(got)}, expected {_in_words(expected)}"
        for position, (got, expected) in enumerate(zip(found, known.scores, strict=True))
        if got != expected
    )


def measure(scorer: Scorer, known: Golden, rows: int) -> Latency:
    """Scores `rows` single rows, the golden ones in turn, after a warm-up."""
    values = matrix(scorer.contract.features, known)
    taken = []
    for position in range(-WARM_UP_ROWS, rows):
        row = values[position % len(values)].reshape(1, -1)
        began = perf_counter_ns()
        scorer.score_values(row)
        if position >= 0:
            taken.append((perf_counter_ns() - began) / 1e6)
    p50, p95, p99 = (float(value) for value in np.percentile(taken, [50, 95, 99]))
    return Latency(rows=rows, p50_ms=p50, p95_ms=p95, p99_ms=p99)


def matrix(features: Sequence[ModelFeature], known: Golden) -> npt.NDArray[np.float32]:
    """The rows as a model takes them: 32-bit floats in the order of the contract's features, NaN for null, text by its category."""
    columns = dict(zip(known.features, zip(*known.rows, strict=True), strict=True))
    arrays = {one.name: pa.array(columns[one.name], pa.string() if one.type == "text" else pa.float64()) for one in features}
    return feature_values(pa.table(arrays), features)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    # As the model takes them; whole numbers beyond 2^53 are rounded rather than refused.
    return column if is_text else column.cast(pa.float64(), safe=False)


def _scores(scores: Scores) -> tuple[Score, ...]:
    return tuple(tuple(map(float, score)) if scores.ndim > 1 else float(score) for score in scores)


def _in_words(score: Score) -> str:
    return repr(score) if isinstance(score, float) else f"({', '.join(map(repr, score))})"
