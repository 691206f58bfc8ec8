"""Plots of models that answer yes or no: calibration, ROC and precision-recall, each beside the baseline."""

from pipeline_assets.core.plots import BLUE, GREY, SQUARE, canvas, curve, png
from pipeline_assets.model_lifecycle.training.calibration import calibration
from pipeline_assets.model_lifecycle.training.judged import Judged, Scores


def draw(judged: Judged) -> dict[str, bytes]:
    """The three plots by name, each a PNG of some ten kilobytes."""
    return {"calibration": draw_calibration(judged), "roc": draw_roc(judged), "precision_recall": draw_precision_recall(judged)}


def draw_calibration(judged: Judged) -> bytes:
    """The score against the share that came true, in ten bins; the dashed diagonal is a perfect forecaster."""
    figure, axes = canvas(SQUARE, "Calibration on the hold-out", "mean score of the bin", "share that came true")
    for name, scores, colour in _rivals(judged):
        bins = calibration(judged.labels, scores)
        axes.plot([score for score, _, _ in bins], [share for _, share, _ in bins], color=colour, marker="o", markersize=4, label=name)
    end = 1.05 * max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([0, end], [0, end], color=GREY, linestyle="--", linewidth=1)
    axes.set_xlim(0, end)
    axes.set_ylim(0, end)
    axes.legend(frameon=False, loc="upper left")
    return png(figure)


def draw_roc(judged: Judged) -> bytes:
    """True against false positives at every threshold; the dashed diagonal is chance."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = canvas(SQUARE, "ROC on the hold-out", "false positive rate", "true positive rate")
    for name, scores, colour in _rivals(judged):
        wrong, right, _ = roc_curve(judged.labels, scores)
        curve(axes, wrong, right, f"{name}  {roc_auc_score(judged.labels, scores):.3f}", colour)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.legend(frameon=False, loc="lower right", title="area under the curve")
    return png(figure)


def draw_precision_recall(judged: Judged) -> bytes:
    """Precision against recall at every threshold; the dashed line is the share of true labels."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = canvas(SQUARE, "Precision and recall on the hold-out", "recall", "precision")
    for name, scores, colour in _rivals(judged):
        precision, recall, _ = precision_recall_curve(judged.labels, scores)
        curve(axes, recall[::-1], precision[::-1], f"{name}  {average_precision_score(judged.labels, scores):.3f}", colour)
    axes.axhline(float(judged.labels.mean()), color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, loc="upper right", title="average precision")
    return png(figure)


def _rivals(judged: Judged) -> tuple[tuple[str, Scores, str], ...]:
    return ("baseline", judged.baseline_scores, GREY), ("model", judged.scores, BLUE)
