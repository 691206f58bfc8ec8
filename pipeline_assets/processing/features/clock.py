"""A key and a time as one sortable number, so that one sorted array answers for all keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_assets.processing.features.columns import Ints

ROOM = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Marks: one int64 for a key and a time, in the order of (key, time).

    Where keys × microseconds do not fit into an int64, `scale` holds the times that occur, and a mark counts those instead.
    """

    origin: int
    span: int
    scale: Ints | None

    def mark(self, code: Ints, at: Ints) -> Ints:
        """The mark of an event."""
        return self.before(code, at)

    def before(self, code: Ints, at: Ints) -> Ints:
        """A mark above those of all the key's events before this time, and of none at it or after."""
        if self.scale is None:
            return code * self.span + (np.clip(at, self.origin, self.origin + self.span - 1) - self.origin)
        return code * self.span + np.searchsorted(self.scale, at) + 1

    def until(self, code: Ints, at: Ints) -> Ints:
        """A mark not below those of all the key's events up to this time, and below those of all after it."""
        if self.scale is None:
            return self.before(code, at)
        return code * self.span + np.searchsorted(self.scale, at, side="right")


def clock_for(codes: int, moments: Sequence[Ints], *, until: int) -> Clock:
    """The clock for so many keys and these moments, events first: none is before the first event, and marks end with `until`."""
    if len(moments[0]) == 0:
        return Clock(origin=0, span=1, scale=None)
    origin = int(moments[0].min()) - 1
    span = until - origin + 2
    if codes * span < ROOM:
        return Clock(origin=origin, span=span, scale=None)
    scale = np.unique(np.concatenate(moments))
    return Clock(origin=0, span=len(scale) + 2, scale=scale)
