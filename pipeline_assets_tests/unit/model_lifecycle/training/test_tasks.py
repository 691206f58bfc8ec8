"""The kinds of tasks: labels that fit and those that do not, figures by hand and by property, baselines, answers and plots."""

import math
from decimal import Decimal
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.model_lifecycle.training.calibration import calibration, calibration_error
from pipeline_assets.model_lifecycle.training.judged import Judged, Labels, Scores
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.spec.tasks import METRICS, MetricRule, Multiclass, Task
from pipeline_assets_tests.model_rows import BINARY, MULTICLASS, REGRESSION, TASKS

PNG = b"\x89PNG\r\n\x1a\n"
KINDS = {type(task).__name__: task_kind(task) for task in TASKS}


def _chunks(*values: object) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


def _sample(task: Task, rows: int, seed: int = 3) -> tuple[Labels, Scores]:
    """Labels and scores that have something to do with each other."""
    random = np.random.default_rng(seed)
    if task == BINARY:
        truths = random.random(rows) < 0.3
        return truths, random.random(rows) * 0.5 + truths * 0.3
    if task == MULTICLASS:
        codes = random.integers(0, 3, rows)
        return codes, random.dirichlet([1, 1, 1], rows) * 0.5 + np.eye(3)[codes] * 0.5
    numbers = random.normal(10, 30, rows)
    return numbers, numbers * 0.7 + random.normal(0, 10, rows)


@pytest.mark.parametrize(
    ("task", "values", "codes"),
    [
        (BINARY, (True, False), [True, False]),
        (MULTICLASS, ("cancelled", "on time", "late"), [2, 0, 1]),
        (REGRESSION, (3, -1), [3.0, -1.0]),
        (REGRESSION, (0.5, 1e9), [0.5, 1e9]),
    ],
)
def test_labels_that_fit_become_numbers(task: Task, values: tuple[object, ...], codes: list[object]) -> None:
    """Booleans stay, classes become their places in the declaration, integers become numbers."""
    assert task_kind(task).encode(_chunks(*values), "labels", "outcome").tolist() == codes


@pytest.mark.parametrize(
    ("task", "values", "problem"),
    [
        (BINARY, (1, 0), "label outcome as int64, where a boolean"),
        (BINARY, ("true", "false"), "label outcome as string, where a boolean"),
        (MULTICLASS, (True, False), "label outcome as bool, where text"),
        (
            MULTICLASS,
            ("late", "early", "lost"),
            "class 'early', 'lost' in the label outcome, where one of on time, late, cancelled was expected",
        ),
        (REGRESSION, ("3", "4"), "label outcome as string, where an integer or a number"),
        (REGRESSION, (True, False), "label outcome as bool, where an integer or a number"),
        (REGRESSION, (1.0, float("nan")), "NaN or infinite values in the label outcome"),
        (REGRESSION, (1.0, 1e39), r"beyond 32-bit floats in the label outcome, the first 1e\+39 in row 2"),
        (REGRESSION, (Decimal(1), Decimal("1e37") * 100), "beyond 32-bit floats in the label outcome"),
        (REGRESSION, (1.0, None), "1 nulls in the label outcome"),
    ],
)
def test_a_label_that_does_not_fit_is_refused_by_name(task: Task, values: tuple[object, ...], problem: str) -> None:
    """Column, what was found and what was expected stand in one sentence; nothing is cast."""
    with pytest.raises(TableMismatch, match=problem):
        task_kind(task).encode(_chunks(*values), "labels", "outcome")


@pytest.mark.parametrize("task", TASKS, ids=KINDS)
def test_every_metric_of_the_task_is_given(task: Task) -> None:
    """The vocabulary and the kinds agree, and so do the directions."""
    kind = task_kind(task)
    labels, scores = _sample(task, 200)

    assert kind.metrics(labels, scores).keys() == METRICS[type(task)].keys() == kind.directions.keys()
    assert {type(one) for one in TASKS} == set(get_args(Task))


def test_binary_figures_equal_those_worked_out_by_hand() -> None:
    """Four rows: three of four pairs in the right order, and the mean square and logarithm of the errors."""
    kind = KINDS["Binary"]
    labels, scores = np.array([False, True, False, True]), np.array([0.1, 0.4, 0.5, 0.9])

    found = kind.metrics(labels, scores)

    assert kind.summary(labels) == {"positives": 2}
    assert found["roc_auc"] == 0.75
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.5, 0.9]).mean())


def test_multiclass_figures_equal_those_worked_out_by_hand() -> None:
    """Four rows of three classes, one of them wrong: the means over classes of what each class has against the rest."""
    labels = np.array([0, 1, 2, 0])
    scores = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0]])

    found = KINDS["Multiclass"].metrics(labels, scores)

    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 * 2 / 5 + 0 + 1) / 3)
    assert found["roc_auc"] == 1.0
    assert found["log_loss"] == pytest.approx(-np.log([0.6, 0.4, 0.7, 0.9]).mean())
    rows = [0.16 + 0.09 + 0.01, 0.25 + 0.36 + 0.01, 0.01 + 0.04 + 0.09, 0.01 + 0.01]
    assert found["brier"] == pytest.approx(np.mean(rows))
    of_classes = [(0.4 + 0.5 + 0.1 + 0.1) / 4, (0.3 + 0.6 + 0.2 + 0.1) / 4, (0.1 + 0.1 + 0.3 + 0.0) / 4]
    assert found["calibration_error"] == pytest.approx(np.mean(of_classes))


