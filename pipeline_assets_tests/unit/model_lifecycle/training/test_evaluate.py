"""Figures of quality, by hand and by property; and plots that are small and the same each time."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.model_lifecycle.training.evaluate import calibration, calibration_error, evaluate, scores_of
from pipeline_assets.model_lifecycle.training.plots import Judged, draw_plots

PNG = b"\x89PNG\r\n\x1a\n"


def test_figures_equal_those_worked_out_by_hand() -> None:
    """Four rows: three of four pairs in the right order, and the mean square and logarithm of the errors."""
    found = scores_of(np.array([False, True, False, True]), np.array([0.1, 0.4, 0.5, 0.9]))

    assert (found.rows, found.positives) == (4, 2)
    assert found.roc_auc == 0.75
    assert found.brier == pytest.approx((0.01 + 0.36 + 0.25 + 0.01) / 4)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.5, 0.9]).mean())


def test_areas_do_not_exist_where_all_labels_are_the_same() -> None:
    """One kind of label gives no ROC AUC and no PR AUC, rather than a made-up number."""
    found = scores_of(np.array([True, True]), np.array([0.2, 0.9]))

    assert (found.roc_auc, found.pr_auc) == (None, None)
    assert found.brier == pytest.approx((0.64 + 0.01) / 2)


def test_calibration_error_of_a_liar_is_how_much_he_exaggerates() -> None:
    """Ten equal bins, each 0.2 too high: the error is 0.2."""
    labels = np.tile([True, False, False, False, False], 200)
    scores = np.full(1000, 0.4) + np.linspace(0, 1e-9, 1000)

    assert calibration_error(labels, scores) == pytest.approx(0.2)
    assert [rows for _, _, rows in calibration(labels, scores)] == [100] * 10


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60))
def test_calibration_error_lies_between_zero_and_one_and_bins_hold_every_row(pairs: list[tuple[bool, float]]) -> None:
    """Any labels and scores, ties and single rows among them."""
    labels, scores = np.array([label for label, _ in pairs]), np.array([score for _, score in pairs])

    assert 0 <= calibration_error(labels, scores) <= 1
    assert sum(rows for _, _, rows in calibration(labels, scores)) == len(pairs)


def test_slices_and_months_are_judged_on_their_own_rows() -> None:
    """A slice column splits the rows by value, null in none; months are those of the decision in UTC."""
    times = [datetime(2013, 1, 31, 23, 59, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)] * 3
    table = pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "origin": ["A", "A", "B", "B", None, "A"]})

    found = evaluate(
        table,
        np.array([True, False, True, False, True, False]),
        np.array([0.9, 0.1, 0.2, 0.8, 0.5, 0.5]),
        slices=("origin",),
        decision_at="at",
    )

    assert {value: scores.rows for value, scores in found.slices["origin"].items()} == {"A": 3, "B": 2}
    assert (found.slices["origin"]["A"].roc_auc, found.slices["origin"]["B"].roc_auc) == (1.0, 0.0)
    assert {month: scores.rows for month, scores in found.months.items()} == {"2013-01": 3, "2013-02": 3}
    metrics = found.metrics()
    assert metrics["slice/origin/B/roc_auc"] == 0.0
    assert "month/2013-01/roc_auc" not in metrics


def test_plots_are_small_pngs_and_the_same_each_time() -> None:
    """Four images, each of a size that a page of metadata can bear."""
    random = np.random.default_rng(3)
    labels = random.random(2000) < 0.3
    judged = Judged(labels=labels, scores=random.random(2000) * 0.5 + labels * 0.3, baseline_scores=random.random(2000))
    gains = {f"view__feature_{number}": float(number) for number in range(1, 40)}

    plots = draw_plots(judged, gains)

    assert set(plots) == {"calibration", "importance", "roc", "precision_recall"}
    assert all(image.startswith(PNG) for image in plots.values())
    assert max(len(image) for image in plots.values()) < 30_000
    assert draw_plots(judged, gains) == plots
