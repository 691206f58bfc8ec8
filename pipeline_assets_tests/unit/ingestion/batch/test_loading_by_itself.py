"""The sensor that loads what has no sensor of its own: days of tables and APIs, and sources that are loaded as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from pipeline_assets.core import due, names
from pipeline_assets.core.due import MOST_DAYS
from pipeline_assets.core.project import Project, days_between, sources_of
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.retries import REASON
from pipeline_assets.ingestion.batch import assets
from pipeline_assets.spec.sources import Source
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import sources, use_case

DAY = timedelta(days=1)
JOB = names.build_features(use_case.name)
TABLE, API = sources.flight_schedule, sources.weather
WHOLE: Source = replace(sources.airlines, load="snapshot", contract=replace(sources.airlines.contract, freshness=timedelta(hours=2)))


@dg.asset_check(asset=key(names.staged(sources.airlines.contract.name)))
def is_fresh() -> dg.AssetCheckResult:
    """A check that a sensor evaluates, and no job."""
    return dg.AssetCheckResult(passed=True)


@dataclass(kw_only=True)
class Ticks:
    """A sensor on an instance of Dagster, from tick to tick."""

    case: UseCase
    instance: dg.DagsterInstance
    cursor: str | None = None

    def next(self) -> dg.SensorResult | dg.SkipReason:
        """The next tick."""
        made = assets.defs(Project(use_cases=(self.case,)))
        (sensor,) = made.sensors or ()
        assert isinstance(sensor, dg.SensorDefinition)
        by_sensors = dg.AssetSelection.checks(dg.AssetCheckKey(key(names.staged(sources.airlines.contract.name)), "is_fresh"))
        job = dg.define_asset_job(JOB, selection=dg.AssetSelection.groups(names.BATCH_INGESTION) - by_sensors)
        code = dg.Definitions(
            assets=made.assets,
            asset_checks=[is_fresh] if WHOLE in self.case.sources else [],
            jobs=[job],
            resources={"platform": Platform()},
        )
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"platform": Platform()},
            repository_def=code.get_repository_def(),
            sensor_name=sensor.name,
        )
        found = sensor(context)
        assert isinstance(found, dg.SensorResult | dg.SkipReason)
        self.cursor = found.cursor if isinstance(found, dg.SensorResult) else self.cursor
        return found

    def asked(self) -> dg.RunRequest | None:
        """What the next tick asks for, if it does."""
        found = self.next()
        requests = list(found.run_requests or ()) if isinstance(found, dg.SensorResult) else []
        assert len(requests) <= 1
        return requests[0] if requests else None

    def make(self, source: Source, *days: date) -> None:
        """Has a source been loaded: these days of it, or all of it."""
        for day in days or (None,):
            partition = None if day is None else str(day)
            self.instance.report_runless_asset_event(dg.AssetMaterialization(key(names.staged(source.contract.name)), partition=partition))


@pytest.fixture
def today() -> date:
    """Today in UTC."""
    return datetime.now(UTC).date()


@pytest.fixture
def ticks(today: date, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    """A use case that began a hundred days ago and goes on, with a table and an API by the day; what is due is asked for at once."""
    monkeypatch.setattr(due, "SETTLED", timedelta(0))
    monkeypatch.setattr(due, "QUIET", timedelta(0))
    case = replace(use_case, first_day=today - 100 * DAY, last_day=None, sources=(TABLE, API), streams=(), models=())
    with dg.DagsterInstance.ephemeral() as instance:
        yield Ticks(case=case, instance=instance)


def bounds(request: dg.RunRequest) -> tuple[date, date]:
    """First and last day of a run."""
    first, last = (date.fromisoformat(request.tags[tag]) for tag in names.range_tags(date.min, date.min))
    return first, last


def test_a_hundred_days_are_loaded_from_range_to_range(ticks: Ticks, today: date) -> None:
    """The oldest month first, the next one once that is made, nothing once all is; the last day may wait for rows that come late."""
    runs = []
    while (request := ticks.asked()) is not None:
        runs.append(bounds(request))
        for source in (TABLE, API):
            ticks.make(source, *days_between(*runs[-1]))

    assert runs[0] == (today - 100 * DAY, today - (100 - MOST_DAYS + 1) * DAY)
    assert [begin for begin, _ in runs[1:]] == [end + DAY for _, end in runs[:-1]]
    assert today - runs[-1][1] in {DAY, 2 * DAY}
    assert len(runs) == 4
    assert isinstance(ticks.next(), dg.SkipReason)


def test_later_days_wait_for_those_whose_run_failed(ticks: Ticks) -> None:
    """What is made of them reaches back: the tick names the days, and asks for no others and not for them again."""
    request = ticks.asked()
    assert request is not None
    held = ticks.next()

    assert isinstance(held, dg.SensorResult)
    assert not held.run_requests
    assert f"The run over {bounds(request)[0]} to {bounds(request)[1]} failed" in str(held.skip_reason)


def test_a_run_under_way_is_waited_for(ticks: Ticks) -> None:
    """A person, the demo, or a sensor of streams is making days: none is asked for twice."""
    run = dg.DagsterRun(job_name=JOB, run_id="0" * 32, status=dg.DagsterRunStatus.STARTED)
    ticks.instance.add_run(run)
    during = ticks.next()
    ticks.instance.report_run_canceled(run)

    assert isinstance(during, dg.SkipReason)
    assert JOB in str(during.skip_message)
    assert ticks.asked() is not None


def test_a_source_without_days_is_loaded_in_time_for_what_it_promises(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    """At first, by one run in a period, and again once its last load is half as old as its newest row may be."""
    ticks.case = replace(ticks.case, sources=(WHOLE,))
    first, again = ticks.asked(), ticks.asked()
    ticks.make(WHOLE)
    fresh = ticks.asked()
    monkeypatch.setattr("pipeline_assets.ingestion.batch.due.SELDOMEST", timedelta(microseconds=1))
    stale = ticks.asked()

    assert first is not None
    assert again is not None
    assert stale is not None
    assert (first.asset_selection, first.run_key) == ([key(names.staged("airlines"))], again.run_key)
    assert first.tags[REASON] == "airlines: they are to be no older than promised"
    assert fresh is None
    assert stale.run_key != first.run_key


def test_a_run_of_sources_without_days_evaluates_what_its_job_does(ticks: Ticks) -> None:
    """Regression: such a run evaluated checks as well that only sensors do, in a step of their own."""
    ticks.case = replace(ticks.case, sources=(WHOLE,))
    request = ticks.asked()

    assert request is not None
    assert {check.name for check in request.asset_check_keys or ()} == {"contract", "complete"}


def test_each_load_of_a_source_without_days_waits_for_people_at_work(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the moment since when a load is due was that of the first one, so later ones waited for nobody."""
    ticks.case = replace(ticks.case, sources=(WHOLE,))
    assert ticks.asked() is not None
    ticks.make(WHOLE)
    monkeypatch.setattr(due, "SETTLED", timedelta(minutes=2))
    monkeypatch.setattr("pipeline_assets.ingestion.batch.due.SELDOMEST", timedelta(microseconds=1))
    stale = ticks.next()

    assert isinstance(stale, dg.SensorResult)
    assert not stale.run_requests
    assert "is asked for 2 minutes later" in str(stale.skip_reason)


def test_a_replay_is_loaded_as_far_as_its_histories_go_within_its_days(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: an event far in the future made days due that are none, whose run failed, and with it good days before them."""
    first, end, events = date(2013, 1, 1), date(2013, 2, 10), [datetime(2013, 2, 10, 12, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)]

    def newest(*asked: tuple[datetime, datetime]) -> datetime | None:
        return max((at for at in events if asked[-1][0] <= at < asked[-1][1]), default=None)

    monkeypatch.setattr("pipeline_assets.core.resources.read_settings", lambda _: None)
    monkeypatch.setattr("pipeline_assets.ingestion.batch.postgres.newest_event", newest)
    ticks.case = replace(ticks.case, first_day=first, last_day=date(2013, 6, 30), streams=use_case.streams)
    made = []
    while (request := ticks.asked()) is not None:
        made.append(bounds(request))
        for source in sources_of(ticks.case):
            ticks.make(source, *days_between(*made[-1]))

    assert made == [(first, date(2013, 1, 31)), (date(2013, 2, 1), end)]
