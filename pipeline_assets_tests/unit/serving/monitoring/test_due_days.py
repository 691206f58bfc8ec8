"""Which days of a model are due: by generated courses of materializations, against what a person would look for day by day."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.serving.monitoring.due import LABELS, SCORES, WATCH, Known, due_days

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
