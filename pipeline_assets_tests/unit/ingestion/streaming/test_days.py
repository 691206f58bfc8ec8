"""Which days are stale after events arrived, and which are left until they have ended."""

from dataclasses import replace
from datetime import date, timedelta

import pytest

from pipeline_assets.core.project import Span
from pipeline_assets.ingestion.streaming.health.arrivals import Touched
from pipeline_assets.ingestion.streaming.health.days import (
    MOST_DAYS,
    Pending,
    Reach,
    bounded,
    pending_days,
    reach_of,
    reason_of,
    stale_days,
)
from pipeline_assets.spec.models import Model
from pipeline_assets.use_cases.nyc_flights import use_case as flights

FIRST, LAST = date(2013, 1, 1), date(2013, 12, 31)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def found(*days: date, last_day: date | None = None) -> Touched:
    """Days that received events."""
    return Touched(days=days, last_day=last_day or max(days, default=None), snapshots={})


def model(ahead: timedelta, behind: timedelta) -> Model:
    """A model whose decisions come so long before, and after, what they are about."""
    template = flights.models[0]
    return replace(template, observations=replace(template.observations, ahead=ahead, behind=behind))


@pytest.mark.parametrize(
    ("spans", "reach"),
    [
        ([], Reach()),
        ([(0 * DAY, 0 * DAY)], Reach()),
        ([(60 * MINUTE, 0 * DAY)], Reach(before=1)),
        ([(DAY, DAY + MINUTE)], Reach(before=1, after=2)),
        ([(30 * DAY, 0 * DAY), (0 * DAY, MINUTE)], Reach(before=30, after=1)),
    ],
)
def test_the_reach_of_a_use_case_is_the_farthest_of_its_models_in_whole_days(
    spans: list[tuple[timedelta, timedelta]], reach: Reach
) -> None:
    """Each part of a day counts whole; a use case without models has decisions on the day itself."""
    assert reach_of(replace(flights, models=tuple(model(*each) for each in spans))) == reach


def test_the_flights_are_asked_about_on_the_day_before_at_most() -> None:
    """An hour before a departure may be on the day before it."""
    assert reach_of(flights) == Reach(before=1)


@pytest.mark.parametrize(
    ("days", "stale"),
    [
        ([], None),
        ([date(2013, 12, 31)], (date(2013, 12, 30), date(2013, 12, 31))),
        ([date(2012, 1, 1), date(2099, 1, 1)], None),
        ([date(2013, 3, 1), date(2099, 1, 1)], (date(2013, 2, 28), date(2013, 12, 31))),
        ([date(2013, 3, 1), date(9999, 12, 31)], (date(2013, 2, 28), date(2013, 12, 31))),
        ([date(2013, 1, 1)], (date(2013, 1, 1), date(2013, 1, 1))),
    ],
)
def test_days_outside_the_partitions_are_never_asked_for(days: list[date], stale: tuple[date, date] | None) -> None:
    """An event of another year is in the typed table, and no run is requested for its day."""
    assert stale_days(found(*days), Reach(before=1), FIRST, LAST) == stale


@pytest.mark.parametrize(
    ("reach", "stale"),
    [
        (Reach(), (date(2013, 5, 3), date(2013, 5, 20))),
        (Reach(before=1), (date(2013, 5, 2), date(2013, 5, 20))),
        (Reach(after=2), (date(2013, 5, 3), date(2013, 5, 22))),
        (Reach(before=30, after=30), (date(2013, 4, 3), date(2013, 6, 19))),
    ],
)
def test_a_late_event_makes_everything_stale_from_the_first_decision_about_it_to_the_last_about_any(
    reach: Reach, stale: tuple[date, date]
) -> None:
    """Decisions before it are about it, decisions after it may have it in their windows."""
    late = found(date(2013, 5, 3), last_day=date(2013, 5, 20))

    assert stale_days(late, reach, FIRST, LAST) == stale


@pytest.mark.parametrize(
    ("days", "ended", "open_day"),
    [
        ([date(2013, 5, 1), date(2013, 5, 3), date(2099, 1, 1)], date(2013, 5, 2), date(2013, 5, 3)),
        ([date(2013, 5, 1), date(2013, 5, 3)], date(2013, 5, 3), None),
        ([date(2013, 5, 4), date(2099, 1, 1)], date(2013, 5, 2), None),
        ([date(2013, 5, 3)], None, date(2013, 5, 3)),
    ],
)
def test_the_day_that_has_not_ended_is_pending(days: list[date], ended: date | None, open_day: date | None) -> None:
    """The first that has events, is no partition yet, and is not in the future."""
    pending = pending_days(found(*days), Reach(before=1), Span(first=FIRST, last=None), ended, date(2013, 5, 3))

    assert (pending.open_day, list(pending.due)) == (open_day, [])


def test_decisions_after_an_event_are_due_once_their_day_has_ended() -> None:
    """The event's own day is materialized when it has ended, each day of decisions about it when that has: once each."""
    reach, span = Reach(after=2), Span(first=FIRST, last=None)
    runs, pending = [], Pending()
    for today in (date(2013, 5, 3), date(2013, 5, 4), date(2013, 5, 5), date(2013, 5, 6), date(2013, 5, 7)):
        ended = today - DAY
        days = [date(2013, 5, 3)] if today == date(2013, 5, 3) else []
        days += [pending.open_day] if pending.open_day is not None else []
        seen = found(*days, last_day=date(2013, 5, 3))
        runs.append(stale_days(seen, reach, span.first, ended, pending.due))
        pending = pending_days(seen, reach, span, ended, today, pending.due)

    assert runs == [
        None,
        (date(2013, 5, 3), date(2013, 5, 3)),
        (date(2013, 5, 4), date(2013, 5, 4)),
        (date(2013, 5, 5), date(2013, 5, 5)),
        None,
    ]
    assert pending == Pending(open_day=None, due=[])


def test_no_decision_is_due_after_the_last_day_of_a_use_case() -> None:
    """Days that never become partitions are not waited for."""
    pending = pending_days(found(LAST), Reach(after=2), Span(first=FIRST, last=LAST), LAST, date(2014, 1, 1))

    assert pending == Pending(open_day=None, due=[])


def test_events_of_a_year_are_several_runs_the_oldest_days_first() -> None:
    """Each day is in one of them, and what is left waits in the cursor as days that are due."""
    first, last, runs, due = FIRST, FIRST + 364 * DAY, list[tuple[date, date]](), list[date]()
    stale: tuple[date, date] | None = (first, last)
    while stale is not None:
        run, due = bounded(stale)
        assert run is not None
        runs.append(run)
        stale = stale_days(found(last_day=last), Reach(), first, last, due)

    assert [(end - begin).days + 1 for begin, end in runs] == [MOST_DAYS] * 5 + [365 - 5 * MOST_DAYS]
    assert runs[0][0] == first
    assert [begin - DAY for begin, _ in runs[1:]] == [end for _, end in runs[:-1]]
    assert runs[-1][1] == last
    assert bounded(None) == (None, [])


def test_a_run_over_what_was_left_says_so() -> None:
    """Regression: the second run over a long range said that 0 days had received events."""
    days = (FIRST, FIRST + DAY)

    assert reason_of(found(FIRST), days) == "1 day received events"
    assert reason_of(found(*days), days) == "2 days received events"
    assert reason_of(found(), days) == "days from 2013-01-01 to 2013-01-02 were left for later"
