"""Which days of a use case are to be loaded, and which of its sources as a whole.

Pure: what was made and what time it is goes in, what is due comes out.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from pipeline_assets.core.due import Due, Requested
from pipeline_assets.core.project import Span, days_between, whole_days
from pipeline_assets.spec.sources import Source
from pipeline_assets.spec.use_case import UseCase

DAY = timedelta(days=1)
DAYS = "days"
# A source that is loaded as a whole is loaded twice in the time that its newest row may be old, within these bounds.
OFTENEST, SELDOMEST = timedelta(minutes=10), DAY


def due_days(first: date, last: date | None, made: Sequence[Mapping[date, int]]) -> Due:
    """The days from the first to the last (inclusive; None: there are none) that any of what is made by the day lacks."""
    days = [] if last is None or last < first else days_between(first, last)
    return {DAYS: {day: 0 for day in days if any(day not in one for one in made)}}


def complete_day(sources: Sequence[Source], now: datetime) -> date:
    """The last day (UTC) of which all rows may be known by now: it has ended, and what comes late has come, which is waited for one day."""
    late = max((source.contract.lateness for source in sources), default=timedelta(0))
    return (now - min(late, DAY)).date() - DAY


def asked_range(asked: Requested, use_case: UseCase, span: Span) -> tuple[date, date]:
    """First and last day of the run: with the days before them on which decisions about them were made, which had to do without them."""
    ahead = whole_days(max((model.observations.ahead for model in use_case.models), default=timedelta(0)))
    return max(asked.first - ahead * DAY, span.first), asked.last


def period(source: Source) -> timedelta:
    """How often a source is loaded that is loaded as a whole."""
    return min(max(source.contract.freshness / 2, OFTENEST), SELDOMEST)


def slot(source: Source, now: datetime) -> int:
    """The number of the period that it is by now; within one a source is asked for once."""
    return int(now.timestamp() // period(source).total_seconds())
