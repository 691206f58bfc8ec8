"""Learning: the same inputs give the same bytes, features are taken as the contract says, and broken ones are refused."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xgboost

from pipeline_assets.core.errors import LearningRefused, TableMismatch, ValueUnfit
from pipeline_assets.model_lifecycle.training.archive import TrainingSet
from pipeline_assets.model_lifecycle.training.blocks import HOLDOUT, TRAIN, VALIDATION
from pipeline_assets.model_lifecycle.training.candidate import train_candidate
from pipeline_assets.model_lifecycle.training.code_state import code_version
from pipeline_assets.model_lifecycle.training.contract import ModelContract, ModelFeature, baseline_features, model_features
from pipeline_assets.model_lifecycle.training.dataset import BLOCK, LABEL, build_training_set, labels_of, only
from pipeline_assets.model_lifecycle.training.fit import Fitted, fit
from pipeline_assets.model_lifecycle.training.matrix import feature_matrix, feature_values
from pipeline_assets.model_lifecycle.training.narrow import GREATEST
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.spec.features import Learned
from pipeline_assets.spec.tasks import Task
from pipeline_assets_tests.live_models import learned
from pipeline_assets_tests.model_rows import (
    AS_OF,
    MULTICLASS,
    REGRESSION,
    SIGNAL,
    TASKS,
    labels,
    record_of,
    small_model,
    vectors,
)

MODEL = small_model()
VECTORS = vectors(MODEL)
ROWS = build_training_set(MODEL, VECTORS, labels(MODEL, VECTORS), AS_OF)
FEATURES = model_features(MODEL, only(ROWS, TRAIN))
RECORD = record_of(MODEL, ROWS)
# What the code before there were kinds of tasks made of the same rows, on the locked version of XGBoost.
SHA256_BEFORE = "6098ccbabf4a1e7fceee41de241df06229f5b23e012b52cad4c73f7ee7953d11"
FIGURES_BEFORE = {"roc_auc": 0.7201926063995029, "brier": 0.2068660463467635, "gain_over_baseline": 0.15366573470021738, "positives": 145}


def _silent(_: str) -> None:
    """Gets progress and shows nothing."""


def test_a_binary_model_is_to_the_byte_what_it_was_before_there_were_other_kinds() -> None:
    """Model file and figures of the same rows are those of the code that knew binary models only."""
    contract = learned(7, MODEL.task)[1].contract

    assert contract.sha256 == SHA256_BEFORE
    assert {name: contract.metrics[name] for name in FIGURES_BEFORE} == FIGURES_BEFORE


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
    booster = xgboost.Booster(model_file=bytearray(fitted.artifact))

    best = int(np.argmin(fitted.losses)) + 1
    assert fitted.rounds == best == booster.num_boosted_rounds()
    assert len(fitted.losses) <= min(best + MODEL.early_stopping_rounds, MODEL.max_rounds)


def test_the_hold_out_has_no_say_in_learning() -> None:
    """Turning every label of the hold-out around changes nothing of the model."""
    held = pc.equal(ROWS[BLOCK], HOLDOUT)
    turned = ROWS.set_column(ROWS.column_names.index("label"), "label", pc.xor(ROWS["label"], held))

    assert fit(MODEL, FEATURES, turned, _silent).artifact == fit(MODEL, FEATURES, ROWS, _silent).artifact


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_the_model_finds_the_signal_and_the_baseline_cannot_see_it(task: Task) -> None:
    """The baseline has the request features alone, and is worse where history matters; the gain is that of the gate's metric."""
    trained = learned(7, task)[1]

    model, metrics = small_model(task=task), trained.contract.metrics
    assert trained.gain is not None
    assert trained.gain > 0.05
    assert trained.gain == task_kind(task).gain(model.gate.metric, metrics[model.gate.metric], metrics[f"baseline_{model.gate.metric}"])
    assert "importance" in trained.plots


