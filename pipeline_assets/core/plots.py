"""The look that all plots share: figures outside of any global state, thin curves, small PNG images.

matplotlib is imported where a figure is made, so that the code location loads without it.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, BLUE, GREY, PALE = "#1f2933", "#2563a8", "#8a94a0", "#e4e8ed"
# Hues that stay apart in print and for the colour-blind (Okabe and Ito, 2008), for one curve per class.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a94a0", "#1f2933")
SQUARE, TALL, WIDE = (5.0, 4.6), (6.6, 5.4), (6.6, 4.6)
CURVE_POINTS = 400
COLOURS = 64


def curve(axes: "Axes", x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], label: str, colour: str) -> None:
    """A step curve thinned to what the eye can see, so that the image stays small."""
    shown = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    axes.plot(x[shown], y[shown], color=colour, linewidth=1.8, label=label)


def canvas(size: Sequence[float], title: str, x_label: str, y_label: str) -> "tuple[Figure, Axes]":
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


def png(figure: "Figure") -> bytes:
    """The figure in a palette of 64 colours: a quarter of the bytes, and no difference to the eye."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    surface = FigureCanvasAgg(figure)
    surface.draw()  # type: ignore[no-untyped-call]
    sink = BytesIO()
    pixels = np.asarray(surface.buffer_rgba())  # type: ignore[no-untyped-call]
    Image.fromarray(pixels).convert("RGB").quantize(COLOURS).save(sink, format="png", optimize=True)
    return sink.getvalue()
