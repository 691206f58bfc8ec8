"""Learning: the same inputs give the same bytes, features are taken as the contract says, and broken ones are refused."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.model_lifecycle.training.archive import TrainingSet
from pipeline_assets.model_lifecycle.training.candidate import load_booster, score_file, train_candidate
from pipeline_assets.model_lifecycle.training.contract import ModelContract, baseline_features, code_version, model_features
from pipeline_assets.model_lifecycle.training.dataset import BLOCK, HOLDOUT, VALIDATION, blocks, build_training_set, only
from pipeline_assets.model_lifecycle.training.evaluate import scores_of
from pipeline_assets.model_lifecycle.training.fit import Fitted, fit, labels_of
from pipeline_assets.model_lifecycle.training.matrix import feature_matrix
from pipeline_assets_tests.model_rows import AS_OF, SIGNAL, labels, small_model, vectors

MODEL = small_model()
FEATURES = model_features(MODEL)
VECTORS = vectors(MODEL)
ROWS = build_training_set(MODEL, VECTORS, labels(MODEL, VECTORS), AS_OF)
RECORD = TrainingSet(
    model=MODEL.name,
    as_of=AS_OF,
    path="s3://bucket/set.parquet",
    sha256="0" * 64,
    size_bytes=1,
    rows=ROWS.num_rows,
    blocks=blocks(MODEL, ROWS, AS_OF),
    snapshots={"feature_store.small_delay": 42},
)


def _silent(_: str) -> None:
    """Hears progress and says nothing."""


def test_the_same_inputs_give_the_same_candidate() -> None:
    """Model file, contract, metrics and plots are equal to the last byte."""
    first = train_candidate(MODEL, RECORD, ROWS, _silent)
    second = train_candidate(MODEL, RECORD, ROWS, _silent)

    assert first == second
    assert first.contract.to_json() == second.contract.to_json()


def test_another_seed_gives_another_model() -> None:
    """The equality above is no accident of a model that ignores its parameters."""
    other = replace(MODEL, parameters={**MODEL.parameters, "seed": 1})

    assert fit(MODEL, FEATURES, ROWS, _silent).artifact != fit(other, FEATURES, ROWS, _silent).artifact


def test_rounds_after_the_best_are_cut_off() -> None:
    """The file holds the rounds up to the smallest validation loss, and no more are tried than patience allows."""
    fitted = fit(MODEL, FEATURES, ROWS, _silent)

    best = int(np.argmin(fitted.losses)) + 1
    assert fitted.rounds == best == load_booster(fitted.artifact).num_boosted_rounds()
    assert len(fitted.losses) <= min(best + MODEL.early_stopping_rounds, MODEL.max_rounds)


def test_the_hold_out_has_no_say_in_learning() -> None:
    """Turning every label of the hold-out around changes nothing of the model."""
    held = pc.equal(ROWS[BLOCK], HOLDOUT)
    turned = ROWS.set_column(ROWS.column_names.index("label"), "label", pc.xor(ROWS["label"], held))

    assert fit(MODEL, FEATURES, turned, _silent).artifact == fit(MODEL, FEATURES, ROWS, _silent).artifact


def test_the_model_finds_the_signal_and_the_baseline_cannot_see_it() -> None:
    """The baseline has the request features alone, in the model's order, and is worse where history matters."""
    ours, theirs = fit(MODEL, FEATURES, ROWS, _silent), fit(MODEL, baseline_features(MODEL), ROWS, _silent)
    held = only(ROWS, HOLDOUT)
    truth = labels_of(held)

    assert [feature.name for feature in theirs.features] == [f"request__{feature.name}" for feature in MODEL.request_features]
    gain = (scores_of(truth, score_file(ours, held)).roc_auc or 0) - (scores_of(truth, score_file(theirs, held)).roc_auc or 0)
    assert gain > 0.05