def test_the_baseline_has_the_features_of_the_request_in_the_models_order() -> None:
    """Nothing that happened before the request is among them."""
    names = [feature.name for feature in baseline_features(MODEL, FEATURES)]

    assert names == [f"request__{feature.name}" for feature in MODEL.request_features]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_a_model_without_request_features_has_to_beat_a_constant(task: Task) -> None:
    """Regression: XGBoost was given no columns at all for the baseline, and the training failed."""
    model = replace(small_model(task=task), request_features=())
    asked = vectors(model)
    rows = build_training_set(model, asked, labels(model, asked), AS_OF)
    trained = train_candidate(model, record_of(model, rows), rows, _silent)

    assert trained.gain is not None
    assert trained.gain > 0.01
    assert trained.baseline.overall.figures.get("roc_auc", 0.5) == 0.5
    assert (trained.baseline.overall.figures.get("r2") or 0.0) <= 0.0


def test_progress_is_reported() -> None:
    """A person who watches sees the validation loss while it falls."""
    lines: list[str] = []

    fit(MODEL, FEATURES, ROWS, lines.append)

    assert lines
    assert all(VALIDATION in line for line in lines)


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
        (SIGNAL, 1e39, "beyond 32-bit floats"),
        (SIGNAL, -3.5e38, "beyond 32-bit floats"),
        ("request__origin", 3, "codes that are none of its categories in request__origin, .* whole number from 0 to 2 was expected"),
        ("request__origin", -1, "codes that are none of its categories"),
    ],
)
def test_values_that_no_feature_can_have_are_refused(name: str, value: float, problem: str) -> None:
    """NaN, an infinity, or a code outside the declared values is an error that names the feature, not a guess."""
    place = ROWS.column_names.index(name)
    broken = ROWS.set_column(place, name, pa.array([value] * ROWS.num_rows, ROWS.schema.field(name).type))

    with pytest.raises(TableMismatch, match=problem):
        feature_matrix(broken, FEATURES)


@pytest.mark.parametrize(("value", "problem"), [(1e39, "beyond 32-bit floats"), (float("nan"), "NaN or infinite values")])
def test_a_value_that_no_32_bit_float_holds_is_refused_with_its_row(value: float, problem: str) -> None:
    """Regression: 1e39 is finite with 64 bits, and failed inside XGBoost, which names neither the feature nor the row."""
    place, numbers = ROWS.column_names.index(SIGNAL), ROWS[SIGNAL].to_pylist()
    numbers[:3] = [None, 0.5, value]
    broken = ROWS.set_column(place, SIGNAL, pa.array(numbers, pa.float64()))
    key = f"row 3 \\(flight_id {ROWS['flight_id'][2]}, decision_at {re.escape(str(ROWS['decision_at'][2].as_py()))}\\)"

    with pytest.raises(ValueUnfit, match=f"{problem} in {SIGNAL}, the first {re.escape(repr(value))} in {key}, where a finite number"):
        fit(MODEL, FEATURES, broken, lambda _: None)


def test_labels_whose_loss_is_infinite_are_refused() -> None:
    """Regression: with labels whose squares no 32-bit float holds every round had the loss infinity, and a constant was learned."""
    model = small_model(task=REGRESSION)
    rows = build_training_set(model, VECTORS, labels(model, VECTORS), AS_OF)
    large = rows.set_column(rows.column_names.index(LABEL), LABEL, pc.multiply(rows[LABEL], 1e25))

    with pytest.raises(LearningRefused, match="the validation loss is not finite"):
        fit(model, model_features(model, only(rows, TRAIN)), large, lambda _: None)


def test_numbers_are_rounded_to_the_nearest_32_bit_float() -> None:
    """The greatest one is kept, integers beyond 2^53 lose digits, and what is too small becomes 0; none of them is an error."""
    feature, whole = ModelFeature(name="x", type="number"), ModelFeature(name="n", type="integer")
    rows = pa.table({"x": [GREATEST, -GREATEST, 1e-60, None], "n": [2**60 + 1, -(2**63), 2**24 + 1, None]})

    values = feature_values(rows, (feature, whole))

    assert values[:3].tolist() == [[GREATEST, 2.0**60], [-GREATEST, -(2.0**63)], [0.0, 2.0**24]]
    assert np.isnan(values[3]).all()


