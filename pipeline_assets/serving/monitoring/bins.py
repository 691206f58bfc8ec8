"""Where the numbers of a reference are cut into bins of equal frequency; heaps of equal numbers have bins of their own.

A number that holds at least a bin's share is a heap, and so is each of few different ones. It gets a bin of its own, and what lies below or
above it is never counted with it. Bins of equal frequency alone would put everything below the most frequent number into its bin when that
number is the greatest, and a world that turns over would not be seen. Where there are heaps, the rule has no preferred direction: the
negated numbers get the mirrored bins. Where there are none, the edges are plain quantiles, so that what was measured of such a column stays
comparable.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Bins:
    """The inner edges of a column's bins: ascending, without repeats; a value belongs to the first bin whose edge it does not exceed."""

    column: str
    edges: tuple[float, ...]

    @property
    def count(self) -> int:
        """The bins of values; that of nulls comes after them."""
        return len(self.edges) + 1

    def places(self, column: pa.ChunkedArray) -> NDArray[np.intp]:
        """The bin of each value, any for a null."""
        places: NDArray[np.intp] = np.searchsorted(np.asarray(self.edges, dtype=np.float64), _floats(column))
        return places


def cut(values: pa.ChunkedArray, column: str, bins: int) -> Bins:
    """About `bins` bins of equal frequency, and one for each heap; a single bin where there is no finite number. Nulls do not count.

    A heap is a number that occurs at least twice and holds at least 1/`bins` of all finite numbers, or any that occurs twice where there
    are at most `bins` different ones. The numbers between two heaps, or on one side of the last, are a run: a run of the share s has
    s · `bins` bins, rounded, at least one. The bin of a number follows from the middle of its rank in the run (Hazen, 1914), so that equal
    numbers are never divided; see `labels`. Between heaps without a number between them, and beyond an outermost heap, lies a bin that is
    empty in the reference.
    """
    floats = _floats(values.drop_null())
    numbers = floats[np.isfinite(floats)]
    found, counts = np.unique(numbers, return_counts=True)
    is_heap = (counts > 1) & ((counts * bins >= len(numbers)) | (len(found) <= bins))
    edges = _edges_of_heaps(found, counts, is_heap, bins) if is_heap.any() else _quantiles(numbers, bins)
    return Bins(column=column, edges=tuple(np.unique(edges).tolist()))


def labels(counts: Ints, bins: int) -> Ints:
    """The bin of each of the ascending numbers that occur `counts` times: labels that ascend, and change sign where the order is turned.

    The middle of a number's rank, as a share of all, lies in one of `bins` equal parts; the label counts the parts from the middle of the
    run outwards: 0 for the middle part of an odd number, ±1 for those beside it, and so on. A middle exactly between two parts belongs to
    the outer one, and exactly in the middle of an even number of parts it is a bin of its own, 0.
    """
    total, before = int(counts.sum()), np.cumsum(counts) - counts
    # Twice the distance from the middle of the run, in parts; exact, as whole multiples of 1 / total.
    distance = bins * (2 * before + counts) - bins * total
    label: Ints = np.sign(distance) * ((np.abs(distance) + (2 - bins % 2) * total) // (2 * total))
    return label


def just_below(values: Floats) -> Floats:
    """The greatest float below each value: the edge of a bin to which the value itself does not belong any more."""
    below: Floats = np.nextafter(values, -np.inf)
    return below


def _quantiles(numbers: Floats, bins: int) -> Floats:
    if not len(numbers):
        return numbers
    return np.quantile(numbers, np.linspace(0, 1, bins + 1)[1:-1], method="higher")


def _edges_of_heaps(found: Floats, counts: Ints, is_heap: NDArray[np.bool_], bins: int) -> Floats:
    """The edges on both sides of each heap, and those within the runs; a number of `found` occurs `counts` times."""
    heaps, total = found[is_heap], int(counts.sum())
    edges = [just_below(heaps), heaps]
    for run in _runs(is_heap):
        share_in_bins = max(1, (2 * int(counts[run].sum()) * bins + total) // (2 * total))
        edges.append(_run_edges(found[run], labels(counts[run], share_in_bins)))
    return np.concatenate(edges)


def _run_edges(values: Floats, label: Ints) -> Floats:
    """The edges between the bins of a run; what lies between two of them belongs to the outer one.

    Between the two bins beside the middle it belongs to the nearer, and the point half way has a bin of its own, if there is a float there.
    """
    last = np.flatnonzero(np.diff(label))
    lower, upper = values[last], values[last + 1]
    below, above = label[last], label[last + 1]
    half = lower / 2 + upper / 2
    is_middle = (below < 0) & (above > 0) & (lower < half) & (half < upper)
    outer = np.where(above > 0, lower, just_below(upper))
    return np.concatenate([outer[~is_middle], just_below(half[is_middle]), half[is_middle]])


def _runs(is_heap: NDArray[np.bool_]) -> list[slice]:
    """The stretches without a heap, in their order."""
    borders = np.flatnonzero(np.diff(np.concatenate(([True], is_heap, [True])).astype(np.int8)))
    return [slice(start, end) for start, end in borders.reshape(-1, 2).tolist()]


def _floats(column: pa.ChunkedArray) -> Floats:
    floats: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return floats
