"""Which fields are the two times of a source, guessed by their names and by the order of their values.

A row is known when it was written and not before it happened: the field of `known_at` is, as far as names do not say otherwise, the latest
one in most rows; that of `event_at` is not later.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from pipeline_assets.core.rules.problems import LONGEST
from pipeline_assets.ingestion.sources.contracts import FIRST_INSTANT, LAST_INSTANT
from pipeline_assets.ingestion.sources.proposals.samples import Column
from pipeline_assets.spec.contracts import CLOCK_TOLERANCE

# Words in the names of times, the most telling first.
KNOWN = (
    "known", "recorded", "ingested", "loaded", "received", "published", "synced", "updated", "modified", "changed", "edited", "sent",
    "inserted", "written", "created", "added",
)  # fmt: skip
CHANGES = {"updated", "modified", "changed", "edited"}
BEGINS = {"inserted", "written", "created", "added"}
EVENT = (
    "event", "occurred", "happened", "observed", "measured", "read", "ordered", "placed", "booked", "paid", "started", "began", "ended",
    "finished", "completed", "created", "added", "inserted", "sent", "time", "timestamp", "ts",
)  # fmt: skip
# What is to be, which is known long before.
PLANS = {"scheduled", "planned", "due", "expires", "expired", "expiry", "expected", "estimated", "until", "valid", "next"}
STEPS = (
    *(timedelta(minutes=count) for count in (1, 5, 15, 30)),
    *(timedelta(hours=count) for count in (1, 2, 6, 12)),
    *(timedelta(days=count) for count in (1, 2, 3, 7, 14, 30, 90, 180, 365, 1_000, 3_650)),
)
# How old the newest row of a source may be of which nothing shows how often it has one; and the least that is proposed.
UNSEEN, LEAST = timedelta(days=1), timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Times:
    """The two times, what their lengths are bounded by, and why."""

    event_at: str
    known_at: str
    lateness: timedelta
    earliness: timedelta
    freshness: timedelta
    seen_late: timedelta | None
    seen_early: timedelta | None
    seen_gap: timedelta | None

    @property
    def is_changed(self) -> bool:
        """Whether rows seem to be changed after they were written."""
        return bool(_words(self.known_at) & CHANGES)


def guessed_times(columns: Sequence[Column], days: Sequence[date] = (), known_at: str | None = None) -> Times | None:
    """The two times of a sample; None where no column can be one.

    days: the UTC day of each row, which its `event_at` lies in, as far as one does. known_at: the column, where that is certain.
    """
    able = [column for column in columns if column.type == "timestamp" and not column.nulls]
    times = {column.name: column for column in able if all(FIRST_INSTANT <= value < LAST_INSTANT for value in column.values)}
    if not times:
        return None
    known = known_at or min(times, key=lambda name: (_rank(KNOWN, name), not times[name].required, -_latest(times, name), name))
    event = _event(times, known, days)
    late = [known - event for known, event in zip(times[known].values, times[event].values, strict=True)]
    gap = _gap(times[event].values)
    return Times(
        event_at=event,
        known_at=known,
        lateness=timedelta(0) if event == known else UNSEEN if not late else _bound(max(late)),
        earliness=max(CLOCK_TOLERANCE, _bound(-min(late, default=timedelta(0)) - CLOCK_TOLERANCE)),
        freshness=UNSEEN if gap is None else max(LEAST, _bound(gap)),
        seen_late=max(late, default=None),
        seen_early=-min(late) if late and min(late) < -CLOCK_TOLERANCE else None,
        seen_gap=gap,
    )


def has_known_name(name: str) -> bool:
    """Whether the name of a time says that something was known then, rather than began."""
    return _rank(KNOWN, name) < len(KNOWN) and not _words(name) & BEGINS


def _event(times: Mapping[str, Column], known: str, days: Sequence[date]) -> str:
    """The field of `event_at`, which may be that of `known_at`: a row that is changed happens, as far as names say, when it is."""
    others = [name for name in times if name != known and _is_near(times[name], times[known])]
    if _words(known) & CHANGES:
        others = [name for name in others if not _words(name) & BEGINS and not _is_ahead(times[name], times[known])]
    allowed = [name for name in (*others, known) if _are_within(times[name], days)] or [*others, known]
    named = [name for name in allowed if name != known]
    return min(named, default=known, key=lambda name: (_is_ahead(times[name], times[known]), _rank(EVENT, name), name))


def _are_within(column: Column, days: Sequence[date]) -> bool:
    return all(value.astimezone(UTC).date() == day for value, day in zip(column.values, days, strict=False))


def _is_near(column: Column, known: Column) -> bool:
    """Whether two times are never further apart than a contract can say."""
    return all(abs(one - other) <= LONGEST for one, other in zip(column.values, known.values, strict=True))


def _is_ahead(column: Column, known: Column) -> bool:
    """Whether a time is a plan: by its name, or as it is later than what is known."""
    is_later = any(one - other > CLOCK_TOLERANCE for one, other in zip(column.values, known.values, strict=True))
    return is_later or bool(_words(column.name) & PLANS)


def _latest(times: Mapping[str, Column], name: str) -> int:
    """In how many rows a time is the latest."""
    rows = zip(*(column.values for column in times.values()), strict=True)
    place = list(times).index(name)
    return sum(bool(row[place] == max(row)) for row in rows)


def _gap(values: Sequence[datetime]) -> timedelta | None:
    """How long it is from one time to the next, nearly always; None where there are no two."""
    instants = sorted(set(values))
    gaps = sorted(after - before for before, after in pairwise(instants))
    # The longest one in a hundred is an outlier, such as a first row that somebody made up.
    return gaps[int(0.99 * (len(gaps) - 1))] if gaps else None


def _bound(seen: timedelta) -> timedelta:
    """A round length of time of at least twice what was seen."""
    if seen <= timedelta(0):
        return timedelta(0)
    return next((step for step in STEPS if step >= 2 * seen), LONGEST)


def _rank(words: Sequence[str], name: str) -> int:
    """The place of the first of the words that stands in a name; behind all where none does."""
    found = _words(name)
    return next((place for place, word in enumerate(words) if word in found), len(words))


def _words(name: str) -> set[str]:
    return set(re.split(r"[_\d]+", name))
