"""Which days are stale after events arrived: theirs, those of decisions about them, and those whose windows reach back to them.

Pure: what was found in the lake goes in, a range of days comes out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pipeline_assets.core.project import Span, days_between, whole_days
from pipeline_assets.ingestion.streaming.health.arrivals import Touched
from pipeline_assets.spec.use_case import UseCase

DAY = timedelta(days=1)
# The most days of one run: events of two months that were sent again are one, and those of a year are not.
MOST_DAYS = 62


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far decisions are from the day of what they are about, in whole days: up to `before` days earlier, up to `after` days later."""

    before: int = 0
    after: int = 0


@dataclass(frozen=True, kw_only=True)
class Pending:
    """Days that are no partition yet: the first with events, and those with decisions about events of days that are."""

    open_day: date | None = None
    due: Sequence[date] = ()


def reach_of(use_case: UseCase) -> Reach:
    """The reach of all models of a use case, each span rounded up to whole days."""
    asked = [model.observations for model in use_case.models]
    return Reach(
        before=whole_days(max((one.ahead for one in asked), default=timedelta(0))),
        after=whole_days(max((one.behind for one in asked), default=timedelta(0))),
    )


def stale_days(found: Touched, reach: Reach, first_day: date, last_day: date, due: Collection[date] = ()) -> tuple[date, date] | None:
    """First and last day to materialize again, within the partitions that there are by now; None where there is nothing to do.

    An event of a day outside the partitions makes nothing stale. `due` are days that earlier events left to be materialized. Later days
    than those are stale too, as their windows reach back: so the range goes on to the last day with decisions about any event.
    """
    stale = [day for day in {*_decision_days(found, reach, first_day, last_day), *due} if first_day <= day <= last_day]
    if not stale:
        return None
    newest = min(found.last_day or max(stale), last_day) + reach.after * DAY
    return min(stale), max(*stale, min(newest, last_day))


def bounded(stale: tuple[date, date] | None, most: int = MOST_DAYS) -> tuple[tuple[date, date] | None, list[date]]:
    """The first days of a range, `most` of them at most, and those after it, which are left for later runs."""
    if stale is None:
        return None, []
    cut = min(stale[1], stale[0] + (most - 1) * DAY)
    return (stale[0], cut), days_between(cut + DAY, stale[1])


def reason_of(found: Touched, stale: tuple[date, date]) -> str:
    """Why these days are made again: events came, or they are left of a range that was too long for one run, or had not ended."""
    number = len(found.days)
    if number:
        return f"{number} day{'' if number == 1 else 's'} received events"
    return f"days from {stale[0]} to {stale[1]} were left for later"


def pending_days(found: Touched, reach: Reach, span: Span, last_day: date | None, today: date, due: Collection[date] = ()) -> Pending:
    """What is left for when more days have ended; `last_day` is the last partition by now, None before the first has ended.

    A day of the future is not waited for: events that are known so early come again to notice when others of their day arrive.
    """
    open_day = next((day for day in found.days if (last_day is None or day > last_day) and day <= today), None)
    if last_day is None:
        return Pending(open_day=open_day)
    decided = {*_decision_days(found, reach, span.first, last_day), *due}
    return Pending(open_day=open_day, due=sorted(day for day in decided if last_day < day <= (span.last or day)))


def _decision_days(found: Touched, reach: Reach, first_day: date, last_day: date) -> set[date]:
    """The days on which decisions about the events of the partitions may have been made."""
    inside = [day for day in found.days if first_day <= day <= last_day]
    return {day + offset * DAY for day in inside for offset in range(-reach.before, reach.after + 1)}
