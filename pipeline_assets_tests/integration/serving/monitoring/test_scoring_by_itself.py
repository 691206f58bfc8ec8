"""Scores, monitors and judgements by labels without a hand: the sensor asks, Dagster runs what it asks for, on real services."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from secrets import token_hex

import dagster as dg
import pytest

from pipeline_assets import jobs
from pipeline_assets.core import due, names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.project import Project, days_between
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.retries import SENSOR
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.batch import assets as batch_inference
from pipeline_assets.serving.batch.predictions import table_of
from pipeline_assets.serving.monitoring import assets, sensors, tables
from pipeline_assets.spec.models import Model
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.live_models import go_live, store_labels, store_vectors
from pipeline_assets_tests.model_rows import START, small_model
from pipeline_assets_tests.stack_env import write_stack_env

FIRST, DAY = START.date(), timedelta(days=1)


@dataclass(kw_only=True)
class House:
    """A model on real services, an instance of Dagster, and the cursor that the sensor left."""

    settings: Settings
    folder: Path
    instance: dg.DagsterInstance
    model: Model
    cursor: str | None = None

    @property
    def project(self) -> Project:
        """The model in a use case of the past, whose data are its clock."""
        return Project(use_cases=(replace(use_case, models=(self.model,)),))

    def add_vectors(self, first: int, last: int) -> None:
        """Puts vectors of the first days up to `last` into the lake, and has Dagster know of those from `first` on."""
        store_vectors(self.settings, self.model, days=last + 1)
        for day in days_between(FIRST + first * DAY, FIRST + last * DAY):
            made = dg.AssetMaterialization(key(names.vectors(self.model.name)), partition=str(day))
            self.instance.report_runless_asset_event(made)

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """One evaluation of the sensor, from where it was."""
        platform = Platform(home=str(self.folder))
        context = dg.build_sensor_context(instance=self.instance, resources={"platform": platform}, cursor=self.cursor)
        found = sensors.scoring(self.project, self.model)(context)
        assert isinstance(found, dg.SensorResult | dg.SkipReason)
        self.cursor = found.cursor if isinstance(found, dg.SensorResult) else self.cursor
        return found

    def run_all(self) -> list[tuple[str, date, date]]:
        """Has everything run that the sensor asks for, until it asks for no more; returns why and for which days."""
        made = [*(batch_inference.defs(self.project).assets or ()), *(assets.defs(self.project).assets or ())]
        code = dg.Definitions(assets=made, jobs=[], resources={"platform": Platform(home=str(self.folder))})
        asked = []
        while isinstance(found := self.tick(), dg.SensorResult) and found.run_requests:
            (request,) = found.run_requests
            whole = [key(name(self.model.name)) for name in jobs.SERVING]
            chosen = whole if request.asset_selection is None else list(request.asset_selection)
            job = dg.define_asset_job("asked", selection=dg.AssetSelection.assets(*chosen))
            done = dg.Definitions.merge(code, dg.Definitions(jobs=[job])).resolve_job_def("asked")
            assert done.execute_in_process(instance=self.instance, run_config=request.run_config, tags=request.tags).success
            bounds = [date.fromisoformat(value) for tag, value in sorted(request.tags.items()) if "range" in tag]
            asked.append((request.tags["pipeline/reason"], bounds[1], bounds[0]))
        return asked


@pytest.fixture
def house(isolated: Settings, stack: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A model without a version, of which ten days have vectors; what is due is asked for at once."""
    monkeypatch.setattr(due, "SETTLED", timedelta(0))
    monkeypatch.setattr(due, "QUIET", timedelta(0))
    settings = isolated.model_copy(update={"mlflow_url": stack.mlflow_url})
    write_stack_env(settings, tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        house = House(settings=settings, folder=tmp_path, instance=instance, model=small_model(f"small_{token_hex(4)}"))
        house.add_vectors(0, 9)
        store_labels(settings, house.model)
        yield house


def test_days_are_scored_watched_and_judged_without_a_hand(house: House) -> None:
    """From the first version on; new days follow, and those before them are judged again once their last labels are known."""
    before = house.run_all()
    go_live(house.settings, house.model, seed=1, live_from=START + 2 * DAY)
    first = house.run_all()
    house.add_vectors(10, 11)
    then = house.run_all()
    at_rest = house.tick()
    with warehouse(house.settings) as connection:
        query = "select (decision_at at time zone 'UTC')::date as day, count(*) from {} group by day order by day"
        scored = connection.execute(query.format(table_of(house.model).as_string()).encode()).fetchall()

    assert before == []
    assert first == [("vectors of 8 days are newer than their scores", FIRST + 2 * DAY, FIRST + 9 * DAY)]
    assert then == [
        ("vectors of 2 days are newer than their scores", FIRST + 10 * DAY, FIRST + 11 * DAY),
        ("labels of 1 day have matured", FIRST + 9 * DAY, FIRST + 9 * DAY),
    ]
    assert scored == [(FIRST + day * DAY, 100) for day in range(2, 12)]
    assert [day.day for day in tables.drifted_days(house.settings, house.model, None)] == [day for day, _ in scored]
    assert isinstance(at_rest, dg.SkipReason)
    assert "nothing has changed" in str(at_rest.skip_message)


def test_a_run_that_failed_or_is_under_way_is_not_asked_for_twice(house: House) -> None:
    """What was asked for stays in the cursor; a day that is made anew is asked for again once no run makes it any more."""
    go_live(house.settings, house.model, seed=1, live_from=START + 8 * DAY)
    (first,) = asked_by(house.tick())
    again = house.tick()
    under_way = dg.DagsterRun(job_name=names.score_and_monitor(house.model.name), run_id="0" * 32, status=dg.DagsterRunStatus.STARTED)
    house.instance.add_run(under_way)
    busy = house.tick()
    house.instance.report_run_canceled(under_way)
    build, started = names.build_features(use_case.name), dg.DagsterRunStatus.STARTED
    tags = names.range_tags(FIRST, FIRST + 20 * DAY)
    by_hand = dg.DagsterRun(job_name=build, run_id="1" * 32, status=started, tags=tags)
    house.instance.add_run(by_hand)
    house.add_vectors(9, 9)
    built = house.tick()
    house.instance.report_run_canceled(by_hand)
    later = {SENSOR: names.load(use_case.name), **names.range_tags(FIRST + 10 * DAY, FIRST + 20 * DAY)}
    house.instance.add_run(dg.DagsterRun(job_name=build, run_id="2" * 32, status=started, tags=later))
    (anew,) = asked_by(house.tick())

    assert not asked_by(again)
    assert isinstance(again, dg.SensorResult)
    assert "2 days are due and were asked for" in str(again.skip_reason)
    assert isinstance(busy, dg.SkipReason)
    assert "under way" in str(busy.skip_message)
    assert isinstance(built, dg.SensorResult)
    assert "which makes what is due" in str(built.skip_reason)
    assert (anew.tags["dagster/asset_partition_range_start"], anew.run_key != first.run_key) == (str(FIRST + 9 * DAY), True)


def asked_by(found: dg.SensorResult | dg.SkipReason) -> list[dg.RunRequest]:
    """The runs that a tick asks for."""
    return list(found.run_requests or ()) if isinstance(found, dg.SensorResult) else []
