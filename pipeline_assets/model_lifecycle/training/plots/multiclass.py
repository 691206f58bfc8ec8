"""Plots of models that name one of several classes: the confusion matrix, and each class against the rest."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline_assets.core.plots import GREY, HUES, INK, SQUARE, WIDE, canvas, curve, png
from pipeline_assets.model_lifecycle.training.calibration import calibration
from pipeline_assets.model_lifecycle.training.judged import Judged, Labels, Scores

# A legend and a set of hues have room for so many classes; the others are the rarest, and stand in the metrics alone.
MOST_CURVES = len(HUES)
MOST_CELLS = 20
DARK = 0.5
MOST_SHARE = 1.02


def draw(judged: Judged, classes: Sequence[str]) -> dict[str, bytes]:
    """The three plots by name, each a PNG of some ten kilobytes."""
    return {
        "confusion": draw_confusion(judged, classes),
        "roc": draw_roc(judged, classes),
        "calibration": draw_calibration(judged, classes),
    }


def draw_confusion(judged: Judged, classes: Sequence[str]) -> bytes:
    """Rows by the class that came and the likeliest one, as shares of the class that came; the diagonal is right."""
    shown = _most_frequent(judged.labels, len(classes), MOST_CELLS)
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (judged.labels, judged.scores.argmax(axis=1)), 1)
    shares = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
    figure, axes = canvas(SQUARE, "Confusion on the hold-out", "likeliest class", "class that came")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=8, color="white" if share > DARK else INK)
    axes.set_xticks(range(len(shown)), [classes[one] for one in shown], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(shown)), [f"{classes[one]}  ({int(counts[one].sum())})" for one in shown])
    axes.grid(visible=False)
    return png(figure)


def draw_roc(judged: Judged, classes: Sequence[str]) -> bytes:
    """True against false positives of each class against the rest; the dashed diagonal is chance."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = canvas(SQUARE, "ROC on the hold-out, each class against the rest", "false positive rate", "true positive rate")
    for name, came, scores, colour in _against_the_rest(judged, classes):
        wrong, right, _ = roc_curve(came, scores)
        curve(axes, wrong, right, f"{name}  {roc_auc_score(came, scores):.3f}", colour)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.legend(frameon=False, loc="lower right", title="area under the curve", fontsize=8, title_fontsize=9)
    return png(figure)


def draw_calibration(judged: Judged, classes: Sequence[str]) -> bytes:
    """The score of each class against the share that came, in ten bins; the dashed diagonal is a perfect forecaster."""
    figure, axes = canvas(WIDE, "Calibration on the hold-out, each class against the rest", "mean score of the bin", "share that came")
    for name, came, scores, colour in _against_the_rest(judged, classes):
        bins = calibration(came, scores)
        axes.plot([score for score, _, _ in bins], [share for _, share, _ in bins], color=colour, marker="o", markersize=4, label=name)
    end = min(1.05 * max(axes.get_xlim()[1], axes.get_ylim()[1]), MOST_SHARE)
    axes.plot([0, end], [0, end], color=GREY, linestyle="--", linewidth=1)
    axes.set_xlim(0, end)
    axes.set_ylim(0, end)
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    return png(figure)


def _against_the_rest(judged: Judged, classes: Sequence[str]) -> Iterator[tuple[str, Labels, Scores, str]]:
    """The most frequent classes that have rows of their own and of others: name, whether it came, its scores, its colour."""
    for place, one in enumerate(_most_frequent(judged.labels, len(classes), MOST_CURVES)):
        came = judged.labels == one
        if 0 < came.sum() < len(came):
            yield classes[one], came, judged.scores[:, one], HUES[place]


def _most_frequent(labels: Labels, classes: int, most: int) -> list[int]:
    """The codes of the most frequent classes, in the order of the declaration."""
    counts = np.bincount(labels, minlength=classes)
    return sorted(np.argsort(-counts, kind="stable")[:most].tolist())