def test_two_classes_are_judged_as_a_binary_model_would_be() -> None:
    """Areas, losses and calibration of two classes are those of the probability of one of them."""
    labels, scores = _sample(BINARY, 500)
    two = task_kind(Multiclass(classes=("no", "yes")))

    found = two.metrics(labels.astype(np.int64), np.column_stack([1 - scores, scores]))
    expected = KINDS["Binary"].metrics(labels, scores)

    assert found["roc_auc"] == pytest.approx(expected["roc_auc"])
    assert found["log_loss"] == pytest.approx(expected["log_loss"])
    assert found["brier"] == pytest.approx(2 * (expected["brier"] or 0))
    assert found["calibration_error"] == pytest.approx(expected["calibration_error"])


def test_regression_figures_equal_those_worked_out_by_hand() -> None:
    """Errors of 1, -3, 0 and 4 minutes: their means, sizes and squares, against the spread of the outcomes."""
    found = KINDS["Regression"].metrics(np.array([0.0, 10.0, 20.0, 30.0]), np.array([1.0, 7.0, 20.0, 34.0]))

    assert (found["mae"], found["bias"]) == (2.0, 0.5)
    assert found["rmse"] == pytest.approx(math.sqrt(26 / 4))
    assert found["r2"] == pytest.approx(1 - 26 / 500)
    assert found["calibration_error"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("task", "labels", "scores", "missing"),
    [
        (BINARY, np.array([True, True]), np.array([0.2, 0.9]), {"roc_auc", "pr_auc"}),
        (MULTICLASS, np.array([1, 1]), np.array([[0.2, 0.7, 0.1], [0.1, 0.8, 0.1]]), {"roc_auc"}),
        (REGRESSION, np.array([4.0, 4.0]), np.array([3.0, 5.0]), {"r2"}),
    ],
    ids=KINDS,
)
def test_figures_do_not_exist_where_all_labels_are_the_same(task: Task, labels: Labels, scores: Scores, missing: set[str]) -> None:
    """There is no area and no share of a spread then, rather than a made-up number; all other figures exist."""
    found = task_kind(task).metrics(labels, scores)

    assert {name for name, value in found.items() if value is None} == missing


def test_a_class_that_does_not_occur_has_no_area_of_its_own() -> None:
    """The area is the mean over the classes that occur among the labels."""
    found = KINDS["Multiclass"].metrics(np.array([0, 1]), np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]))

    assert found["roc_auc"] == 1.0


def test_calibration_error_of_a_liar_is_how_much_he_exaggerates() -> None:
    """Ten equal bins, each 0.2 too high: the error is 0.2."""
    labels = np.tile([True, False, False, False, False], 200)
    scores = np.full(1000, 0.4) + np.linspace(0, 1e-9, 1000)

    assert calibration_error(labels, scores) == pytest.approx(0.2)
    assert [rows for _, _, rows in calibration(labels, scores)] == [100] * 10


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60))
def test_calibration_error_lies_between_zero_and_one_and_bins_hold_every_row(pairs: list[tuple[bool, float]]) -> None:
    """Any labels and scores, ties and single rows among them."""
    labels, scores = np.array([label for label, _ in pairs]), np.array([score for _, score in pairs])

    assert 0 <= calibration_error(labels, scores) <= 1
    assert sum(rows for _, _, rows in calibration(labels, scores)) == len(pairs)


@settings(max_examples=30)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.floats(-50, 50))
def test_a_regression_that_is_off_by_a_constant_has_that_bias_and_calibration_error(outcomes: list[float], shift: float) -> None:
    """Whatever the outcomes: every bin is off by the same."""
    found = KINDS["Regression"].metrics(np.array(outcomes), np.array(outcomes) + shift)

    assert found["bias"] == pytest.approx(abs(shift), abs=1e-9)
    assert found["calibration_error"] == pytest.approx(abs(shift), abs=1e-9)
    assert found["mae"] == pytest.approx(abs(shift), abs=1e-9)


