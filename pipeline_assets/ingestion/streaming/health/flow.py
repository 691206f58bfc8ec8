"""Whether a stream makes progress: compared with where it stood before, as a connector that reports RUNNING may have stopped long ago.

Pure: what is read of the services goes in, what is remembered until the next look and what is to be said come out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

# Long enough for a killed worker to be given up, and for a rebalance after it.
STALL = timedelta(minutes=2)
GROWTH = timedelta(minutes=5)
SMALL_LAG = 10_000
MAX_RESTARTS, RESTART_PAUSE, RESTART_MEMORY = 5, timedelta(seconds=30), timedelta(hours=1)
# A slot may hold back a quarter of what the stack's `max_slot_wal_keep_size` allows before it is reported.
SLOT_BYTES = 256 << 20
LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How far something has come (`done`) of what there is (`end`), both in records; `done` never shrinks."""

    done: int
    end: int

    @property
    def lag(self) -> int:
        """Records that are still to come."""
        return max(self.end - self.done, 0)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What is remembered of a flow: where it stood and since when, and its least lag and since when that is not undercut."""

    done: int
    moved_at: datetime
    least_lag: int
    shrunk_at: datetime


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A replication slot: how much of the write-ahead log it holds back, in bytes, and what Postgres calls its state."""

    bytes_behind: int
    status: str


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """When a connector was restarted, in the last hour."""

    at: Sequence[datetime] = field(default_factory=tuple)

    def recent(self, now: datetime) -> "Restarts":
        """Without those that are forgotten."""
        return Restarts(at=tuple(one for one in self.at if now - one < RESTART_MEMORY))

    def may(self, now: datetime) -> bool:
        """Whether it may be started once more: a bounded number of times, with a pause between two."""
        known = self.recent(now).at
        return len(known) < MAX_RESTARTS and (not known or now - known[-1] >= RESTART_PAUSE)


def remember(flow: Flow, before: Memory | None, now: datetime) -> Memory:
    """The memory of a flow after this look."""
    if before is None:
        return Memory(done=flow.done, moved_at=now, least_lag=flow.lag, shrunk_at=now)
    moved = flow.done != before.done or flow.lag == 0
    shrunk = flow.lag < before.least_lag or flow.lag <= SMALL_LAG
    return Memory(
        done=flow.done,
        moved_at=now if moved else before.moved_at,
        least_lag=flow.lag if shrunk else before.least_lag,
        shrunk_at=now if shrunk else before.shrunk_at,
    )


def trouble(flow: Flow, memory: Memory, now: datetime) -> str | None:
    """What is wrong with a flow; None if nothing is."""
    if flow.lag and now - memory.moved_at >= STALL:
        return f"lag of {flow.lag} records without progress for {_minutes(now - memory.moved_at)}"
    if flow.lag > SMALL_LAG and now - memory.shrunk_at >= GROWTH:
        return f"lag of {flow.lag} records, which for {_minutes(now - memory.shrunk_at)} has not fallen below {memory.least_lag}"
    return None


def slot_trouble(slot: Slot | None) -> str | None:
    """What is wrong with the slot of a database whose changes are read; None if nothing is."""
    if slot is None:
        return "the replication slot is gone: changes since then are in no log, so a new snapshot of the tables is taken"
    if slot.status == LOST:
        limit = "`max_slot_wal_keep_size`"
        return f"Postgres invalidated the replication slot, which held back more than {limit}: a new snapshot of the tables is taken"
    if slot.bytes_behind > SLOT_BYTES:
        return f"the replication slot holds back {slot.bytes_behind >> 20} MB of the write-ahead log, more than {SLOT_BYTES >> 20} MB"
    return None


def dump(memories: Mapping[str, Memory], restarts: Mapping[str, Restarts]) -> dict[str, dict[str, list[object]]]:
    """What is remembered, as JSON knows it."""
    return {
        "flows": {name: [one.done, one.moved_at.isoformat(), one.least_lag, one.shrunk_at.isoformat()] for name, one in memories.items()},
        "restarts": {name: [at.isoformat() for at in one.at] for name, one in restarts.items()},
    }


def load(stored: Mapping[str, Mapping[str, Sequence[object]]]) -> tuple[dict[str, Memory], dict[str, Restarts]]:
    """The same back; nothing where nothing was stored."""
    memories = {
        name: Memory(done=int(str(done)), moved_at=_at(moved), least_lag=int(str(least)), shrunk_at=_at(shrunk))
        for name, (done, moved, least, shrunk) in stored.get("flows", {}).items()
    }
    return memories, {name: Restarts(at=tuple(_at(one) for one in at)) for name, at in stored.get("restarts", {}).items()}


def _at(stored: object) -> datetime:
    return datetime.fromisoformat(str(stored))


def _minutes(span: timedelta) -> str:
    return f"{span / timedelta(minutes=1):.0f} min"
