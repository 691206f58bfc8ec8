"""Which days are loaded by themselves, and how often what is loaded as a whole."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.due import MOST_DAYS, oldest_range
from pipeline_assets.core.project import Span, days_between
from pipeline_assets.ingestion.batch.due import DAYS, OFTENEST, asked_range, complete_day, due_days, period, slot
from pipeline_assets.spec.sources import Source
from pipeline_assets.use_cases.nyc_flights import sources, use_case

FIRST, DAY = date(2013, 1, 1), timedelta(days=1)
SPAN = Span(first=FIRST, last=None)
days = st.integers(0, 300).map(lambda offset: FIRST + offset * DAY)


def source(*, lateness: timedelta = timedelta(0), freshness: timedelta = DAY) -> Source:
    """A source that promises so."""
    return replace(sources.weather, contract=replace(sources.weather.contract, lateness=lateness, freshness=freshness))


@given(days, st.frozensets(days, max_size=30), st.frozensets(days, max_size=30))
def test_a_day_is_due_until_everything_is_made_of_it(last: date, one: frozenset[date], other: frozenset[date]) -> None:
    """Of two models each needs its vectors; days after the last are none yet."""
    made = [dict.fromkeys(one, 1), dict.fromkeys(other, 2)]

    assert set(due_days(FIRST, last, made)[DAYS]) == {day for day in days_between(FIRST, last) if not (day in one and day in other)}
    assert not due_days(FIRST, None, made)[DAYS]


def test_after_years_of_downtime_every_day_is_loaded_in_few_runs_and_made_with_the_decisions_of_the_evening_before() -> None:
    """Flights of the first hour are decided on the day before: each range has that day again, and none is left out."""
    made, runs = dict[date, int](), list[tuple[date, date]]()
    last, today = FIRST + 999 * DAY, date(2024, 1, 1)
    while (asked := oldest_range(due_days(FIRST, last, [made]), (), today)) is not None:
        runs.append(asked_range(asked, use_case, SPAN))
        made |= dict.fromkeys(days_between(asked.first, asked.last), 1)

    assert len(runs) == -(-1000 // MOST_DAYS)
    assert runs[0][0] == FIRST
    assert [begin for begin, _ in runs[1:]] == [end for _, end in runs[:-1]]
    assert runs[-1][1] == last


@pytest.mark.parametrize(("lateness", "expected"), [(0, 9), (3, 9), (4, 8), (24, 8), (500, 8)])
def test_a_day_is_loaded_once_what_comes_late_has_come(lateness: int, expected: int) -> None:
    """At three in the morning of the 11th: yesterday, unless rows may be later than that; a day at most is waited for them."""
    now = datetime(2013, 1, 11, 3, tzinfo=UTC)

    assert complete_day([source(), source(lateness=timedelta(hours=lateness))], now) == FIRST + expected * DAY


def test_what_is_loaded_as_a_whole_is_loaded_twice_in_what_it_promises() -> None:
    """Within bounds: neither all the time nor once a year; within a period it is asked for once."""
    promises = [timedelta(minutes=1), timedelta(hours=3), timedelta(days=400)]
    now, hourly = datetime(2024, 5, 1, 12, tzinfo=UTC), source(freshness=timedelta(hours=2))

    assert [period(source(freshness=promised)) for promised in promises] == [OFTENEST, timedelta(hours=1.5), DAY]
    assert [slot(hourly, now + timedelta(minutes=minutes)) - slot(hourly, now) for minutes in (0, 59, 60, 119)] == [0, 0, 1, 1]
