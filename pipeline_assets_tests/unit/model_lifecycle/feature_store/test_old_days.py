"""Which of the days that were materialized before a run computes anew."""

from datetime import date, timedelta

import pytest

from pipeline_assets.model_lifecycle.feature_store.old_days import SAMPLE_DAYS, chosen, steps

DAYS = [date(2013, 1, 1) + timedelta(days=number) for number in range(100)]


def test_one_day_is_of_those_whose_inputs_have_changed() -> None:
    """The same seed chooses the same days, other seeds come round to all of them."""
    changed = {day: ["orders"] if day in DAYS[40:43] else [] for day in DAYS}
    found = [chosen(changed, str(seed)) for seed in range(1_000)]

    assert all(len(set(days)) == SAMPLE_DAYS and days[0] in DAYS[40:43] for days in found)
    assert chosen(changed, "7") == found[7]
    assert {day for days in found for day in days} == {*DAYS}


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_days_than_a_sample_are_all_of_them(number: int) -> None:
    """Nothing is chosen twice."""
    assert chosen({day: [] for day in DAYS[:number]}, "a run") == DAYS[:number]


def test_days_are_computed_in_steps() -> None:
    """A month at once, however many days there are."""
    assert [steps({day: ["orders"] for day in DAYS[:number]}) for number in (0, 1, 31, 32)] == [0, 1, 1, 2]
