"""Which of several failed days asks for a retraining, and from when on it can be answered."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from pipeline_assets.core.project import days_between
from pipeline_assets.serving.monitoring.feedback import choose, first_training, least_days
from pipeline_assets.serving.monitoring.tables import DriftedDay
from pipeline_assets.serving.monitoring.watch import drift_in_words, has_drifted
from pipeline_assets.spec.tasks import Multiclass
from pipeline_assets.use_cases.nyc_flights.models import arrival_delay, flight_delay

FIRST = date(2013, 5, 1)
FAILED = {FIRST + timedelta(days=day): f"reason {day}" for day in range(10)}
CLASSES = replace(flight_delay, task=Multiclass(classes=("a", "b")))


def at(day: int) -> datetime:
    """The beginning of a day of May."""
    return datetime(2013, 5, day, tzinfo=UTC)


def test_without_a_horizon_the_newest_failed_day_asks_as_of_its_end() -> None:
    """All that was known as the next day began is known by now."""
    asked = choose(FAILED, timedelta(0), at(11))

    assert (asked.day, asked.as_of, asked.reason, asked.is_due) == (date(2013, 5, 10), at(11), "reason 9", True)


@pytest.mark.parametrize(("horizon", "as_of"), [(timedelta(days=14), 16), (timedelta(hours=36), 4), (timedelta(hours=1), 3)])
def test_a_training_sees_the_matured_labels_of_the_day_that_asked(horizon: timedelta, as_of: int) -> None:
    """It is asked for as of the first midnight at which all labels of the day have matured."""
    asked = choose({FIRST: "why"}, horizon, at(1) + timedelta(days=30))

    assert (asked.as_of, asked.is_due) == (at(as_of), True)


def test_a_retraining_waits_until_the_data_go_as_far() -> None:
    """Before that the labels of the day are not known, and nothing is asked for."""
    waiting = [choose({FIRST: "why"}, timedelta(days=14), clock).is_due for clock in (None, at(2), at(15), at(16))]

    assert waiting == [False, False, False, True]


def test_days_that_keep_failing_do_not_put_it_off() -> None:
    """The newest day that has matured asks; while none has, it is the oldest that is waited for."""
    horizon = timedelta(days=7)

    assert choose(FAILED, horizon, at(8)).as_of == at(9)
    assert (choose(FAILED, horizon, at(11)).day, choose(FAILED, horizon, at(11)).is_due) == (date(2013, 5, 3), True)


def test_a_day_has_drifted_by_its_scores_or_by_many_features() -> None:
    """One score is enough, whichever class it is of; of features it takes more than the declared share."""
    few, score = DriftedDay(day=FIRST, columns=11, drifted=("x", "y", "z")), DriftedDay(day=FIRST, columns=11, drifted=("value",))
    many = DriftedDay(day=FIRST, columns=11, drifted=("w", "x", "y", "z"))
    one_class = DriftedDay(day=FIRST, columns=12, drifted=("score_b", "x"))

    assert [has_drifted(arrival_delay, day) for day in (few, score, many)] == [False, True, True]
    assert has_drifted(CLASSES, one_class)
    assert drift_in_words(arrival_delay, score) == "the value and 0 of 10 features drifted"
    assert drift_in_words(arrival_delay, many) == "4 of 10 features drifted"
    assert drift_in_words(CLASSES, one_class) == "1 of 2 scores and 1 of 10 features drifted"


def test_a_first_version_is_trained_once_there_is_enough_to_learn_from_and_to_judge_by() -> None:
    """As many days as the two weeks of validation and of hold-out, twice, whichever of them are without decisions; as of their end."""
    days = days_between(FIRST, FIRST + timedelta(days=55))
    found = [first_training(flight_delay, asked, None) for asked in (days[:-1], days, [days[0], days[-1]])]

    assert least_days(flight_delay) == 56
    assert [one.is_due for one in found] == [False, True, True]
    assert all(one.is_first for one in found)
    assert (found[1].day, found[1].as_of) == (days[-1], datetime(2013, 6, 26, tzinfo=UTC))


def test_a_refused_first_candidate_is_followed_by_another_after_the_cool_down() -> None:
    """The gate said no: nothing else is learned before a week of new days has come."""
    days = days_between(FIRST, FIRST + timedelta(days=80))

    assert [first_training(flight_delay, days[:-later], days[-10]).is_due for later in (4, 3, 2, 1)] == [False, False, True, True]


def test_labels_that_mature_late_make_a_first_training_wait_for_them() -> None:
    """With a horizon of two weeks the last two of them teach nothing yet."""
    late = replace(flight_delay, label=replace(flight_delay.label, horizon=timedelta(days=14)))

    assert least_days(late) == 70
