"""Performance per day: measured where labels have matured, and said to be unknown where they have not."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.serving.monitoring.performance import (
    KNOWN,
    NOT_YET_KNOWN,
    TOO_FEW,
    DayPerformance,
    broken_rules,
    figure_names,
)
from pipeline_assets.serving.monitoring.performance import performance as measured
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Binary, MetricRule, Multiclass, Regression, Task
from pipeline_assets.use_cases.nyc_flights.models import flight_delay

START = datetime(2013, 5, 1, tzinfo=UTC)
INSTANT = pa.timestamp("us", "UTC")
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOW = START + 60 * DAY
CLASSES = Multiclass(classes=("a", "b"))


def model(task: Task | None = None, *, horizon: timedelta = timedelta(0), rules: tuple[MetricRule, ...] = (), least: int = 1) -> Model:
    """A model that one label is enough for."""
    return replace(
        flight_delay,
        task=task or Binary(),
        label=replace(flight_delay.label, horizon=horizon),
        monitor=replace(flight_delay.monitor, rules=rules, min_labels=least),
    )


def scores(columns: dict[str, list[float]]) -> pa.Table:
    """Predictions of f0, f1, …, twelve hours apart."""
    rows = len(next(iter(columns.values())))
    times = [START + position * timedelta(hours=12) for position in range(rows)]
    return pa.table({"flight_id": [f"f{row}" for row in range(rows)], "decision_at": pa.array(times, INSTANT), **columns})


def labels(found: Mapping[str, object], kind: pa.DataType | None = None, *, known: timedelta = HOUR) -> pa.Table:
    """Labels by key, all known so long after the first decision."""
    known_at = pa.array([START + known] * len(found), INSTANT)
    return pa.table({"flight_id": pa.array(list(found), pa.string()), "is_late": pa.array(found.values(), kind), "known_at": known_at})


def performance(of: Model, asked: pa.Table, found: pa.Table, clock: datetime) -> list[DayPerformance]:
    """That of each day."""
    return [*measured(of, asked, found, clock).days]


def binary(found: dict[str, object], *, of: Model | None = None, clock: datetime = NOW, known: timedelta = HOUR) -> list[DayPerformance]:
    """The performance of two predictions of one day, the first of which is likelier."""
    return performance(of or model(), scores({"score": [0.9, 0.1]}), labels(found, pa.bool_(), known=known), clock)


def test_a_day_with_labels_is_measured() -> None:
    """Perfectly ordered scores have a ROC AUC of 1, and the Brier score is the mean squared error."""
    (day,) = binary({"f0": True, "f1": False})

    assert (day.status, day.scores, day.labels) == (KNOWN, 2, 2)
    assert day.figures == pytest.approx(
        {"label_rate": 0.5, "mean_score": 0.5, "roc_auc": 1.0, "log_loss": 0.10536, "brier": 0.01}, rel=1e-3
    )


@pytest.mark.parametrize("found", [{}, {"f0": True}])
def test_a_day_without_enough_labels_has_no_measures(found: dict[str, object]) -> None:
    """Too few labels give no measure instead of a made-up one; the share of those that there are is shown."""
    (day,) = binary(found, of=model(least=2))

    assert (day.status, day.labels, day.figures["label_rate"]) == (TOO_FEW, len(found), 1.0 if found else None)
    assert day.figures["roc_auc"] is day.figures["log_loss"] is None


def test_labels_of_one_kind_have_no_area_and_break_no_rule_of_it() -> None:
    """A metric that does not exist is empty, and is no reason to train again; those that exist are measured."""
    one = model(rules=(MetricRule(metric="roc_auc", limit=0.62),))
    (day,) = binary({"f0": True, "f1": True}, of=one)

    assert (day.status, day.figures["roc_auc"]) == (KNOWN, None)
    assert day.figures["brier"] == pytest.approx(0.41)
    assert broken_rules(one, day.figures) == ()


def test_days_are_those_of_the_decision_and_each_is_judged_alone() -> None:
    """Each UTC day has its own labels, in the order of time."""
    found: dict[str, object] = {"f0": True, "f1": False, "f2": True}
    days = performance(model(least=2), scores({"score": [0.9, 0.1, 0.8, 0.2]}), labels(found, pa.bool_()), NOW)

    assert [(str(day.day), day.status, day.labels) for day in days] == [("2013-05-01", KNOWN, 2), ("2013-05-02", TOO_FEW, 1)]


def test_a_label_known_after_the_clock_does_not_count() -> None:
    """Regression: labels of late May that were declared as known in June were judged in May, with no day not yet known."""
    found: dict[str, object] = {"f0": True, "f1": False}

    assert binary(found, known=30 * DAY, clock=START + 2 * DAY)[0].labels == 0
    assert binary(found, known=30 * DAY, clock=START + 31 * DAY)[0].labels == 2


def test_a_label_counts_when_its_horizon_has_passed_however_early_it_was_known() -> None:
    """Outcomes that are known early are all of one kind; the day is judged when all of its labels can have matured."""
    late = model(horizon=14 * DAY)
    found: dict[str, object] = {"f0": True, "f1": False}
    before, at = START + 14 * DAY + HOUR, START + 15 * DAY

    assert [(day.status, day.labels) for day in binary(found, of=late, clock=before)] == [(NOT_YET_KNOWN, 1)]
    assert [(day.status, day.labels) for day in binary(found, of=late, clock=at)] == [(KNOWN, 2)]


def test_a_day_that_is_not_over_is_not_yet_known() -> None:
    """Without a horizon a day is judged from its end on."""
    found: dict[str, object] = {"f0": True, "f1": False}

    assert binary(found, clock=START + DAY - HOUR)[0].status == NOT_YET_KNOWN
    assert binary(found, clock=START + DAY)[0].status == KNOWN


def test_of_several_labels_of_a_key_the_one_known_last_counts() -> None:
    """A corrected outcome takes the place of the first one from when it was known."""
    found = pa.concat_tables([labels({"f0": False, "f1": False}, pa.bool_()), labels({"f0": True}, pa.bool_(), known=3 * DAY)])
    rates = [
        performance(model(), scores({"score": [0.9, 0.1]}), found, START + clock)[0].figures["label_rate"] for clock in (2 * DAY, 3 * DAY)
    ]

    assert rates == [0.0, 0.5]


def test_a_regression_is_measured_in_its_unit() -> None:
    """Errors, and the means of labels and values."""
    one = model(Regression(unit="minutes"), rules=(MetricRule(metric="mae", limit=5.0), MetricRule(metric="bias", limit=9.0)))
    (day,) = performance(one, scores({"value": [10.0, 20.0]}), labels({"f0": 16, "f1": 28}, pa.int32()), NOW)

    assert (day.figures["mae"], day.figures["bias"], day.figures["mean_label"], day.figures["mean_score"]) == (7.0, 7.0, 22.0, 15.0)
    assert broken_rules(one, day.figures) == ("mae above 5",)


def test_classes_are_measured_by_all_metrics_of_their_task() -> None:
    """The likeliest class is held against the one that came."""
    chances = {"score_a": [0.9, 0.4], "score_b": [0.1, 0.6]}
    one = model(CLASSES, rules=(MetricRule(metric="accuracy", limit=0.9),))
    (day,) = performance(one, scores(chances), labels({"f0": "a", "f1": "a"}, pa.string()), NOW)

    assert day.figures["accuracy"] == 0.5
    assert list(day.figures) == ["accuracy", "macro_f1", "roc_auc", "log_loss", "brier", "calibration_error"]
    assert broken_rules(one, day.figures) == ("accuracy below 0.9",)


def test_a_metric_that_a_rule_names_is_kept_beside_the_usual_ones() -> None:
    """A rule on a figure that is not among those of every model can be judged from the table too."""
    assert figure_names(model()) == ("label_rate", "mean_score", "roc_auc", "log_loss", "brier")
    assert figure_names(model(rules=(MetricRule(metric="pr_auc", limit=0.1),)))[-1] == "pr_auc"


def test_several_keys_are_joined_together_and_integers_of_any_width() -> None:
    """A label belongs to a decision when all of its keys are equal; 32-bit integers are the same numbers as 64-bit ones."""
    keyed = replace(
        model(),
        observations=replace(flight_delay.observations, keys=("shop", "order_id")),
        label=replace(flight_delay.label, keys=("shop_name", "order_number")),
    )
    asked = pa.table(
        {
            "shop": ["x", "y"],
            "order_id": pa.array([1, 1], pa.int64()),
            "decision_at": pa.array([START, START], INSTANT),
            "score": [0.9, 0.1],
        }
    )
    found = pa.table(
        {
            "shop_name": ["y", "x", "x"],
            "order_number": pa.array([1, 1, 2], pa.int32()),
            "is_late": [False, True, False],
            "known_at": pa.array([START + HOUR] * 3, INSTANT),
        }
    )
    (day,) = performance(keyed, asked, found, NOW)

    assert (day.labels, day.figures["roc_auc"]) == (2, 1.0)


def test_a_label_that_does_not_fit_its_task_is_refused() -> None:
    """Numbers are no answers to a question of yes and no."""
    with pytest.raises(TableMismatch, match="is_late as int64, where a boolean"):
        performance(model(), scores({"score": [0.9, 0.1]}), labels({"f0": 1, "f1": 0}), NOW)


def test_no_predictions_have_no_days() -> None:
    """There is nothing to judge, and no error."""
    none = scores({"score": [0.9]}).slice(0, 0)

    assert performance(model(), none, labels({"f0": True}, pa.bool_()), NOW) == []


def test_days_are_judged_together_as_all_their_rows_are() -> None:
    """One label is too few for a day and counts beside others; the area is that of all rows, without days that have not matured."""
    rows = scores({"score": [0.9, 0.4, 0.8, 0.1, 0.5, 0.5]})
    found = labels({"f0": True, "f2": False, "f3": False, "f4": True}, pa.bool_())
    late = model(least=2, horizon=3 * DAY)

    for clock, expected in ((START + 6 * DAY, (4, 3 / 4)), (START + 5 * DAY, (3, 1.0)), (START + 3 * DAY, (0, None))):
        known = measured(late, rows, found, clock)
        assert (known.labels, known.together["roc_auc"]) == expected
    assert [day.status for day in measured(late, rows, found, NOW).days] == [TOO_FEW, KNOWN, TOO_FEW]
    assert measured(model(least=5), rows, found, NOW).together == dict.fromkeys(figure_names(late))
