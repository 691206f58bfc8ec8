"""The self-test of a package: which rows it holds, and that a model which scores otherwise is told apart to the last bit."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import xgboost

from pipeline_assets.serving.realtime.selftest import (
    SPARSE_ROWS,
    SPREAD_ROWS,
    Golden,
    golden,
    golden_from,
    golden_rows,
    matrix,
    measure,
    wrong_scores,
)

FEATURES = ("a", "b", "c")
START = datetime(2013, 5, 1, tzinfo=UTC)


def vectors(rows: int) -> pa.Table:
    """Rows with nulls here and there; the last ones know nothing of `a` and `b`."""
    random = np.random.default_rng(7)
    is_late = np.arange(rows) >= rows - 3
    return pa.table(
        {
            "flight_id": [f"f{row}" for row in range(rows)],
            "decision_at": [START + timedelta(minutes=row) for row in range(rows)],
            "a": pa.array(random.random(rows), mask=is_late | (random.random(rows) < 0.2)),
            "b": pa.array(random.random(rows), mask=is_late),
            "c": pa.array(random.integers(0, 9, rows)),
        }
    )


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    """A small model of the three features."""
    random = np.random.default_rng(1)
    values = random.random((400, len(FEATURES)))
    values[random.random(values.shape) < 0.2] = np.nan
    labels = (np.nan_to_num(values).sum(axis=1) > 1.2).astype(float)
    learned = xgboost.DMatrix(values, labels, feature_names=list(FEATURES))
    return xgboost.train({"objective": "binary:logistic", "nthread": 1}, learned, 12)


def known(booster: xgboost.Booster) -> Golden:
    """Golden rows with the scores that the booster gives a whole table."""
    rows = golden_rows(flight_delay, vectors(500), FEATURES)
    columns = np.column_stack([column.cast(pa.float64()).to_numpy() for column in rows.columns])
    scores = booster.predict(xgboost.DMatrix(columns, feature_names=list(FEATURES)))
    return golden(rows, scores.astype(np.float64))


def test_golden_rows_are_spread_sparse_and_empty() -> None:
    """A few dozen rows from first to last, those that know least, and one of nulls only, whatever the order of the vectors."""
    table = vectors(500)
    rows = golden_rows(flight_delay, table, FEATURES)
    shuffled = table.take(pa.array(np.random.default_rng(3).permutation(table.num_rows)))

    assert SPREAD_ROWS < rows.num_rows <= SPREAD_ROWS + SPARSE_ROWS + 1
    assert rows.to_pylist()[0]["c"] == table.to_pylist()[0]["c"]
    assert rows.to_pylist()[-1] == {"a": None, "b": None, "c": None}
    assert sum(row["a"] is None and row["b"] is None for row in rows.to_pylist()) >= 4
    assert golden_rows(flight_delay, shuffled, FEATURES).equals(rows)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_vectors_give_few_golden_rows(rows: int) -> None:
    """Each vector once, and the empty row."""
    assert golden_rows(flight_delay, vectors(rows), FEATURES).num_rows == rows + 1


def test_golden_rows_survive_json_to_the_last_bit(booster: xgboost.Booster) -> None:
    """What was written is what is read back."""
    told = known(booster)

    assert golden_from(json.loads(json.dumps(asdict(told)))) == told
    assert np.array_equal(matrix(golden_from(json.loads(json.dumps(asdict(told))))), matrix(told), equal_nan=True)


def test_the_right_model_passes_and_a_last_bit_is_told_apart(booster: xgboost.Booster) -> None:
    """Scoring row by row equals scoring a table; a score that differs in its last bit is named by its row."""
    told = known(booster)
    nudged = float(np.nextafter(np.float32(told.scores[5]), np.float32(1)))
    altered = replace(told, scores=(*told.scores[:5], nudged, *told.scores[6:]))

    assert wrong_scores(booster, told) == ()
    assert wrong_scores(booster, altered) == (f"row 5 scores {told.scores[5]!r}, expected {nudged!r}",)


def test_latency_is_measured_row_by_row(booster: xgboost.Booster) -> None:
    """As many rows as asked for, with percentiles in their order."""
    latency = measure(booster, known(booster), 50)

    assert latency.rows == 50
    assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms
