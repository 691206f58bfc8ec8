"""The greatest of the values that count at each question, where each value comes with the range of questions at which it counts."""

import numpy as np

from pipeline_assets.processing.features.columns import Ints


def greatest_covering(first: Ints, end: Ints, values: np.ndarray, count: int, nothing: float) -> np.ndarray:
    """For each of `count` places the greatest of the values whose range [first, end) holds it; `nothing` where none does.

    The sparse table of range maxima (Bender and Farach-Colton, 2000) turned round: each value goes to the two spans of 2^k places that
    together are its range, and spans hand down to their halves. log2(longest range) steps over the places, memory for one step.
    """
    level = np.frexp(np.maximum(end - first, 0).astype(np.float64))[1] - 1
    longest = int(level.max(initial=0))
    best = np.full(max(count - (2 << longest) + 1, 0), nothing, values.dtype)
    for doubling in reversed(range(longest + 1)):
        span, wider, rows = 1 << doubling, best, np.flatnonzero(level == doubling)
        best = np.full(count - span + 1, nothing, values.dtype)
        best[: len(wider)] = wider
        best[span:] = np.maximum(best[span:], wider)
        np.maximum.at(best, first[rows], values[rows])
        np.maximum.at(best, end[rows] - span, values[rows])
    return best
