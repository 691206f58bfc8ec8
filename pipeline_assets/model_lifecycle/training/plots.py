"""What a person looks at before trusting a model: calibration, importance, ROC and precision-recall, as small PNG images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from pipeline_assets.model_lifecycle.training.evaluate import Labels, Values, calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, BLUE, GREY, PALE = "#1f2933", "#2563a8", "#8a94a0", "#e4e8ed"
TOP_FEATURES = 20
SQUARE, TALL = (5.0, 4.6), (6.6, 5.4)
CURVE_POINTS = 400
COLOURS = 64


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Labels of a hold-out, and what the model and its baseline said; row i of all three belongs together."""

    labels: Labels
    scores: Values
    baseline_scores: Values


def draw_plots(judged: Judged, gains: Mapping[str, float]) -> dict[str, bytes]:
    """The four plots by name, each a PNG of some ten kilobytes; `gains` is the loss reduction of all splits by feature."""
    return {
        "calibration": draw_calibration(judged),
        "importance": draw_importance(gains),
        "roc": draw_roc(judged),
        "precision_recall": draw_precision_recall(judged),
    }


def draw_calibration(judged: Judged) -> bytes:
    """What was said against what came true, in ten bins; the dashed diagonal is a perfect forecaster."""
    figure, axes = _canvas(SQUARE, "Calibration on the hold-out", "mean score of the bin", "share that came true")
    for name, scores, colour in _rivals(judged):
        bins = calibration(judged.labels, scores)
        axes.plot([said for said, _, _ in bins], [came for _, came, _ in bins], color=colour, marker="o", markersize=4, label=name)
    end = 1.05 * max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([0, end], [0, end], color=GREY, linestyle="--", linewidth=1)
    axes.set_xlim(0, end)
    axes.set_ylim(0, end)
    axes.legend(frameon=False, loc="upper left")
    return _png(figure)


def draw_importance(gains: Mapping[str, float]) -> bytes:
    """The twenty features whose splits reduce the loss most, by share of the gain of all features."""
    figure, axes = _canvas(TALL, "Importance (share of total gain)", "% of the gain of all splits", "")
    total = sum(gains.values())
    best = sorted(gains.items(), key=lambda item: (-item[1], item[0]))[:TOP_FEATURES][::-1]
    axes.barh([name for name, _ in best], [100 * gain / total for _, gain in best], color=BLUE, height=0.7)
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.grid(visible=False, axis="y")
    return _png(figure)


def draw_roc(judged: Judged) -> bytes:
    """True against false positives at every threshold; the dashed diagonal is chance."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = _canvas(SQUARE, "ROC on the hold-out", "false positive rate", "true positive rate")
    for name, scores, colour in _rivals(judged):
        wrong, right, _ = roc_curve(judged.labels, scores)
        _curve(axes, wrong, right, f"{name}  {roc_auc_score(judged.labels, scores):.3f}", colour)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.legend(frameon=False, loc="lower right", title="area under the curve")
    return _png(figure)


def draw_precision_recall(judged: Judged) -> bytes:
    """Precision against recall at every threshold; the dashed line is the share of true labels."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = _canvas(SQUARE, "Precision and recall on the hold-out", "recall", "precision")
    for name, scores, colour in _rivals(judged):
        precision, recall, _ = precision_recall_curve(judged.labels, scores)
        _curve(axes, recall[::-1], precision[::-1], f"{name}  {average_precision_score(judged.labels, scores):.3f}", colour)
    axes.axhline(float(judged.labels.mean()), color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, loc="upper right", title="average precision")
    return _png(figure)


def _rivals(judged: Judged) -> tuple[tuple[str, Values, str], ...]:
    return ("baseline", judged.baseline_scores, GREY), ("model", judged.scores, BLUE)


def _curve(axes: "Axes", x: Values, y: Values, label: str, colour: str) -> None:
    """A step curve thinned to what the eye can see, so that the image stays small."""
    shown = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    axes.plot(x[shown], y[shown], color=colour, linewidth=1.8, label=label)


def _canvas(size: Sequence[float], title: str, x_label: str, y_label: str) -> "tuple[Figure, Axes]":
    """An empty figure of its own, outside of pyplot's global state: safe in threads, nothing to close."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0], size[1]), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, color=INK, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(visible=True, color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=8)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    """The figure in a palette of 64 colours: a quarter of the bytes, and no difference to the eye."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    sink = BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    Image.fromarray(pixels).convert("RGB").quantize(COLOURS).save(sink, format="png", optimize=True)
    return sink.getvalue()
