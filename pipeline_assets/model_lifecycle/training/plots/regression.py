"""Plots of models that predict a number: predicted against actual, residuals, and the error by decile of the prediction."""

from typing import TYPE_CHECKING

import numpy as np

from pipeline_assets.core.plots import BLUE, GREY, SQUARE, WIDE, canvas, png
from pipeline_assets.model_lifecycle.training.calibration import BINS
from pipeline_assets.model_lifecycle.training.judged import Judged, Labels, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A long tail would press everything else into a corner: axes end where a hundredth of the rows lies beyond.
TAIL = (0.5, 99.5)
POINTS = 3000
# As many bins as the rows can fill without noise, within what can be seen.
FEWEST_BINS, MOST_BINS = 10, 60


def draw(judged: Judged, unit: str) -> dict[str, bytes]:
    """The three plots by name, each a PNG of some ten kilobytes."""
    return {
        "predicted_actual": draw_predicted_actual(judged, unit),
        "residuals": draw_residuals(judged, unit),
        "error_by_decile": draw_error_by_decile(judged, unit),
    }


def draw_predicted_actual(judged: Judged, unit: str) -> bytes:
    """The outcome of evenly chosen rows against what was predicted; the dashed diagonal is right."""
    figure, axes = canvas(SQUARE, "Predicted against actual on the hold-out", f"predicted ({unit})", f"actual ({unit})")
    shown = np.unique(np.linspace(0, len(judged.labels) - 1, POINTS).astype(int))
    predicted, actual = judged.scores[shown], judged.labels[shown]
    axes.scatter(predicted, actual, s=5, color=BLUE, alpha=0.35, linewidths=0)
    (left, right), (bottom, top) = _span(predicted), _span(actual)
    low, high = min(left, bottom), max(right, top)
    axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    return png(figure)


def draw_residuals(judged: Judged, unit: str) -> bytes:
    """How often the prediction was too low or too high by how much, beside the baseline; above zero it was too high."""
    figure, axes = canvas(WIDE, "Residuals on the hold-out", f"predicted minus actual ({unit})", "rows")
    low, high = _span(np.concatenate([_residuals(judged, judged.scores), _residuals(judged, judged.baseline_scores)]))
    edges = np.linspace(low, high, int(np.clip(len(judged.labels) ** 0.5, FEWEST_BINS, MOST_BINS)) + 1)
    for name, scores, colour, width in (("baseline", judged.baseline_scores, GREY, 1.2), ("model", judged.scores, BLUE, 1.8)):
        counts, _ = np.histogram(_residuals(judged, scores), edges)
        axes.stairs(counts, edges, color=colour, linewidth=width, label=name, fill=False)
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axes.legend(frameon=False, loc="upper left")
    return png(figure)


def draw_error_by_decile(judged: Judged, unit: str) -> bytes:
    """The mean absolute error of rows with low to high predictions, a tenth of the rows each, beside the baseline's on the same rows."""
    title, x_label = "Error by decile of the prediction", f"mean prediction of the decile ({unit})"
    figure, axes = canvas(WIDE, title, x_label, f"mean absolute error ({unit})")
    order = np.argsort(judged.scores, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    _bars(axes, judged, parts)
    axes.set_xticks(range(len(parts)), [f"{judged.scores[part].mean():.3g}" for part in parts])
    # Room for the legend above the bars, of which the outer ones are often the highest.
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    axes.legend(frameon=False, loc="upper center", ncols=2)
    return png(figure)


def _bars(axes: "Axes", judged: Judged, parts: list[Labels]) -> None:
    places = np.arange(len(parts))
    for name, scores, colour, shift in (("baseline", judged.baseline_scores, GREY, -0.2), ("model", judged.scores, BLUE, 0.2)):
        errors = np.abs(_residuals(judged, scores))
        axes.bar(places + shift, [errors[part].mean() for part in parts], width=0.38, color=colour, label=name)


def _residuals(judged: Judged, scores: Scores) -> Scores:
    return scores - judged.labels


def _span(values: Scores) -> tuple[float, float]:
    """Where nearly all values lie, with a small margin; a single value gets room around it."""
    low, high = np.percentile(values, TAIL)
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)
