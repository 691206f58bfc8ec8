"""What a sensor asks for of days that are due, against a simple simulation of days, runs and failures."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.due import (
    PATIENCE,
    QUIET,
    SETTLED,
    Days,
    Memory,
    Requested,
    free_range,
    oldest_range,
    overlap,
    remembered,
    still_due,
    wait,
)

FIRST, DAY = date(2024, 1, 1), timedelta(days=1)
TODAY = date(2025, 6, 1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
days_of_year = st.integers(0, 400).map(lambda offset: FIRST + offset * DAY)
due_days = st.dictionaries(days_of_year, st.integers(0, 9), max_size=40)
kinds = st.fixed_dictionaries({"scores": due_days, "labels": due_days})


def catch_up(due: Mapping[str, Mapping[date, int]], most: int, fails: set[int]) -> tuple[list[Requested], dict[str, dict[date, int]]]:
    """Asks until there is nothing more to ask for; the runs with these numbers fail. Returns what was asked for, and what is left."""
    left, asked, memory = {what: dict(days) for what, days in due.items()}, list[Requested](), tuple[Requested, ...]()
    while (one := oldest_range(left, memory, TODAY, most)) is not None:
        if len(asked) not in fails:
            left[one.what] = {day: mark for day, mark in left[one.what].items() if not one.first <= day <= one.last}
        asked.append(one)
        memory = still_due(left, (*memory, one), TODAY)
        assert len(asked) <= sum(map(len, due.values())), "asks for ever"
    return asked, left


@given(kinds, st.integers(1, 40))
def test_all_that_is_due_is_made_in_few_runs_the_oldest_first(due: dict[str, dict[date, int]], most: int) -> None:
    """Each run has at most so many days, begins and ends with one that is due, and as few runs as a greedy cover by hand needs."""
    asked, left = catch_up(due, most, set())
    expected = []
    for what, days in due.items():
        waiting = sorted(days)
        while waiting:
            inside = [day for day in waiting if (day - waiting[0]).days < most]
            expected.append((what, inside[0], inside[-1]))
            waiting = waiting[len(inside) :]

    assert [(one.what, one.first, one.last) for one in asked] == expected
    assert not any(left.values())


@given(kinds, st.integers(1, 40), st.sets(st.integers(0, 20)))
def test_nothing_is_asked_for_twice_and_failures_hold_up_nothing(due: dict[str, dict[date, int]], most: int, fails: set[int]) -> None:
    """A range whose run failed is left to be repeated elsewhere: later ranges go on, and exactly its days are left."""
    asked, left = catch_up(due, most, fails)
    failed = [one for number, one in enumerate(asked) if number in fails]
    expected = {
        what: {day for day in days if any(one.what == what and one.first <= day <= one.last for one in failed)}
        for what, days in due.items()
    }

    assert len({(one.what, one.first, one.last, one.mark) for one in asked}) == len(asked)
    assert {what: set(days) for what, days in left.items()} == expected


spans = st.lists(st.lists(days_of_year, min_size=2, max_size=2).map(lambda days: (min(days), max(days))), max_size=4)


@given(due_days, spans, st.integers(1, 40))
def test_days_that_others_are_at_work_on_are_left_to_them(due: dict[date, int], busy: list[Days], most: int) -> None:
    """By brute force: the oldest due day that nobody works on, and as many after it as come before the next one that somebody does."""
    working = {first + number * DAY for first, last in busy for number in range((last - first).days + 1)}
    found, first = oldest_range({"scores": due}, (), TODAY, most, busy), min(due.keys() - working, default=None)
    reach = [first + number * DAY for number in range(most)] if first is not None else []
    cut = next((number for number, day in enumerate(reach) if day in working), most)
    expected = [day for day in reach[:cut] if day in due]

    assert (found is None) == (first is None)
    assert found is None or (found.first, found.last, found.mark) == (first, max(expected), max(due[day] for day in expected))
    assert found is None or not any(overlap((found.first, found.last), span) for span in busy)


def test_days_that_are_made_again_and_again_are_asked_for_after_a_while() -> None:
    """A stream that never pauses would keep them from being scored for ever; other days do not wait at all."""
    due, busy = {"scores": {FIRST: 1, FIRST + DAY: 2}}, [(FIRST, FIRST)]

    def asked(busy: list[Days], waited: timedelta) -> tuple[date, date] | None:
        found = free_range(due, (), NOON, NOON - waited, busy)
        return None if found is None else (found.first, found.last)

    assert asked(busy, timedelta(0)) == (FIRST + DAY, FIRST + DAY)
    assert asked([(FIRST, FIRST + DAY)], timedelta(0)) is None
    assert asked([(FIRST, FIRST + DAY)], PATIENCE) == (FIRST, FIRST + DAY)


@given(days_of_year, st.integers(0, 9))
def test_a_day_that_is_due_anew_is_asked_for_anew(day: date, mark: int) -> None:
    """A run that failed, or was cancelled, stands in the way only of what it was for."""
    first = oldest_range({"scores": {day: mark}}, (), TODAY)
    assert first is not None

    assert oldest_range({"scores": {day: mark}}, [first], TODAY) is None
    assert oldest_range({"scores": {day: mark + 1}}, [first], TODAY) == replace(first, mark=mark + 1)
    assert oldest_range({"labels": {day: mark}}, [first], TODAY) is not None
    assert still_due({"scores": {day: mark + 1}}, [first], TODAY) == ()


@given(days_of_year, st.integers(0, 9))
def test_what_is_due_on_the_next_day_still_is_asked_for_again_then(day: date, mark: int) -> None:
    """A run that was cancelled by a restart, or given up, is no reason never to try again; and once a day is no flood."""
    due = {"scores": {day: mark}}
    first = oldest_range(due, (), TODAY)
    assert first is not None
    again = oldest_range(due, still_due(due, [first], TODAY + DAY), TODAY + DAY)

    assert still_due(due, [first], TODAY) == (first,)
    assert again is not None
    assert (again.first, again.last) == (day, day)
    assert again.run_key != first.run_key


def test_a_cursor_brings_back_what_was_remembered() -> None:
    """Through JSON, as Dagster keeps it; one that is damaged raises what `cursor_of` catches."""
    memory = Memory(since=NOON, requested=(Requested(what="scores", first=FIRST, last=FIRST + DAY, mark=7, asked_on=TODAY),), settled="abc")

    assert remembered(json.loads(json.dumps(memory.as_json()))) == memory
    assert remembered({}) == Memory()
    for damaged in ({"since": "noon"}, {"since": "2024-05-01T12:00:00"}, {"requested": [["scores", "2024-05-01"]]}, {"requested": 7}):
        with pytest.raises((ValueError, TypeError)):
            remembered(damaged)


def test_what_is_due_waits_for_those_who_are_at_work_and_not_for_ever() -> None:
    """A person, or the demo, often does the next step; what has waited long enough is asked for while others go on."""
    moment, now = timedelta(seconds=1), NOON
    long_due = now - SETTLED

    assert wait(now, now - SETTLED + moment, []) is not None
    assert wait(now, long_due, []) is None
    assert wait(now, long_due, [now - QUIET]) is None
    assert wait(now, long_due, [now - 2 * QUIET, now - QUIET + moment]) is not None
    assert wait(now, now - PATIENCE, [now]) is None