def test_a_code_between_two_categories_is_refused() -> None:
    """A code is a whole number; XGBoost would cut 0.5 to the category 0."""
    feature = ModelFeature(name="kind", type="category", categories=("a", "b"))

    with pytest.raises(ValueUnfit, match=r"none of its categories in kind, the first 0\.5 in row 2, where a whole number from 0 to 1"):
        feature_values(pa.table({"kind": [1.0, 0.5, None]}), (feature,))


def test_missing_columns_and_texts_are_refused() -> None:
    """A feature that is absent, or is no number, is an error that names it."""
    place = ROWS.column_names.index(SIGNAL)
    text = ROWS.set_column(place, SIGNAL, pa.array(["0.5"] * ROWS.num_rows))

    with pytest.raises(TableMismatch, match=f"lacks {SIGNAL}"):
        feature_matrix(ROWS.drop_columns([SIGNAL]), FEATURES)
    with pytest.raises(TableMismatch, match="a number was expected"):
        feature_matrix(text, FEATURES)


def _with_texts(rows: pa.Table, name: str, texts: list[str | None]) -> pa.Table:
    """The rows with a feature of text in place of its numbers, the texts again and again."""
    column = pa.array([texts[row % len(texts)] for row in range(rows.num_rows)], pa.string())
    return rows.set_column(rows.column_names.index(name), name, column)


def _learned(most: int) -> tuple[pa.Table, list[str]]:
    """A training set whose carrier is text, and the categories that are learned from it."""
    carrier = next(feature for feature in MODEL.request_features if feature.name == "carrier")
    others = tuple(feature for feature in MODEL.request_features if feature != carrier)
    model = replace(MODEL, request_features=(*others, replace(carrier, values=Learned(most=most))))
    rows = _with_texts(ROWS, "request__carrier", ["b", "a", "a", None, "c", "c", "c", "b"])
    # What only later blocks hold is unknown to the model.
    place, late = rows.column_names.index("request__carrier"), pc.not_equal(rows[BLOCK], TRAIN)
    rows = rows.set_column(place, "request__carrier", pc.if_else(late, "later", rows["request__carrier"]))
    (found,) = [feature for feature in model_features(model, only(rows, TRAIN)) if feature.name == "request__carrier"]
    assert found.type == "text"
    return rows, list(found.categories)


def test_categories_are_learned_in_the_train_block_the_most_frequent_first() -> None:
    """Three of c, two each of a and b in eight; values of later blocks are none, and no more are kept than declared."""
    assert _learned(most=100)[1] == ["c", "a", "b"]
    assert _learned(most=2)[1] == ["c", "a"]


def test_text_is_encoded_by_the_categories_of_the_contract() -> None:
    """The code is the place among them; null and any other text is missing, and no number is taken for text."""
    feature = ModelFeature(name="kind", type="text", categories=("c", "a"))

    values = feature_values(pa.table({"kind": ["a", "c", None, "z"]}), (feature,))
    empty = feature_values(pa.table({"kind": pa.nulls(1)}), (feature,))

    assert values[:2, 0].tolist() == [1.0, 0.0]
    assert np.isnan(values[2:, 0]).all()
    assert np.isnan(empty).all()
    with pytest.raises(TableMismatch, match="has kind as int64, where text was expected"):
        feature_values(pa.table({"kind": [1]}), (feature,))


