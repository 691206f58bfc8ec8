"""Which runs that failed are asked for again, and when: those that a sensor or schedule asked for, later each time, and not for ever.

Pure. Who raises alarms asks `is_retried`: a failed run is worth one where nobody will try again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

# The tags of a run that was asked for again: which try it is, and the run that failed before it.
TRY, AGAIN_OF = "pipeline/try", "pipeline/again_of"
REASON = "pipeline/reason"
# How long after its failure a run is asked for again, after the first try, the second and so on; after the last one it is given up.
BACK_OFF = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=25), timedelta(hours=2))
MOST_TRIES = len(BACK_OFF) + 1
# How long after it has asked a sensor asks again for what it still finds lacking; for what is wrong out there it never gives up.
LACKING = BACK_OFF[:3]
# What Dagster notes on runs.
SENSOR, SCHEDULE, WILL_RETRY = "dagster/sensor_name", "dagster/schedule_name", "dagster/will_retry"
PARENT, RETRY_NUMBER = "dagster/parent_run_id", "dagster/retry_number"
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
KEPT = (*RANGE, "dagster/partition")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run: what it makes (None: all of its job), over which days (None: it has none), and when it was made and last changed (UTC)."""

    run_id: str
    job: str
    tags: Mapping[str, str]
    made_at: datetime
    changed_at: datetime
    assets: frozenset[str] | None = None
    has_ended: bool = True

    @property
    def days(self) -> tuple[str, str] | None:
        """As `days_of` has them."""
        return days_of(self.tags)


def days_of(tags: Mapping[str, str]) -> tuple[str, str] | None:
    """First and last day of a run in ISO 8601, which sorts as time does; None where it goes over no days."""
    alone = tags.get(KEPT[-1])
    first, last = (tags.get(tag, alone) for tag in RANGE)
    return None if first is None or last is None else (first, last)


def try_of(tags: Mapping[str, str]) -> int:
    """Which try a run is, from 1; a tag that is no number counts as none."""
    text = tags.get(TRY, "1")
    return max(int(text), 1) if text.isdecimal() else 1


def is_automatic(tags: Mapping[str, str]) -> bool:
    """Whether a sensor or a schedule asked for a run; what a person started is theirs.

    A run that a person executes again keeps the tags of the one before it; one that Dagster itself repeats has a number, too.
    """
    is_repeated = PARENT in tags and RETRY_NUMBER not in tags
    return (SENSOR in tags or SCHEDULE in tags) and not is_repeated


def sensor_of(tags: Mapping[str, str]) -> str | None:
    """The sensor that asked for a run; None of one that a person, or a schedule, started."""
    return tags.get(SENSOR) if is_automatic(tags) else None


def is_retried(tags: Mapping[str, str]) -> bool:
    """Whether a run with these tags that failed is asked for again, by Dagster (its process crashed) or by `runs_retried`."""
    return tags.get(WILL_RETRY) == "true" or (is_automatic(tags) and try_of(tags) < MOST_TRIES)


def due_at(failed: Asked) -> datetime | None:
    """When a failed run is asked for again (UTC); None where nobody asks, or Dagster does itself."""
    if failed.tags.get(WILL_RETRY) == "true" or not is_retried(failed.tags):
        return None
    return failed.changed_at + BACK_OFF[try_of(failed.tags) - 1]


@dataclass(frozen=True, kw_only=True)
class Tries:
    """How often a sensor has asked for what it still finds lacking, and when it did last (UTC; None: it has not)."""

    number: int = 0
    last_at: datetime | None = None

    def are_due(self, now: datetime) -> bool:
        """Whether it asks again: later each time, and at last every `LACKING[-1]`."""
        return self.last_at is None or now - self.last_at >= LACKING[min(self.number, len(LACKING)) - 1]

    def with_one_at(self, now: datetime) -> "Tries":
        """After it has asked once more."""
        return Tries(number=self.number + 1, last_at=now)


def covers(one: Asked, other: Asked) -> bool:
    """Whether a run makes all that another one makes, on all of its days."""
    if one.job != other.job or (other.days is None) != (one.days is None):
        return False
    inside = one.days is None or other.days is None or (one.days[0] <= other.days[0] and other.days[1] <= one.days[1])
    return inside and (one.assets is None or (other.assets is not None and other.assets <= one.assets))


def is_settled(failed: Asked, later: Sequence[Asked]) -> bool:
    """Whether a later run that has ended made the same, or failed itself and is asked for again in its stead."""
    return any(one.has_ended and one.made_at > failed.made_at and covers(one, failed) for one in later)


def is_awaited(failed: Asked, later: Sequence[Asked]) -> bool:
    """Whether a run of the same job is under way, which is waited for first."""
    return any(not one.has_ended and one.job == failed.job for one in later)


def tags_of_retry(failed: Asked) -> dict[str, str]:
    """The tags of the run that repeats a failed one: its days, and why it is there."""
    tags, number = failed.tags, try_of(failed.tags) + 1
    reason = tags.get(REASON, f"{failed.job} failed")
    first = reason.partition(": ")[2] if TRY in tags else reason
    own = {tag: value for tag, value in tags.items() if tag in KEPT or not tag.startswith(("dagster/", ".dagster/"))}
    return {**own, TRY: str(number), AGAIN_OF: failed.run_id, REASON: f"try {number} of {MOST_TRIES}: {first}"}
