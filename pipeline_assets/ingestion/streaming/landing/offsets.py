"""Which offsets of a topic's partitions have been seen: as spans, so that millions of records in order are two numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

# Half open, in order, and apart from each other.
Span = tuple[int, int]
Spans = tuple[Span, ...]


def spans_of(offsets: np.ndarray) -> Spans:
    """The offsets, in any order and repeated or not, as spans."""
    if not len(offsets):
        return ()
    # Most come in order, and then there is nothing to sort.
    known = offsets if (np.diff(offsets) > 0).all() else np.unique(offsets)
    breaks = np.flatnonzero(np.diff(known) != 1)
    starts, ends = known[np.concatenate([[0], breaks + 1])], known[np.concatenate([breaks, [-1]])] + 1
    return tuple(zip(starts.tolist(), ends.tolist(), strict=True))


def union(spans: Iterable[Span]) -> Spans:
    """All that is in some span."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


def minus(spans: Iterable[Span], taken: Spans) -> Spans:
    """What is in some span and not taken."""
    left: list[Span] = []
    for span in spans:
        start, end = span
        for first, upto in taken:
            if start < upto and first < end:
                left += [(start, first)] if start < first else []
                start = min(upto, end)
        left += [(start, end)] if start < end else []
    return tuple(left)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The offsets seen of each partition."""

    partitions: Mapping[int, Spans] = field(default_factory=dict)

    def with_spans(self, more: Mapping[int, Spans]) -> "Seen":
        """This and more."""
        joined = {number: union((*self.partitions.get(number, ()), *spans)) for number, spans in more.items()}
        return Seen(partitions={**self.partitions, **joined})

    def has(self, partition: int, offsets: np.ndarray) -> np.ndarray:
        """Which of the offsets of a partition were seen."""
        spans = self.partitions.get(partition, ())
        starts, ends = np.array([span[0] for span in spans], dtype=np.int64), np.array([span[1] for span in spans], dtype=np.int64)
        if not len(starts):
            return np.zeros(len(offsets), dtype=bool)
        found = np.searchsorted(starts, offsets, side="right") - 1
        return np.asarray((found >= 0) & (offsets < ends[np.maximum(found, 0)]), dtype=bool)

    def covers(self, partitions: Mapping[int, Spans]) -> bool:
        """Whether all these offsets were seen."""
        return self.with_spans(partitions) == self.with_spans(dict.fromkeys(partitions, ()))

    @property
    def next_offsets(self) -> dict[int, int]:
        """Of each partition the first offset that was not seen."""
        return {number: spans[0][1] if spans and not spans[0][0] else 0 for number, spans in sorted(self.partitions.items())}

    @property
    def gaps(self) -> dict[int, Spans]:
        """Of each partition the offsets from 0 on that were not seen, though later ones were."""
        found = {}
        for number, spans in sorted(self.partitions.items()):
            edges = [0, *(edge for span in spans for edge in span)]
            lacking = tuple((end, start) for end, start in zip(edges[::2], edges[1::2], strict=False) if end < start)
            if lacking:
                found[number] = lacking
        return found
