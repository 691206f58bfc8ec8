"""What a sensor asks for of days that are due: the oldest of them first, a bounded number at once, and nothing twice.

Pure: what is due goes in, at most one range comes out. A sensor keeps in its cursor what it has asked for, so a run that failed is not
asked for here again; `runs_retried` does that.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

# The most days of one run: what a run has in memory grows with them, and one that fails loses no more.
MOST_DAYS = 31
# What is due is asked for once it has been so for a while, and nobody has been at work on it lately, as a person, or a run that a person
# began, often does the next thing, too. Who works on and on is not waited for for ever.
SETTLED, QUIET, PATIENCE = timedelta(minutes=2), timedelta(minutes=2), timedelta(minutes=10)

# Where so many ranges failed, and still wait to be made, it is hardly for their days: no other is asked for before one of them is.
MOST_HELD = 3

# By what is due its days, each with a mark that grows whenever it is due anew.
Due = Mapping[str, Mapping[date, int]]
# First and last day, inclusive.
Days = tuple[date, date]


@dataclass(frozen=True, kw_only=True)
class Requested:
    """A range of days (inclusive) that was asked for on a day (UTC): of what, and the greatest mark of its days then."""

    what: str
    first: date
    last: date
    mark: int
    asked_on: date

    @property
    def run_key(self) -> str:
        """A name for it: a tick that is repeated asks for the same run."""
        return f"{self.what}-{self.first}-{self.last}-{self.mark}-{self.asked_on}"

    def has(self, day: date, mark: int) -> bool:
        """Whether it had that day, with whatever made it due."""
        return self.first <= day <= self.last and mark <= self.mark


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a sensor remembers: since when anything has been due, what it asked for that still is, and the state in which nothing was."""

    since: datetime | None = None
    requested: tuple[Requested, ...] = ()
    settled: str | None = None

    def as_json(self) -> dict[str, Any]:
        """In the form of a cursor."""
        asked = [[one.what, *(day.isoformat() for day in (one.first, one.last, one.asked_on)), one.mark] for one in self.requested]
        return {"since": self.since and self.since.isoformat(), "requested": asked, "settled": self.settled}


def remembered(cursor: Mapping[str, Any]) -> Memory:
    """What a cursor holds; raises ValueError, TypeError or KeyError for one that is damaged."""
    asked = tuple(
        Requested(what=str(what), mark=int(mark), **dict(zip(("first", "last", "asked_on"), map(date.fromisoformat, days), strict=True)))
        for what, *days, mark in cursor.get("requested", ())
    )
    since = datetime.fromisoformat(cursor["since"]) if cursor.get("since") else None
    if since is not None and since.tzinfo is None:
        raise ValueError("`since` has no time zone")
    return Memory(since=since, requested=asked, settled=cursor.get("settled"))


def without(due: Due, spans: Collection[Days]) -> Due:
    """What is due without these ranges of days."""
    taken = {day for days in due.values() for day in days if any(first <= day <= last for first, last in spans)}
    return {what: {day: mark for day, mark in days.items() if day not in taken} for what, days in due.items()}


def overlap(one: Days, other: Days) -> bool:
    """Whether two ranges have a day in common."""
    return one[0] <= other[1] and other[0] <= one[1]


def oldest_range(
    due: Due, requested: Iterable[Requested], today: date, most: int = MOST_DAYS, busy: Collection[Days] = ()
) -> Requested | None:
    """The range to ask for next: of the first kind that has days which nobody asked for yet, from the oldest on, `most` days at most.

    Days between two of them that are not due are in it as well. busy: ranges that others are at work on; it has none of their days. None
    where there is nothing to ask for.
    """
    asked = list(requested)
    for what, days in due.items():
        left = {day: mark for day, mark in days.items() if not any(one.what == what and one.has(day, mark) for one in asked)}
        free = without({what: left}, busy)[what]
        if free:
            first = min(free)
            end = min([first + timedelta(days=most), *(begin for begin, _ in busy if begin > first)])
            inside = {day: mark for day, mark in free.items() if day < end}
            return Requested(what=what, first=first, last=max(inside), mark=max(inside.values()), asked_on=today)
    return None


def free_range(due: Due, requested: Sequence[Requested], now: datetime, since: datetime, busy: Collection[Days]) -> Requested | None:
    """The range to ask for next of days that nobody else is at work on; None while that is all of them.

    What has been due for long (since: from when on) is asked for all the same, as a stream may have its days made again and again.
    """
    free = oldest_range(due, requested, now.date(), busy=busy)
    return oldest_range(due, requested, now.date()) if free is None and now - since >= PATIENCE else free


def still_due(due: Due, requested: Iterable[Requested], today: date) -> tuple[Requested, ...]:
    """What was asked for today and has not come of it, or not yet; the rest is forgotten.

    What is due on the next day still is asked for again then: its run was cancelled, or failed so often that it was given up.
    """
    return tuple(
        one for one in requested if one.asked_on >= today and any(one.has(day, mark) for day, mark in due.get(one.what, {}).items())
    )


def wait(now: datetime, since: datetime, ended: Sequence[datetime]) -> str | None:
    """Why what has been due since then waits, as a sentence; None once it is asked for.

    ended: when runs ended that others than the sensor began, and that do what it would ask for or lead to it.
    """
    if now - since < SETTLED:
        return f"It has been due since {since:%H:%M:%S} UTC, and is asked for {_minutes(SETTLED)} minutes later."
    return quiet(now, ended) if now - since < PATIENCE else None


def quiet(now: datetime, ended: Sequence[datetime]) -> str | None:
    """That a run ended a moment ago which others began, as a sentence; None where none has."""
    last = max(ended, default=None)
    if last is None or now - last >= QUIET:
        return None
    return f"A run that leads to it ended at {last:%H:%M:%S} UTC; it is asked for {_minutes(QUIET)} minutes later, if nobody goes on."


def _minutes(span: timedelta) -> int:
    return int(span.total_seconds()) // 60
