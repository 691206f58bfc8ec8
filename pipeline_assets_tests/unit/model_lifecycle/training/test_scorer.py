"""The one scorer: the same bits whatever stands beside a row, and those of XGBoost's own matrix; nothing that was changed is loaded."""

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from pipeline_assets.core.errors import ArtifactCorrupt, TableMismatch, ValueUnfit
from pipeline_assets.model_lifecycle.training.matrix import feature_matrix, feature_values
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.spec.tasks import Task
from pipeline_assets_tests.live_models import learned
from pipeline_assets_tests.model_rows import BINARY, MULTICLASS, SIGNAL, TASKS

OF_EACH_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)


@cache
def _learned(task: Task) -> tuple[pa.Table, bytes, Scorer]:
    """Rows, the model file that was learned from them, and its scorer."""
    rows, candidate = learned(7, task)
    return rows, candidate.fitted.artifact, Scorer.load(candidate.fitted.artifact, candidate.contract)


@OF_EACH_TASK
def test_scores_are_those_of_xgboosts_matrix_to_the_last_bit(task: Task) -> None:
    """Scoring in place is quicker for a single row, and gives nothing else."""
    rows, _, scorer = _learned(task)

    expected = scorer.booster.predict(feature_matrix(rows, scorer.contract.features)).astype(np.float64)

    assert scorer.score(rows).dtype == np.float64
    assert scorer.score(rows).tolist() == expected.tolist()


@OF_EACH_TASK
def test_a_score_does_not_depend_on_the_rows_beside_it(task: Task) -> None:
    """One row alone, and columns in another order, give the same bits as the whole table, and so do its numbers."""
    rows, _, scorer = _learned(task)
    together = scorer.score(rows)

    backwards = rows.select(rows.column_names[::-1])
    alone = [scorer.score(backwards.slice(row, 1))[0].tolist() for row in range(0, rows.num_rows, 500)]

    assert alone == together[::500].tolist()
    assert scorer.score_values(feature_values(rows, scorer.contract.features)[::500]).tolist() == alone


@OF_EACH_TASK
def test_scores_have_the_shape_of_the_task(task: Task) -> None:
    """One number per row, or one probability per class that add up to 1; no rows give no scores."""
    rows, _, scorer = _learned(task)
    classes = (3,) if task == MULTICLASS else ()

    assert scorer.score(rows).shape == (rows.num_rows, *classes)
    assert scorer.score(rows.slice(0, 0)).shape == (0, *classes)
    if task == MULTICLASS:
        assert scorer.score(rows).sum(axis=1) == pytest.approx(1.0, abs=1e-6)


def test_a_file_that_is_not_the_contracts_is_never_loaded() -> None:
    """One bit changed, or the contract of another file."""
    _, artifact, scorer = _learned(BINARY)
    changed = bytearray(artifact)
    changed[-10] ^= 1

    with pytest.raises(ArtifactCorrupt, match="model file of small_delay"):
        Scorer.load(bytes(changed), scorer.contract)
    with pytest.raises(ArtifactCorrupt):
        Scorer.load(artifact, replace(scorer.contract, sha256="0" * 64))


def test_a_missing_feature_is_named() -> None:
    """Nothing is scored from what is not there."""
    rows, _, scorer = _learned(BINARY)

    with pytest.raises(TableMismatch, match=f"lacks {SIGNAL}"):
        scorer.score(rows.drop_columns([SIGNAL]))


def test_a_value_that_no_32_bit_float_holds_is_named_with_its_decision() -> None:
    """A batch of vectors is refused with the feature, the value and the decision."""
    rows, _, scorer = _learned(BINARY)
    broken = rows.set_column(rows.column_names.index(SIGNAL), SIGNAL, pa.array([0.5] * (rows.num_rows - 1) + [1e39]))

    with pytest.raises(ValueUnfit, match=rf"in {SIGNAL}, the first 1e\+39 in row {rows.num_rows} \(flight_id {rows['flight_id'][-1]}"):
        scorer.score(broken, ("flight_id", "decision_at"))
