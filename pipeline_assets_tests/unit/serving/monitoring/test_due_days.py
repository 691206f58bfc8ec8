"""Which days of a model are due: by generated courses of materializations, against what a person would look for day by day."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.serving.monitoring.due import LABELS, SCORES, WATCH, Known, clock_of_data, due_days, first_scored

FIRST, DAY = date(2024, 1, 1), timedelta(days=1)
DAYS = [FIRST + number * DAY for number in range(6)]
NOTHING: Mapping[date, int] = {}
# What happens to a day, one after the other: its vectors are made, or made anew, it is scored, its drift or its performance is measured.
steps = st.lists(st.tuples(st.sampled_from(["vectors", "predictions", "drift", "performance"]), st.sampled_from(DAYS)), max_size=60)


def midnight(day: date) -> datetime:
    """Its begin in UTC."""
    return datetime.combine(day, time(), UTC)


def known(made: Mapping[str, Mapping[date, int]], **facts: object) -> Known:
    """What is known of days that were all filled, from the first on."""
    parts = {name: made.get(name, NOTHING) for name in ("vectors", "predictions", "drift", "performance")}
    rest = {"scored_from": FIRST, "filled": frozenset(DAYS), "judged": {}, "clock": midnight(FIRST), "horizon": timedelta(0)}
    return Known(**{**parts, **rest, **facts})  # type: ignore[arg-type]


@given(steps, st.sampled_from(DAYS), st.frozensets(st.sampled_from(DAYS)))
def test_a_day_is_due_when_what_it_follows_is_newer(course: list[tuple[str, date]], scored_from: date, filled: frozenset[date]) -> None:
    """By brute force over the course of each day: the last vectors after the last scores, or the last scores after what measured them."""
    made: dict[str, dict[date, int]] = {}
    for number, (name, day) in enumerate(course):
        made.setdefault(name, {})[day] = number
    due = due_days(known(made, scored_from=scored_from, filled=filled))
    scores, watch = set[date](), set[date]()
    for day in DAYS:
        own = [name for name, of in course if of == day]
        after_scores = own[len(own) - own[::-1].index("predictions") :] if "predictions" in own else own
        if "vectors" in after_scores and day >= scored_from and (day in filled or "predictions" in own):
            scores.add(day)
        elif "predictions" in own and not {"drift", "performance"} <= set(after_scores):
            watch.add(day)

    assert set(due[SCORES]) == scores
    assert set(due[WATCH]) == watch


@pytest.mark.parametrize(
    ("horizon", "moments"),
    [(timedelta(0), [2]), (timedelta(hours=36), [3, 4]), (timedelta(days=14), [15, 16])],
    ids=["at once", "36 h", "14 d"],
)
def test_labels_are_judged_again_once_they_have_matured_and_a_day_later(horizon: timedelta, moments: list[int]) -> None:
    """From day to day, first judged when the day had ended: again at these ends of days after it, then never more."""
    judged, asked = midnight(FIRST + DAY), []
    everything = {name: {FIRST: 1} for name in ("vectors", "predictions", "drift", "performance")}
    for day in range(2, 30):
        clock = midnight(FIRST + day * DAY)
        if due_days(known(everything, judged={FIRST: judged}, clock=clock, horizon=horizon))[LABELS]:
            asked.append(day)
            judged = clock

    assert asked == moments


def test_days_of_downtime_are_judged_once() -> None:
    """Both moments have passed meanwhile: one run is enough."""
    everything = {name: {FIRST: 1} for name in ("vectors", "predictions", "drift", "performance")}
    late = midnight(FIRST + 40 * DAY)

    assert set(due_days(known(everything, judged={FIRST: midnight(FIRST + DAY)}, clock=late, horizon=14 * DAY))[LABELS]) == {FIRST}
    assert due_days(known(everything, judged={FIRST: late}, clock=late, horizon=14 * DAY))[LABELS] == {}


def test_days_that_are_not_loaded_yet_do_not_judge() -> None:
    """Regression: after downtime labels had matured by the clock on the wall, were judged before they were loaded, and never again."""
    everything = {name: {FIRST: 1} for name in ("vectors", "predictions", "drift", "performance")}
    today, judged = midnight(FIRST + 30 * DAY), {FIRST: midnight(FIRST + DAY)}

    def asked(newest: date) -> set[date]:
        clock = clock_of_data(FIRST, [FIRST, newest], today)
        return set(due_days(known(everything, judged=judged, clock=clock, horizon=7 * DAY))[LABELS])

    assert asked(FIRST) == set()
    assert asked(FIRST + 6 * DAY) == set()
    assert asked(FIRST + 7 * DAY) == {FIRST}


def test_the_clock_of_data_is_never_ahead_of_the_one_on_the_wall() -> None:
    """Where days still come, it goes to the newest that was made, also without decisions; in a replay to the newest that has any."""
    made = [FIRST, FIRST + 4 * DAY]

    assert clock_of_data(FIRST, made, midnight(FIRST + 9 * DAY)) == midnight(FIRST + 5 * DAY)
    assert clock_of_data(FIRST, made, midnight(FIRST + 2 * DAY)) == midnight(FIRST + 2 * DAY)
    assert clock_of_data(FIRST, [], midnight(FIRST + 2 * DAY)) == midnight(FIRST + DAY)
    assert clock_of_data(FIRST, made, None) == midnight(FIRST + DAY)


def test_the_first_day_that_is_scored_is_one_that_began_with_a_version() -> None:
    """Regression: of a version that went live at noon the day of that noon was asked for, which has no version as it begins."""
    assert first_scored(midnight(FIRST)) == FIRST
    assert first_scored(midnight(FIRST) + timedelta(hours=12)) == FIRST + DAY
    assert first_scored(midnight(FIRST).astimezone(timezone(timedelta(hours=-5)))) == FIRST
