"""A picture of drift: days across, the features that moved most down, darker where the index is nearer to its limit or above it."""

from collections.abc import Sequence

import numpy as np

from pipeline_assets.core.plots import INK, canvas, png
from pipeline_assets.serving.monitoring.drift import Drift

TOP_FEATURES = 20
CAP = 2.0


def draw_drift(found: Sequence[Drift]) -> bytes:
    """The index over its limit per day and feature, for the twenty features that came nearest to theirs, as a PNG; 1 is the limit.

    A column that was not judged on a day has a blank there.
    """
    from matplotlib.colors import TwoSlopeNorm

    days = sorted({one.day for one in found})
    ratio = {(one.column, one.day): one.psi / one.limit for one in found}
    peaks = {column: max(ratio[column, day] for day in days if (column, day) in ratio) for column in {one.column for one in found}}
    columns = sorted(peaks, key=lambda column: (-peaks[column], column))[:TOP_FEATURES]
    grid = np.array([[min(ratio.get((column, day), np.nan), CAP) for day in days] for column in columns]).reshape(len(columns), len(days))

    size = (8.0, 0.26 * max(len(columns), 4) + 1.4)
    figure, axes = canvas(size, "Drift: stability index over its limit (red: above)", "", "")
    image = axes.imshow(grid, aspect="auto", cmap="RdBu_r", norm=TwoSlopeNorm(vcenter=1, vmin=0, vmax=CAP))
    axes.set_yticks(range(len(columns)), columns, fontsize=7, color=INK)
    step = max(1, len(days) // 8)
    axes.set_xticks(range(0, len(days), step), [f"{day:%d %b}" for day in days[::step]], fontsize=7, color=INK)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 1, CAP]).outline.set_visible(False)
    return png(figure)
