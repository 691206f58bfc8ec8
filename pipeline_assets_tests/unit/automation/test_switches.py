"""What a use case declares to run by itself: its sensors are on, or off until somebody switches them on."""

from dataclasses import replace

import dagster as dg
import pytest

from pipeline_assets import jobs
from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.project import Project
from pipeline_assets.ingestion.batch import sensors as batch
from pipeline_assets.serving.monitoring import assets as monitoring
from pipeline_assets.spec.sources import CsvFile, Files
from pipeline_assets.spec.use_case import ALL, Automatic
from pipeline_assets.use_cases.nyc_flights import sources

MODEL = "match_outcome"
SENSORS: dict[Automatic, str] = {"score": names.score(MODEL), "train": names.retrain(MODEL)}


def project(*automatic: Automatic) -> Project:
    """The league with these parts running by themselves."""
    return Project(use_cases=(replace(load_project().use_case("bundesliga"), automatic=automatic),), tables=load_project().tables)


@pytest.mark.parametrize("part", SENSORS)
def test_a_part_that_is_not_declared_is_off(part: Automatic) -> None:
    """Its sensor is there, so that it can be switched on; those of the other parts are on, and all are by default."""
    others = tuple(one for one in ALL if one != part)
    found = {
        one.name: one.default_status for one in monitoring.defs(project(*others)).sensors or () if isinstance(one, dg.SensorDefinition)
    }
    on, off = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED

    assert found == {name: off if one == part else on for one, name in SENSORS.items()}
    assert load_project().use_case("bundesliga").automatic == ALL


@pytest.mark.parametrize(("automatic", "expected"), [(ALL, True), (("score",), False)])
def test_nothing_is_loaded_where_that_is_not_declared(automatic: tuple[Automatic, ...], *, expected: bool) -> None:
    """Regression: of files it was all the same."""
    files = replace(sources.airlines, load="incremental", origin=Files(folder="inbox", pattern="*.csv", format=CsvFile()))
    flights = replace(load_project().use_case("nyc_flights"), automatic=automatic, sources=(sources.flight_schedule, files), models=())
    made = batch.defs(Project(use_cases=(flights,), tables=load_project().tables)).sensors or ()
    found = {one.name: one.default_status for one in made if isinstance(one, dg.SensorDefinition)}
    status = dg.DefaultSensorStatus.RUNNING if expected else dg.DefaultSensorStatus.STOPPED

    assert found == {names.load("nyc_flights"): status, names.files_changed("nyc_flights"): status}


@pytest.mark.parametrize(("automatic", "expected"), [(ALL, True), (("score",), False)])
def test_failed_runs_of_a_use_case_are_asked_for_again_if_it_says_so(automatic: tuple[Automatic, ...], *, expected: bool) -> None:
    """Its own jobs alone are left out, those of the platform never."""
    (sensor,) = jobs.defs(project(*automatic)).sensors or ()
    assert isinstance(sensor, dg.SensorDefinition)
    retried = {target.job_name for target in sensor.targets}
    own = {names.build_features("bundesliga"), names.train(MODEL), names.score_and_monitor(MODEL)}

    assert (own <= retried) is expected
    assert bool(own & retried) is expected
    assert names.TYPE_RECORDS in retried
