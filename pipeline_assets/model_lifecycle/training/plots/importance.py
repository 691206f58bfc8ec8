"""Which features a model learned most from."""

from collections.abc import Mapping

from pipeline_assets.core.plots import BLUE, TALL, canvas, png

TOP_FEATURES = 20


def draw_importance(gains: Mapping[str, float]) -> bytes:
    """The twenty features whose splits reduce the loss most, by share of the gain of all features."""
    figure, axes = canvas(TALL, "Importance (share of total gain)", "% of the gain of all splits", "")
    total = sum(gains.values())
    best = sorted(gains.items(), key=lambda item: (-item[1], item[0]))[:TOP_FEATURES][::-1]
    axes.barh([name for name, _ in best], [100 * gain / total for _, gain in best], color=BLUE, height=0.7)
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.grid(visible=False, axis="y")
    return png(figure)