@pytest.mark.parametrize("task", TASKS, ids=KINDS)
def test_a_gain_is_positive_where_ours_is_better_whatever_the_direction(task: Task) -> None:
    """The perfect scores gain on worse ones in every metric, and limits are kept from the side that is better."""
    kind = task_kind(task)
    labels, scores = _sample(task, 300)
    perfect = np.eye(3)[labels] if task == MULTICLASS else labels.astype(np.float64)
    ours, theirs = kind.metrics(labels, perfect), kind.metrics(labels, scores)

    for metric in kind.directions:
        gain = kind.gain(metric, ours[metric], theirs[metric])
        assert gain is not None
        assert gain >= 0
        assert kind.gain(metric, theirs[metric], ours[metric]) == -gain
        rule = MetricRule(metric=metric, limit=theirs[metric] or 0)
        assert kind.keeps(rule, ours[metric])
        assert kind.keeps(rule, rule.limit)
        assert not kind.keeps(rule, None)
        assert gain == 0 or not kind.keeps(MetricRule(metric=metric, limit=ours[metric] or 0), theirs[metric])
    assert kind.gain(next(iter(kind.directions)), None, 1.0) is None


def test_the_constant_is_the_one_that_suits_the_metric_best() -> None:
    """Shares of outcomes, and the median where absolute errors count."""
    outliers = np.array([0.0, 1.0, 2.0, 97.0])

    assert KINDS["Binary"].constant(np.array([True, False, False, False]), 2, "roc_auc").tolist() == [0.25, 0.25]
    assert KINDS["Multiclass"].constant(np.array([0, 0, 1, 0]), 1, "accuracy").tolist() == [[0.75, 0.25, 0.0]]
    assert KINDS["Regression"].constant(outliers, 1, "mae").tolist() == [1.5]
    assert KINDS["Regression"].constant(outliers, 1, "rmse").tolist() == [25.0]


@pytest.mark.parametrize(
    ("task", "labels", "is_train", "lacking"),
    [
        (BINARY, [True, False], True, None),
        (BINARY, [True, True], False, "2 rows, all with the label True"),
        (MULTICLASS, [0, 1, 2], True, None),
        (MULTICLASS, [0, 1, 1], True, "none of the class 'cancelled', where every class is needed"),
        (MULTICLASS, [0, 1, 1], False, None),
        (MULTICLASS, [1, 1], False, "all of one class"),
        (REGRESSION, [2.5, 2.5], True, "all with the label 2.5"),
        (REGRESSION, [2.5, 2.5], False, None),
        (REGRESSION, [2.5, 3.0], True, None),
    ],
)
def test_each_task_says_what_a_block_lacks(task: Task, labels: list[float], is_train: bool, lacking: str | None) -> None:  # noqa: FBT001 - a case of the test
    """Both outcomes in each block; all classes to learn from and two to judge by; two values to learn from."""
    found = task_kind(task).shortage(np.array(labels), is_train=is_train)

    assert found is None if lacking is None else lacking in str(found)


def test_answers_are_columns_of_predictions() -> None:
    """A probability, a value, or the likeliest class (the first of equals) before the probability of each."""
    scores = np.array([[0.4, 0.4, 0.2], [0.0, 0.1, 0.9]])

    answers = dict(KINDS["Multiclass"].answers(scores))

    assert answers["predicted"].to_pylist() == ["on time", "cancelled"]
    assert (
        list(answers)
        == ["predicted", *KINDS["Multiclass"].score_columns()]
        == ["predicted", "score_on_time", "score_late", "score_cancelled"]
    )
    assert answers["score_late"].to_pylist() == [0.4, 0.1]
    assert {name: values.to_pylist() for name, values in KINDS["Binary"].answers(scores[:, 0])} == {"score": [0.4, 0.0]}
    assert {name: values.to_pylist() for name, values in KINDS["Regression"].answers(scores[:, 0])} == {"value": [0.4, 0.0]}


def test_an_objective_of_the_model_brings_its_own_metric() -> None:
    """The metric of the kind stands for the objective of the kind alone; what the model says wins."""
    kind = KINDS["Regression"]

    assert kind.fitting({"max_depth": 3}) == {"objective": "reg:squarederror", "eval_metric": "rmse", "max_depth": 3}
    assert kind.fitting({"objective": "reg:absoluteerror"}) == {"objective": "reg:absoluteerror"}
    assert kind.fitting({"objective": "reg:gamma", "eval_metric": "mae"}) == {"objective": "reg:gamma", "eval_metric": "mae"}
    assert KINDS["Multiclass"].fitting({})["num_class"] == 3


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (BINARY, {"calibration", "roc", "precision_recall"}),
        (MULTICLASS, {"confusion", "roc", "calibration"}),
        (REGRESSION, {"predicted_actual", "residuals", "error_by_decile"}),
    ],
    ids=KINDS,
)
def test_plots_are_small_pngs_and_the_same_each_time(task: Task, names: set[str]) -> None:
    """Images of a size that a page of metadata can bear, also where little is to be seen."""
    kind = task_kind(task)
    for rows in (12, 2000):
        labels, scores = _sample(task, rows)
        judged = Judged(labels=labels, scores=scores, baseline_scores=kind.constant(labels, rows, next(iter(kind.directions))))

        plots = kind.plots(judged)

        assert plots.keys() == names
        assert all(image.startswith(PNG) for image in plots.values())
        assert max(len(image) for image in plots.values()) < 30_000
        assert kind.plots(judged) == plots
