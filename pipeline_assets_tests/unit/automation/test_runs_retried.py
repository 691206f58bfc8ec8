"""The sensor that asks again for failed runs, on an instance of Dagster with runs that really fail."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

import dagster as dg
import pytest

from pipeline_assets.automation import sensors
from pipeline_assets.automation.sensors import runs_retried
from pipeline_assets.core import retries
from pipeline_assets.core.retries import MOST_TRIES, RANGE, SENSOR, TRY

JOB = "load"
DAYS = dict(zip(RANGE, ("2024-05-01", "2024-05-02"), strict=True))
by_day = dg.DailyPartitionsDefinition(start_date="2024-05-01", end_date="2024-06-01", timezone="UTC")
broken = {"is_broken": True}


@dg.asset(partitions_def=by_day, backfill_policy=dg.BackfillPolicy.single_run())
def orders() -> None:
    """Fails for as long as its source is broken."""
    if broken["is_broken"]:
        raise ConnectionError("the source does not answer")


@dg.asset(partitions_def=by_day, backfill_policy=dg.BackfillPolicy.single_run())
def returns() -> None:
    """Never fails."""


job = dg.define_asset_job(JOB, selection=[orders, returns])
code = dg.Definitions(assets=[orders, returns], jobs=[job])


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance of Dagster, where a failed run is due at once and the source is broken."""
    monkeypatch.setattr(retries, "BACK_OFF", (timedelta(0),) * (MOST_TRIES - 1))
    broken["is_broken"] = True
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    """One evaluation of the sensor."""
    found = runs_retried({JOB: job})(dg.build_sensor_context(instance=instance, cursor=cursor))
    assert isinstance(found, dg.SensorResult)
    return found


def load(instance: dg.DagsterInstance, tags: Mapping[str, str], assets: list[dg.AssetKey] | None = None) -> str:
    """A run of the job; returns its id."""
    done = code.resolve_job_def(JOB).execute_in_process(instance=instance, tags=tags, asset_selection=assets, raise_on_error=False)
    return done.run_id


def answer(instance: dg.DagsterInstance, request: dg.RunRequest) -> str:
    """The run that a sensor asked for, as the daemon makes it."""
    assets = list(request.asset_selection) if request.asset_selection is not None else None
    return load(instance, {**request.tags, SENSOR: "runs_retried"}, assets)


def test_a_failed_run_is_asked_for_again_until_it_succeeds(instance: dg.DagsterInstance) -> None:
    """Regression: a run that a sensor had requested and that failed was not requested again before more events came."""
    failed = load(instance, {SENSOR: "days_changed_shop", **DAYS}, [orders.key])
    first = tick(instance)
    (request,) = first.run_requests or ()
    broken["is_broken"] = False
    answer(instance, request)
    second = tick(instance, first.cursor)

    assert (request.job_name, request.run_key) == (JOB, f"again-{failed}")
    assert request.asset_selection == [orders.key]
    assert request.tags.items() >= {**DAYS, TRY: "2", retries.AGAIN_OF: failed}.items()
    assert not second.run_requests
    assert second.skip_reason is not None
    materialized = instance.get_materialized_partitions(orders.key)
    assert materialized == {"2024-05-01", "2024-05-02"}


def test_it_gives_up_after_some_tries_and_says_so(instance: dg.DagsterInstance) -> None:
    """Nobody asks for ever: after the last try the tick names the job, once."""
    load(instance, {SENSOR: "days_changed_shop", **DAYS})
    cursor, tries, reasons = None, 1, []
    for _ in range(MOST_TRIES + 2):
        found = tick(instance, cursor)
        cursor = found.cursor
        for request in found.run_requests or ():
            answer(instance, request)
            tries += 1
        reasons += [found.skip_reason.skip_message] if isinstance(found.skip_reason, dg.SkipReason) else [found.skip_reason]

    assert tries == MOST_TRIES
    assert [reason for reason in reasons if reason is not None and "Gave up" in reason] == [f"Gave up {JOB} after {MOST_TRIES} tries."]


def test_what_a_person_started_and_what_a_later_run_made_is_let_be(instance: dg.DagsterInstance) -> None:
    """Of two failures only the one that nobody has answered since, and that a sensor had asked for, is asked for again."""
    load(instance, DAYS)
    load(instance, {SENSOR: "days_changed_shop", **DAYS}, [orders.key])
    broken["is_broken"] = False
    load(instance, {SENSOR: "days_changed_shop", **DAYS})
    found = tick(instance)

    assert not found.run_requests
    assert not tick(instance, found.cursor).run_requests


def test_it_waits_for_a_run_of_the_same_job(instance: dg.DagsterInstance) -> None:
    """Two runs of a job at once would make the same days twice; once the other has ended, it is asked for."""
    load(instance, {SENSOR: "days_changed_shop", **DAYS}, [orders.key])
    other = dg.DagsterRun(job_name=JOB, run_id="0" * 32, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(other)
    waiting = tick(instance)
    instance.report_run_canceled(other)
    then = tick(instance, waiting.cursor)

    assert not waiting.run_requests
    assert len(then.run_requests or ()) == 1


def test_a_later_run_that_was_cancelled_made_nothing(instance: dg.DagsterInstance) -> None:
    """Regression: a failed run was let be as needless after a run that was cancelled; it waits while that one is being cancelled."""
    load(instance, {SENSOR: "days_changed_shop", **DAYS}, [orders.key])
    other = instance.add_run(dg.DagsterRun(job_name=JOB, tags=dict(DAYS), status=dg.DagsterRunStatus.CANCELING))
    waiting = tick(instance)
    instance.report_run_canceled(other)
    then = tick(instance, waiting.cursor)

    assert not waiting.run_requests
    assert len(then.run_requests or ()) == 1


def test_of_very_many_failures_the_newest_are_looked_at(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: thousands were read at each tick, and named in the cursor."""
    monkeypatch.setattr(sensors, "MOST_FAILED", 1)
    load(instance, {SENSOR: "days_changed_shop", **DAYS}, [orders.key])
    newest = load(instance, {SENSOR: "days_changed_shop", RANGE[0]: "2024-05-02", RANGE[1]: "2024-05-03"}, [orders.key])
    (request,) = tick(instance).run_requests or ()

    assert request.run_key == f"again-{newest}"
