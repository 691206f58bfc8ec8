"""What the sensor of scores asks for from tick to tick, by runs of an instance of Dagster; what is known of days is given here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from pipeline_assets.core import due, names
from pipeline_assets.core.project import Project, days_between
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.retries import SENSOR, TRY
from pipeline_assets.serving.monitoring import sensors
from pipeline_assets.serving.monitoring.due import Known
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets.use_cases.nyc_flights.models import flight_delay

FIRST, DAY = date(2013, 1, 1), timedelta(days=1)
YEAR = days_between(FIRST, FIRST + 364 * DAY)
JOB, BUILD = names.score_and_monitor(flight_delay.name), names.build_features(use_case.name)
FAILURE, STARTED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED


@dataclass(kw_only=True)
class Ticks:
    """The sensor on an instance of Dagster, and of each asset the numbers of its days."""

    instance: dg.DagsterInstance
    vectors: Mapping[date, int]
    made: dict[str, Mapping[date, int]] = field(default_factory=dict)
    cursor: str | None = None

    def known(self) -> Known:
        """All days have vectors, and no labels are awaited."""
        parts = {name: self.made.get(name, {}) for name in ("predictions", "drift", "performance")}
        return Known(
            vectors=self.vectors,
            **parts,
            scored_from=FIRST,
            filled=frozenset(self.vectors),
            judged={},
            clock=datetime(2014, 1, 1, tzinfo=UTC),
            horizon=DAY,
        )

    def next(self) -> tuple[dg.RunRequest | None, str]:
        """What the next tick asks for, and why it does not."""
        context = dg.build_sensor_context(instance=self.instance, resources={"platform": Platform()}, cursor=self.cursor)
        found = sensors.scoring(Project(use_cases=(use_case,)), flight_delay)(context)
        if isinstance(found, dg.SkipReason):
            return None, str(found.skip_message)
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor
        return next(iter(found.run_requests or ()), None), str(found.skip_reason)

    def add(self, job: str, tags: Mapping[str, str], status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """A run in a state."""
        return self.instance.add_run(dg.DagsterRun(job_name=job, tags=dict(tags), status=status))


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    """A year of vectors, none scored; what is due is asked for at once."""
    monkeypatch.setattr(due, "SETTLED", timedelta(0))
    monkeypatch.setattr(due, "QUIET", timedelta(0))
    with dg.DagsterInstance.ephemeral() as instance:
        ticks = Ticks(instance=instance, vectors=dict.fromkeys(YEAR, 1))
        monkeypatch.setattr("pipeline_assets.core.resources.read_settings", lambda _: None)
        monkeypatch.setattr(sensors, "_known", lambda *_: ticks.known())
        monkeypatch.setattr(sensors, "_state", lambda *_: str(datetime.now(UTC)))
        yield ticks


def test_what_fails_for_each_range_is_not_asked_for_of_all_of_them(ticks: Ticks) -> None:
    """Regression: where no day was the cause, each of sixty ranges failed five times, and again on each later day."""
    asked = []
    while (request := ticks.next()[0]) is not None:
        asked.append(request)
        ticks.add(JOB, {**request.tags, SENSOR: "score"}, FAILURE)
        assert len(asked) <= due.MOST_HELD
    before = ticks.next()
    ticks.made = {name: dict.fromkeys(YEAR[: due.MOST_DAYS], 2) for name in ("predictions", "drift", "performance")}
    after, _ = ticks.next()

    assert len(asked) == due.MOST_HELD
    assert f"The runs over {due.MOST_HELD} ranges failed" in before[1]
    assert after is not None


@pytest.mark.parametrize(("tries", "expected"), [("1", None), ("5", "scores of 31 days were not measured")])
def test_days_of_a_run_that_is_asked_for_again_are_left_to_it(ticks: Ticks, tries: str, expected: str | None) -> None:
    """Regression: where scores came and drift failed, their days were asked for as not measured, beside the whole run once more."""
    days = YEAR[: due.MOST_DAYS]
    ticks.vectors = dict.fromkeys(days, 1)
    request, _ = ticks.next()
    assert request is not None
    ticks.add(JOB, {**request.tags, SENSOR: "score", TRY: tries}, FAILURE)
    ticks.made = {"predictions": dict.fromkeys(days, 2)}
    then, _ = ticks.next()

    assert (None if then is None else then.tags["pipeline/reason"]) == expected


def test_days_that_are_being_made_are_scored_after_that(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others do not wait; where a stream has them made again and again, they are scored after a while all the same."""
    build = ticks.add(BUILD, names.range_tags(FIRST, FIRST + 3 * DAY), STARTED)
    others, _ = ticks.next()
    ticks.vectors, ticks.cursor = dict.fromkeys(YEAR[:3], 1), None
    waiting, why = ticks.next()
    monkeypatch.setattr(due, "PATIENCE", timedelta(0))
    at_last, _ = ticks.next()
    ticks.instance.report_run_canceled(build)

    assert others is not None
    assert others.tags["dagster/asset_partition_range_start"] == str(FIRST + 4 * DAY)
    assert waiting is None
    assert f"A run of {BUILD} is under way, which makes what is due." in why
    assert at_last is not None
