"""Which failed runs are asked for again, when, and when no more."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core import retries
from pipeline_assets.core.retries import AGAIN_OF, BACK_OFF, MOST_TRIES, RANGE, REASON, SENSOR, TRY, WILL_RETRY, Asked

AT = datetime(2024, 5, 1, 12, tzinfo=UTC)
DAYS = [f"2024-05-0{day}" for day in range(1, 6)]
ASSETS = ("a", "b", "c")
spans = st.none() | st.lists(st.sampled_from(DAYS), min_size=2, max_size=2).map(sorted)
selections = st.none() | st.frozensets(st.sampled_from(ASSETS), min_size=1)


def run(
    span: Sequence[str] | None = None,
    assets: frozenset[str] | None = None,
    *,
    minutes: int = 0,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Asked:
    """A run that a sensor asked for, made so many minutes after noon."""
    days = {} if span is None else dict(zip(RANGE, span, strict=True))
    made = AT + timedelta(minutes=minutes)
    return Asked(run_id="r", job="j", tags={SENSOR: "s", **days, **tags}, made_at=made, changed_at=made, assets=assets)


def cells(of: Asked) -> set[tuple[str, str]]:
    """What a run makes: each asset on each day; a run without days makes its assets as a whole."""
    days = [day for day in DAYS if of.days[0] <= day <= of.days[1]] if of.days is not None else ["whole"]
    return {(asset, day) for asset in of.assets or ASSETS for day in days}


@given(spans, selections, spans, selections)
def test_a_run_covers_another_if_it_makes_all_that_the_other_makes(
    span: list[str] | None, assets: frozenset[str] | None, span2: list[str] | None, assets2: frozenset[str] | None
) -> None:
    """By brute force over assets and days; "all assets" covers each choice, and a choice never counts as all."""
    one, other = run(span, assets), run(span2, assets2)
    expected = (span is None) == (span2 is None) and cells(one) >= cells(other) and not (assets is not None and assets2 is None)

    assert retries.covers(one, other) == expected
    assert not retries.covers(replace(one, job="another"), other)


def test_each_try_waits_longer_and_there_is_a_last_one() -> None:
    """From failure to failure the waits are those of `BACK_OFF`; then nobody asks any more, which is what an alarm is for."""
    failed, waits = run(), []
    while (at := retries.due_at(failed)) is not None:
        assert retries.is_retried(failed.tags)
        waits.append(at - failed.changed_at)
        failed = replace(failed, tags={SENSOR: "s", **retries.tags_of_retry(failed)})

    assert tuple(waits) == BACK_OFF
    assert sorted(waits) == waits
    assert retries.try_of(failed.tags) == MOST_TRIES
    assert not retries.is_retried(failed.tags)


def test_a_retry_has_the_days_of_the_run_that_failed_and_says_why_it_is_there() -> None:
    """Tags of Dagster's own are left behind, but for the days; the first reason stays readable over all tries."""
    first = run(DAYS[:2], tags={REASON: "vectors: they are new", "team": "flights", "dagster/run_key": "k", ".dagster/grpc_info": "x"})
    second = replace(first, run_id="r2", tags={SENSOR: "s", **retries.tags_of_retry(first)})
    third = retries.tags_of_retry(second)

    assert third == {
        **dict(zip(RANGE, DAYS[:2], strict=True)),
        "team": "flights",
        TRY: "3",
        AGAIN_OF: "r2",
        REASON: f"try 3 of {MOST_TRIES}: vectors: they are new",
    }


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, False),
        ({SENSOR: "s"}, True),
        ({retries.SCHEDULE: "nightly"}, True),
        ({TRY: "2"}, False),
        ({SENSOR: "s", TRY: "no number"}, True),
        ({SENSOR: "s", retries.PARENT: "r"}, False),
        ({SENSOR: "s", retries.PARENT: "r", retries.RETRY_NUMBER: "1"}, True),
    ],
    ids=["by hand", "by a sensor", "by a schedule", "a try by hand", "no number", "executed again by hand", "executed again by Dagster"],
)
def test_what_a_person_started_is_left_to_them(tags: dict[str, str], *, expected: bool) -> None:
    """Regression: a run that a person executed again has the tags of the sensor's run, and was repeated as if it were one.

    Sensors and schedules have their runs repeated; a damaged number of the try counts as the first.
    """
    assert retries.is_retried(tags) is expected
    assert retries.sensor_of(tags) == (tags.get(SENSOR) if expected else None)


def test_a_run_that_dagster_repeats_itself_is_not_asked_for_twice() -> None:
    """One whose process crashed is retried by Dagster at once, and is no case for an alarm either."""
    crashed = run(tags={WILL_RETRY: "true", TRY: str(MOST_TRIES)})

    assert retries.due_at(crashed) is None
    assert retries.is_retried(crashed.tags)


def test_a_failed_run_is_needless_once_a_later_one_made_the_same() -> None:
    """Also where the later one failed, as it is asked for again itself; one under way is waited for, an earlier one does not count."""
    failed, wider = run(DAYS[1:3]), run([DAYS[0], DAYS[3]], minutes=5)
    under_way, narrower = replace(wider, has_ended=False), run(DAYS[1:3], frozenset("a"), minutes=5)

    assert retries.is_settled(failed, [wider])
    assert not retries.is_settled(failed, [narrower, under_way, replace(wider, made_at=failed.made_at)])
    assert retries.is_awaited(failed, [under_way])
    assert not retries.is_awaited(failed, [wider])


def test_what_a_sensor_finds_lacking_is_asked_for_later_each_time() -> None:
    """Regression: connectors that Kafka Connect refused were asked for four times a minute; there is no last time, but a longest wait."""
    tries, now, waits = retries.Tries(), AT, []
    for _ in range(5):
        assert tries.are_due(now)
        tries, asked_at = tries.with_one_at(now), now
        while not tries.are_due(now):
            now += timedelta(minutes=1)
        waits.append(now - asked_at)

    assert waits == [timedelta(minutes=minutes) for minutes in (1, 5, 25, 25, 25)]
