"""How far one worker is with one feed, in memory: written by the thread that keeps the feed, read by those that report it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock


@dataclass(kw_only=True)
class Course:
    """What a worker knows of a feed; counts are those since it started. `progress` says what the columns mean."""

    progressed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    caught_up_at: datetime | None = None
    lag: int = 0
    taken: int = 0
    left_out: int = 0
    problem: str | None = None
    lock: Lock = field(default_factory=Lock, repr=False)

    def took(self, records: int, rows: int, now: datetime) -> None:
        """Notes records of which some gave rows."""
        with self.lock:
            self.taken += records
            self.left_out += records - rows
            self.progressed_at, self.problem = now, None

    def stands(self, lag: int, caught_up_at: datetime | None) -> None:
        """Notes what is still to take, and up to when all is taken that had come, where that is known anew."""
        with self.lock:
            self.lag = lag
            if caught_up_at is not None:
                self.caught_up_at, self.problem = caught_up_at, None
                self.progressed_at = max(self.progressed_at, caught_up_at)

    def failed(self, problem: str) -> None:
        """Notes why the feed cannot be kept."""
        with self.lock:
            self.problem = problem

    def let_go(self) -> None:
        """Notes that there is nothing to keep: the feed is not built."""
        with self.lock:
            self.problem, self.lag, self.caught_up_at, self.progressed_at = None, 0, None, datetime.now(UTC)
