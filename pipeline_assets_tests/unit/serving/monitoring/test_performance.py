"""Performance per day: measured where labels are known, and said to be unknown where they are not."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from pipeline_assets.serving.monitoring.performance import KNOWN, NOT_YET_KNOWN, DayPerformance, performance

START = datetime(2013, 5, 1, tzinfo=UTC)


def _scores(scores: list[float]) -> pa.Table:
    """Scores of flights f0, f1, …, twelve hours apart."""
    times = [START + position * timedelta(hours=12) for position in range(len(scores))]
    return pa.table(
        {
            "flight_id": [f"f{position}" for position in range(len(scores))],
            "decision_at": pa.array(times, pa.timestamp("us", "UTC")),
            "score": scores,
        }
    )


def _labels(labels: dict[str, bool]) -> pa.Table:
    return pa.table({"flight_id": pa.array(list(labels), pa.string()), "is_late": pa.array(list(labels.values()), pa.bool_())})


def _performance(scores: list[float], labels: dict[str, bool], min_labels: int = 1) -> list[DayPerformance]:
    return performance(_scores(scores), _labels(labels), key="flight_id", decision_at="decision_at", label="is_late", min_labels=min_labels)


def test_a_day_with_labels_is_measured() -> None:
    """Perfectly ordered scores have a ROC AUC of 1, and the Brier score is the mean squared error."""
    (day,) = _performance([0.9, 0.1], {"f0": True, "f1": False})

    assert (day.status, day.scores, day.labels, day.roc_auc, day.label_rate) == (KNOWN, 2, 2, 1.0, 0.5)
    assert day.brier == pytest.approx(0.01)


@pytest.mark.parametrize("labels", [{}, {"f0": True}, {"f0": True, "f1": True}])
def test_a_day_without_enough_labels_is_not_yet_known(labels: dict[str, bool]) -> None:
    """No labels, or labels of one kind only, give no measure instead of a made-up one."""
    (day,) = _performance([0.9, 0.1], labels)

    assert (day.status, day.roc_auc, day.labels) == (NOT_YET_KNOWN, None, len(labels))


def test_days_are_those_of_the_decision_and_too_few_labels_are_unknown() -> None:
    """Each UTC day is judged alone, in the order of time."""
    found = _performance([0.9, 0.1, 0.8, 0.2], {"f0": True, "f1": False, "f2": True}, min_labels=2)

    assert [(str(day.day), day.status, day.labels) for day in found] == [("2013-05-01", KNOWN, 2), ("2013-05-02", NOT_YET_KNOWN, 1)]
