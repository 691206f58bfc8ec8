"""Answers that are given again: what a process did for a caller's `Idempotency-Key`, so that a repeat does it no second time."""

from collections import OrderedDict
from dataclasses import dataclass, field
from time import monotonic

from pipeline_assets.serving.realtime.log.acked import Acked, Unacked
from pipeline_assets.serving.realtime.log.checks import Fault

KEPT_SECONDS, MOST_KEPT, MOST_ROWS_KEPT = 3_600.0, 10_000, 200_000
Outcome = Acked | Unacked | Fault


@dataclass(kw_only=True)
class Remembered:
    """What was done for a key: the digest of what was asked, and the outcome of each row, as far as it has one that stays."""

    digest: bytes
    outcomes: list[Outcome | None] = field(default_factory=list)
    is_running: bool = True
    since: float = field(default_factory=monotonic)


class Repeats:
    """The memory of one process: bounded in keys and rows, each kept for `KEPT_SECONDS`, the oldest gone first. For one event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, ...], Remembered] = OrderedDict()
        self._rows = 0

    def of(self, key: tuple[str, ...], digest: bytes, rows: int) -> Remembered:
        """What is known of a key, or new: then its outcomes are None."""
        self._forget()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Remembered(digest=digest, outcomes=[None] * rows, is_running=False)
            self._rows += rows
        return known

    def _forget(self) -> None:
        """Drops what is old or too much; what is being done stays, as it would be done twice."""
        for key, one in list(self._known.items()):
            is_old = monotonic() - one.since > KEPT_SECONDS
            if not (is_old or len(self._known) >= MOST_KEPT or self._rows >= MOST_ROWS_KEPT):
                return
            if not one.is_running:
                del self._known[key]
                self._rows -= len(one.outcomes)