def test_a_model_learns_from_text() -> None:
    """A text that decides the outcome is found, and the contract that travels with the model scores it again."""
    carrier = next(feature for feature in MODEL.request_features if feature.name == "carrier")
    model = replace(MODEL, request_features=(replace(carrier, values=Learned()),))
    rows = _with_texts(ROWS, "request__carrier", ["b", "a", None, "c"])
    decided = pc.fill_null(pc.equal(rows["request__carrier"], "a"), False)
    rows = rows.set_column(rows.column_names.index("label"), "label", decided)

    fitted = fit(model, model_features(model, only(rows, TRAIN)), rows, _silent)

    contract = replace(learned(7, MODEL.task)[1].contract, features=fitted.features, sha256=sha256(fitted.artifact).hexdigest())
    scorer = Scorer.load(fitted.artifact, ModelContract.from_json(contract.to_json()))
    held = only(rows, HOLDOUT)
    assert (scorer.score(held) > 0.5).tolist() == labels_of(model, held).tolist()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_the_contract_survives_json(task: Task) -> None:
    """Reading what was written gives an equal contract, and writing that the same bytes."""
    contract = learned(7, task)[1].contract

    again = ModelContract.from_json(contract.to_json())

    assert again == contract
    assert again.to_json() == contract.to_json()


def test_the_contract_names_everything_that_the_model_depends_on() -> None:
    """Features in order with their types, where they were read, when, by which code and libraries, and the hash of the file."""
    trained = learned(7, MODEL.task)[1]
    contract = trained.contract

    assert contract.features == FEATURES
    assert (contract.as_of, contract.snapshots, contract.training_set) == (AS_OF, RECORD.snapshots, RECORD.path)
    assert contract.rows == ROWS.num_rows
    assert (contract.code_version, contract.size_bytes) == (code_version(), len(trained.fitted.artifact))
    assert contract.libraries.keys() == {"xgboost", "numpy", "pyarrow", "pipeline-assets"}
    assert (contract.max_rounds, contract.early_stopping_rounds) == (MODEL.max_rounds, MODEL.early_stopping_rounds)
    assert contract.parameters == MODEL.parameters
    assert contract.metrics["gain_over_baseline"] == contract.metrics["roc_auc"] - contract.metrics["baseline_roc_auc"]


def test_the_contract_says_what_kind_of_answer_the_model_gives() -> None:
    """Classes in the order of the scores, or the unit of the value."""
    classes, unit = learned(7, MULTICLASS)[1].contract, learned(7, REGRESSION)[1].contract

    assert (classes.task, classes.classes, classes.unit) == ("multiclass", MULTICLASS.classes, None)
    assert (unit.task, unit.classes, unit.unit) == ("regression", (), "minutes")
    assert unit.parameters["objective"] == "reg:squarederror"


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"objective": "count:poisson"}, "objective=count:poisson.*: label must be non-negative for Poisson/Tweedie regression. Fix"),
        ({"tree_method": "histo"}, "Invalid Input: 'histo', valid values are: .*'hist'}. Fix the model's `parameters`"),
    ],
)
def test_what_xgboost_refuses_is_one_sentence(parameters: dict[str, str], problem: str) -> None:
    """Labels that an objective cannot take, and parameters that do not exist: the model, its parameters and the reason, without a stack."""
    model = small_model(task=REGRESSION)
    asked = vectors(model, 600)
    rows = build_training_set(model, asked, labels(model, asked), AS_OF)
    odd = replace(model, parameters={**model.parameters, **parameters})

    with pytest.raises(LearningRefused, match=problem) as refused:
        fit(odd, model_features(odd, only(rows, TRAIN)), rows, _silent)

    assert "\n" not in str(refused.value)


def test_the_record_survives_json() -> None:
    """A training set's record is read back as it was written, times with their zone."""
    read = TrainingSet.from_stored(json.loads(RECORD.to_json()))

    assert read == RECORD
    assert read.blocks[0].start.utcoffset() == timedelta(0)


def test_a_fitted_model_is_a_value() -> None:
    """Two fits of the same inputs are equal as objects."""
    assert isinstance(fit(MODEL, FEATURES, ROWS, _silent), Fitted)
    assert fit(MODEL, FEATURES, ROWS, _silent) == fit(MODEL, FEATURES, ROWS, _silent)
