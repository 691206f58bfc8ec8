"""How the scores of a run are spread, as a small PNG image."""

from collections.abc import Sequence
from io import BytesIO

INK, BLUE, PALE = "#1f2933", "#2563a8", "#e4e8ed"


def draw_histogram(counts: Sequence[int]) -> bytes:
    """Rows per bin of the score, in equal bins from 0 to 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.2), dpi=90, layout="constrained")
    axes = figure.subplots()
    width = 1 / len(counts)
    axes.bar([position * width for position in range(len(counts))], counts, width=width, align="edge", color=BLUE, edgecolor="white")
    axes.set_xlim(0, 1)
    axes.set_xlabel("score", color=INK)
    axes.set_ylabel("rows", color=INK)
    axes.set_title("Distribution of scores", color=INK, loc="left", fontsize=10)
    axes.grid(axis="y", color=PALE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    image = BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
