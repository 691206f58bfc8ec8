"""Which training the sensor asks for from tick to tick, by runs of an instance of Dagster; what failed is given here."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from pipeline_assets.core import due, names
from pipeline_assets.core import sensors as waits
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.serving.monitoring import feedback, sensors
from pipeline_assets.serving.monitoring.feedback import Retraining
from pipeline_assets.spec.models import Model
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets.use_cases.nyc_flights.models import flight_delay

FAILED = date(2013, 5, 1)
JOB = names.train(flight_delay.name)
ASKED = Retraining(day=FAILED, as_of=datetime(2013, 5, 16, tzinfo=UTC), reason="it drifted", is_due=True)


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """A day that failed, and asks until it has had its answer; no training is the first."""

    def asked(_: object, __: Model, last_asked: date | None) -> Retraining | None:
        return ASKED if last_asked is None or last_asked < FAILED else None

    monkeypatch.setattr(feedback, "asked_for", asked)
    monkeypatch.setattr(feedback, "first_asked", lambda *_: None)
    monkeypatch.setattr(due, "QUIET", timedelta(0))
    monkeypatch.setattr("pipeline_assets.core.resources.read_settings", lambda _: None)
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def tick(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    """One evaluation of the sensor."""
    context = dg.build_sensor_context(instance=instance, resources={"platform": Platform()}, cursor=cursor)
    found = sensors.retraining(Project(use_cases=(use_case,)), flight_delay)(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_training_that_was_given_up_is_asked_for_again(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Regression: the day that asked counted as answered once it had asked, so where no new days came there was never a version."""
    first = tick(instance, None)
    assert isinstance(first, dg.SensorResult)
    (request,) = first.run_requests or ()
    run = instance.add_run(dg.DagsterRun(job_name=JOB, tags=dict(request.tags), status=dg.DagsterRunStatus.STARTED))
    (instance.report_run_failed if end == "failed" else instance.report_run_canceled)(run)
    soon = tick(instance, first.cursor)
    monkeypatch.setattr(waits, "GIVEN_UP", timedelta(0))
    later = tick(instance, first.cursor)

    assert isinstance(soon, dg.SkipReason)
    assert isinstance(later, dg.SensorResult)
    (again,) = later.run_requests or ()
    assert again.run_config == request.run_config
    assert again.run_key == f"{request.run_key}-{datetime.now(UTC).date()}"
