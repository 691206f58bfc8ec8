"""Whom sensors wait for, on an instance of Dagster with runs in every state."""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from types import MappingProxyType

import dagster as dg
import pytest

from pipeline_assets.core import names, sensors
from pipeline_assets.core.retries import PARENT, SENSOR
from pipeline_assets.use_cases.nyc_flights import use_case

FIRST, LAST = date(2013, 5, 1), date(2013, 5, 31)
BUILD = names.build_features(use_case.name)
SCORE = names.score_and_monitor(use_case.models[0].name)
STARTED = dg.DagsterRunStatus.STARTED


@pytest.fixture
def context() -> Iterator[dg.SensorEvaluationContext]:
    """A tick on an instance without runs."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield dg.build_sensor_context(instance=instance)


def add(
    context: dg.SensorEvaluationContext,
    job: str,
    tags: Mapping[str, str] = MappingProxyType({}),
    status: dg.DagsterRunStatus = STARTED,
) -> dg.DagsterRun:
    """A run of a job in a state."""
    return context.instance.add_run(dg.DagsterRun(job_name=job, tags=dict(tags), status=status))


def test_days_that_are_being_scored_are_not_made_again_meanwhile(context: dg.SensorEvaluationContext) -> None:
    """Regression: vectors that were made while their day was scored never got scores, as the event of the scores came later."""
    run = add(context, SCORE, names.range_tags(FIRST, LAST))
    during = [sensors.being_scored(context, use_case, span) for span in ((LAST, date(2013, 6, 30)), (date(2013, 6, 1), date(2013, 6, 30)))]
    context.instance.report_run_canceled(run)

    assert during == ["Days from 2013-05-01 to 2013-05-31 are being scored; what is due of them is made after that.", None]
    assert sensors.being_scored(context, use_case, (FIRST, LAST)) is None


def test_the_days_of_runs_under_way_are_those_of_their_tags(context: dg.SensorEvaluationContext) -> None:
    """A range, or one partition; runs of other jobs, without days, or that have ended do not count."""
    add(context, BUILD, names.range_tags(FIRST, LAST))
    add(context, BUILD, {"dagster/partition": "2013-06-03"})
    add(context, BUILD)
    add(context, SCORE, names.range_tags(FIRST, FIRST))
    add(context, BUILD, names.range_tags(FIRST, FIRST), dg.DagsterRunStatus.FAILURE)

    assert sorted(sensors.unfinished_days(context, BUILD)) == [(FIRST, LAST), (date(2013, 6, 3), date(2013, 6, 3))]


def test_a_run_that_is_being_cancelled_has_not_ended(context: dg.SensorEvaluationContext) -> None:
    """Regression: while its process wrote on, a second run over the same days was asked for."""
    add(context, BUILD, names.range_tags(FIRST, LAST), dg.DagsterRunStatus.CANCELING)

    assert sensors.is_running(context, BUILD)
    assert sensors.unfinished_of(context, SCORE, BUILD) == BUILD
    assert sensors.unfinished_days(context, BUILD) == [(FIRST, LAST)]


@pytest.mark.parametrize(
    ("tags", "by_hand", "by_others"),
    [
        ({}, True, True),
        ({SENSOR: "load", PARENT: "r"}, True, True),
        ({SENSOR: "days_changed"}, False, True),
        ({SENSOR: "load"}, False, False),
    ],
    ids=["a person", "a person who executed one again", "another sensor", "the sensor itself"],
)
def test_who_has_just_ended_is_seen_behind_newer_runs(
    context: dg.SensorEvaluationContext, tags: dict[str, str], *, by_hand: bool, by_others: bool
) -> None:
    """Regression: the run that a sensor asked for within a minute hid that of a person, who was overtaken."""
    context.instance.report_run_canceled(add(context, BUILD, tags))
    newer = add(context, BUILD, {SENSOR: "load"})
    context.instance.report_run_canceled(newer)
    add(context, BUILD, {SENSOR: "load"})

    assert bool(sensors.ended_by_hand(context, BUILD)) is by_hand
    assert bool(sensors.ended_by_others(context, {"load"}, BUILD)) is by_others


@pytest.mark.parametrize(("tags", "expected"), [({}, True), ({SENSOR: "days_changed"}, True), ({SENSOR: "load"}, False)])
def test_a_first_training_waits_for_all_that_make_days_but_the_background(
    context: dg.SensorEvaluationContext, tags: dict[str, str], *, expected: bool
) -> None:
    """Regression: while a stream's run made days, a first version was trained on half of them."""
    add(context, BUILD, {SENSOR: "load"})
    add(context, BUILD, tags)

    assert sensors.is_running_but_for(context, "load", BUILD) is expected


def test_a_run_was_given_up_a_day_after_it_ended_without_success(
    context: dg.SensorEvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is the newest of its job: who started another one since has it in hand."""
    asked = {"pipeline/day": "2013-05-01"}
    found = [sensors.was_given_up(context, BUILD, asked)]
    for status in (STARTED, dg.DagsterRunStatus.FAILURE):
        run = add(context, BUILD, asked, STARTED)
        if status != STARTED:
            context.instance.report_run_failed(run)
        found.append(sensors.was_given_up(context, BUILD, asked))
    monkeypatch.setattr(sensors, "GIVEN_UP", timedelta(0))
    then, others = sensors.was_given_up(context, BUILD, asked), sensors.was_given_up(context, BUILD, {"pipeline/day": "2013-05-02"})
    context.instance.report_run_canceled(add(context, BUILD))

    assert not any(found)
    assert (then, others) == (True, False)
    assert not sensors.was_given_up(context, BUILD, asked)