def test_progress_is_told() -> None:
    """Someone who watches learns of the validation loss while it falls."""
    lines: list[str] = []

    fit(MODEL, FEATURES, ROWS, lines.append)

    assert lines
    assert all(VALIDATION in line for line in lines)


def test_a_score_does_not_depend_on_the_rows_beside_it() -> None:
    """One row alone, and columns in another order, give the same bits as the whole table."""
    fitted = fit(MODEL, FEATURES, ROWS, _silent)
    together = score_file(fitted, ROWS)

    alone = [score_file(fitted, ROWS.select(ROWS.column_names[::-1]).slice(row, 1))[0] for row in range(0, ROWS.num_rows, 500)]

    assert alone == together[::500].tolist()


def test_categories_are_learned_as_categories() -> None:
    """Features with declared values are categorical to XGBoost, all others are quantities."""
    matrix = feature_matrix(ROWS, FEATURES)

    kinds = dict(zip(matrix.feature_names or [], matrix.feature_types or [], strict=True))
    assert {name for name, kind in kinds.items() if kind == "c"} == {"request__origin", "request__carrier"}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (SIGNAL, float("nan"), "NaN or infinite"),
        (SIGNAL, float("inf"), "NaN or infinite"),
        ("request__origin", 3, "codes from"),
        ("request__origin", -1, "codes from"),
    ],
)
def test_values_that_no_feature_can_have_are_refused(name: str, value: float, problem: str) -> None:
    """NaN, an infinity, or a code outside the declared values is an error that names the feature, not a guess."""
    place = ROWS.column_names.index(name)
    broken = ROWS.set_column(place, name, pa.array([value] * ROWS.num_rows, ROWS.schema.field(name).type))

    with pytest.raises(TableMismatch, match=problem):
        feature_matrix(broken, FEATURES)


def test_missing_columns_and_texts_are_refused() -> None:
    """A feature that is absent, or is no number, is an error that names it."""
    place = ROWS.column_names.index(SIGNAL)
    text = ROWS.set_column(place, SIGNAL, pa.array(["0.5"] * ROWS.num_rows))

    with pytest.raises(TableMismatch, match=f"lacks {SIGNAL}"):
        feature_matrix(ROWS.drop_columns([SIGNAL]), FEATURES)
    with pytest.raises(TableMismatch, match="a number was expected"):
        feature_matrix(text, FEATURES)


def test_the_contract_survives_json() -> None:
    """Reading what was written gives an equal contract, and writing that the same bytes."""
    contract = train_candidate(MODEL, RECORD, ROWS, _silent).contract

    again = ModelContract.from_json(contract.to_json())

    assert again == contract
    assert again.to_json() == contract.to_json()


def test_the_contract_names_everything_the_model_hangs_on() -> None:
    """Features in order with their types, where they were read, when, by which code, and the hash of the file."""
    trained = train_candidate(MODEL, RECORD, ROWS, _silent)
    contract = trained.contract

    assert [feature.name for feature in contract.features] == [feature.name for feature in FEATURES]
    assert (contract.as_of, contract.snapshots, contract.training_set) == (AS_OF, RECORD.snapshots, RECORD.path)
    assert contract.rows == ROWS.num_rows
    assert contract.code_version == code_version()
    assert contract.size_bytes == len(trained.fitted.artifact)
    assert contract.metrics["gain_over_baseline"] == contract.metrics["roc_auc"] - contract.metrics["baseline_roc_auc"]


def test_the_record_survives_json() -> None:
    """A training set's record is read back as it was written, times with their zone."""
    assert TrainingSet.from_json(RECORD.to_json()) == RECORD
    assert TrainingSet.from_json(RECORD.to_json()).blocks[0].start.utcoffset() == timedelta(0)


def test_a_fitted_model_is_a_value() -> None:
    """Two fits of the same inputs are equal as objects."""
    assert isinstance(fit(MODEL, FEATURES, ROWS, _silent), Fitted)
    assert fit(MODEL, FEATURES, ROWS, _silent) == fit(MODEL, FEATURES, ROWS, _silent)
