"""The self-test of a package: which rows it holds, and that a model which scores otherwise is recognized to the last bit."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest
import xgboost

from pipeline_assets.model_lifecycle.training.contract import ModelFeature
from pipeline_assets.model_lifecycle.training.matrix import feature_matrix, feature_values
from pipeline_assets.model_lifecycle.training.scorer import Scorer
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
from pipeline_assets.spec.tasks import Task
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.live_models import learned
from pipeline_assets_tests.model_rows import BINARY, MULTICLASS, REGRESSION, TASKS

FEATURES = (
    ModelFeature(name="a", type="number"),
    ModelFeature(name="b", type="text", categories=("red", "green", "blue")),
    ModelFeature(name="c", type="integer"),
)
NAMES = [feature.name for feature in FEATURES]
START = datetime(2013, 5, 1, tzinfo=UTC)
PARAMETERS: Mapping[Task, Mapping[str, object]] = {
    BINARY: {"objective": "binary:logistic"},
    MULTICLASS: {"objective": "multi:softprob", "num_class": 3},
    REGRESSION: {"objective": "reg:squarederror"},
}
OF_EACH_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)


def vectors(rows: int) -> pa.Table:
    """Rows with nulls here and there, and a text that is no category; the last ones know nothing of `a` and `b`."""
    random = np.random.default_rng(7)
    is_last = np.arange(rows) >= rows - 3
    return pa.table(
        {
            "flight_id": [f"f{row}" for row in range(rows)],
            "decision_at": [START + timedelta(minutes=row) for row in range(rows)],
            "a": pa.array(random.random(rows), mask=is_last | (random.random(rows) < 0.2)),
            "b": pa.array(random.choice(["red", "green", "blue", "pink"], rows), mask=is_last),
            "c": pa.array(random.integers(0, 9, rows)),
        }
    )


@cache
def scorer_of(task: Task) -> Scorer:
    """A small model of the three features."""
    rows = vectors(400)
    codes = np.nan_to_num(rows["a"].to_numpy()) * 2 + rows["c"].to_numpy() / 4
    labels = codes if task == REGRESSION else np.digitize(codes, [1.5, 2.5])
    matrix = feature_matrix(rows, FEATURES, np.minimum(labels, 1) if task == BINARY else labels)
    artifact = bytes(xgboost.train({**PARAMETERS[task], "nthread": 1}, matrix, 12).save_raw("ubj"))
    _, candidate = learned(1)
    classes = MULTICLASS.classes if task == MULTICLASS else ()
    return Scorer.load(artifact, replace(candidate.contract, features=FEATURES, classes=classes, sha256=sha256(artifact).hexdigest()))


def known(task: Task) -> Golden:
    """Golden rows with the scores that they get as a table."""
    rows = golden_rows(flight_delay, vectors(500), NAMES)
    return golden(rows, scorer_of(task).score(rows))


def test_golden_rows_are_spread_sparse_and_empty() -> None:
    """A few dozen rows from first to last, those that know least, and one of nulls only, whatever the order of the vectors."""
    table = vectors(500)
    rows = golden_rows(flight_delay, table, NAMES)
    shuffled = table.take(pa.array(np.random.default_rng(3).permutation(table.num_rows)))

    assert SPREAD_ROWS < rows.num_rows <= SPREAD_ROWS + SPARSE_ROWS + 1
    assert rows.to_pylist()[0]["c"] == table.to_pylist()[0]["c"]
    assert rows.to_pylist()[-1] == {"a": None, "b": None, "c": None}
    assert sum(row["a"] is None and row["b"] is None for row in rows.to_pylist()) >= 4
    assert golden_rows(flight_delay, shuffled, NAMES).equals(rows)


def test_whole_numbers_beyond_64_bit_floats_are_rounded_as_the_model_takes_them() -> None:
    """An integer of more than 53 bits is a golden value like any other."""
    features = (ModelFeature(name="n", type="integer"),)
    rows = pa.table({"n": [2**60 + 1, None]})

    kept = golden(rows, np.zeros(2))

    np.testing.assert_array_equal(matrix(features, kept), feature_values(rows, features))


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_vectors_give_few_golden_rows(rows: int) -> None:
    """Each vector once, and the empty row."""
    assert golden_rows(flight_delay, vectors(rows), NAMES).num_rows == rows + 1


@OF_EACH_TASK
def test_golden_rows_survive_json_to_the_last_bit(task: Task) -> None:
    """What was written is what is read back: numbers, text, and one score or several per row."""
    rows = known(task)
    again = golden_from(json.loads(json.dumps(asdict(rows))))

    assert again == rows
    assert np.array_equal(matrix(FEATURES, again), matrix(FEATURES, rows), equal_nan=True)


def test_text_is_taken_by_the_categories_of_the_contract() -> None:
    """A category is its place, any other text is null, as in a batch."""
    rows = Golden(features=("b", "c", "a"), rows=(("blue", 3.0, 0.5), ("pink", None, None)), scores=(0.0, 0.0))

    assert np.array_equal(matrix(FEATURES, rows), np.array([[0.5, 2, 3], [np.nan, np.nan, np.nan]], np.float32), equal_nan=True)


@OF_EACH_TASK
def test_the_right_model_passes_and_a_last_bit_is_recognized(task: Task) -> None:
    """Scoring row by row equals scoring a table; a score that differs in its last bit is named by its row."""
    rows, place = known(task), 5
    score = rows.scores[place]
    first = score if isinstance(score, float) else score[0]
    nudged = float(np.nextafter(np.float32(first), np.float32(1)))
    other = nudged if isinstance(score, float) else (nudged, *score[1:])
    altered = replace(rows, scores=(*rows.scores[:place], other, *rows.scores[place + 1 :]))

    assert wrong_scores(scorer_of(task), rows) == ()
    assert wrong_scores(scorer_of(task), altered) == (f"row {place} scores {score!r}, expected {other!r}",)


@OF_EACH_TASK
def test_latency_is_measured_row_by_row(task: Task) -> None:
    """As many rows as asked for, with percentiles in their order."""
    latency = measure(scorer_of(task), known(task), 50)

    assert latency.rows == 50
    assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms
