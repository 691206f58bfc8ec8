"""Figures of quality, overall, by slice and by month."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from pipeline_assets.model_lifecycle.training.evaluate import evaluate, quality_of
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets_tests.model_rows import BINARY, MULTICLASS, REGRESSION


def test_slices_and_months_are_judged_on_their_own_rows() -> None:
    """A slice column splits the rows by value, null in none; months are those of the decision in UTC."""
    times = [datetime(2013, 1, 31, 23, 59, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)] * 3
    table = pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "origin": ["A", "A", "B", "B", None, "A"]})

    found = evaluate(
        task_kind(BINARY),
        table,
        np.array([True, False, True, False, True, False]),
        np.array([0.9, 0.1, 0.2, 0.8, 0.5, 0.5]),
        slices=("origin",),
        decision_at="at",
    )

    assert {value: quality.rows for value, quality in found.slices["origin"].items()} == {"A": 3, "B": 2}
    assert [found.slices["origin"][value].figures["roc_auc"] for value in "AB"] == [1.0, 0.0]
    assert {month: quality.rows for month, quality in found.months.items()} == {"2013-01": 3, "2013-02": 3}
    groups = {(column, value): quality.metrics() for column, value, quality in found.groups()}
    assert [*groups] == [("origin", "A"), ("origin", "B"), ("month", "2013-01"), ("month", "2013-02")]
    assert groups["origin", "B"]["roc_auc"] == 0.0
    assert "roc_auc" not in groups["month", "2013-01"]
    assert (found.overall.metrics()["rows"], found.overall.metrics()["positives"]) == (6, 3)


def test_labels_are_summed_up_under_names_that_no_metric_has() -> None:
    """Rows of each class, and the spread of numbers, stand beside the metrics."""
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])

    classes = quality_of(task_kind(MULTICLASS), np.array([0, 1]), scores).metrics()
    numbers = quality_of(task_kind(REGRESSION), np.array([1.0, 3.0]), np.array([1.0, 2.0])).metrics()

    assert {name: classes[name] for name in classes if name.startswith("rows")} == {
        "rows": 2, "rows_on time": 1, "rows_late": 1, "rows_cancelled": 0,
    }  # fmt: skip
    assert (numbers["label_mean"], numbers["label_min"], numbers["label_max"], numbers["mae"]) == (2.0, 1.0, 3.0, 0.5)
