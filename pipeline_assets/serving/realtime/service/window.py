"""Counts of the last five minutes, in a form that can be added up over the processes of a machine."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from threading import Lock

SLOT_SECONDS, SLOTS = 5, 60
WINDOW_SECONDS = SLOT_SECONDS * SLOTS
# Of latencies it is counted how many are between two powers of this, so a percentile is off by 5 % at most.
STEP, SHORTEST_MS = 1.1, 0.05
LATENCY = "ms:"


class Window:
    """What was counted by name, by the monotonic clock, which all processes of a machine share; for any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._slots: deque[tuple[int, Counter[str]]] = deque(maxlen=SLOTS)

    def add(self, name: str, count: int = 1) -> None:
        """Counts something that happens now."""
        slot = int(self._clock() // SLOT_SECONDS)
        with self._lock:
            if not self._slots or self._slots[-1][0] != slot:
                self._slots.append((slot, Counter()))
            self._slots[-1][1][name] += count

    def took(self, milliseconds: float) -> None:
        """Counts a latency."""
        self.add(f"{LATENCY}{math.floor(math.log(max(milliseconds, SHORTEST_MS), STEP))}")

    def counts(self) -> Counter[str]:
        """What the last five minutes had."""
        since = self._clock() // SLOT_SECONDS - SLOTS
        with self._lock:
            return sum((counts for slot, counts in self._slots if slot > since), Counter[str]())


def percentile_ms(counts: Mapping[str, int], share: float) -> float | None:
    """The latency in ms that a share of all did not exceed, from the counts of one or several windows; None where there is none."""
    found = sorted((int(name.removeprefix(LATENCY)), count) for name, count in counts.items() if name.startswith(LATENCY))
    wanted = share * sum(count for _, count in found)
    for power, count in found:
        wanted -= count
        if wanted <= 0:
            # The middle of the two powers, as they grow.
            return float(STEP ** (power + 0.5))
    return None


def share_of(counts: Mapping[str, int], name: str, names: tuple[str, ...]) -> float:
    """Which share of some names one of them has; 0 where nothing was counted."""
    total = sum(counts.get(one, 0) for one in names)
    return counts.get(name, 0) / total if total else 0.0
