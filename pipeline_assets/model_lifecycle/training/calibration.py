"""How close scores come to what they stand for: bins of the score, each with its mean score and its mean outcome."""

import math

from pipeline_assets.model_lifecycle.training.judged import Labels, Scores

BINS = 10


def calibration_error(labels: Labels, scores: Scores) -> float:
    """The mean distance of scores and outcomes, over ten bins of as many rows each, in order of the score; in the unit of the score."""
    parts = calibration(labels, scores)
    return math.fsum(rows * abs(score - outcome) for score, outcome, rows in parts) / len(labels)


def calibration(labels: Labels, scores: Scores) -> list[tuple[float, float, int]]:
    """Mean score, mean outcome and rows of each bin of the score, lowest first; equal scores keep the order of their rows."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    return [(float(scores[part].mean()), float(labels[part].mean()), len(part)) for part in bins]
