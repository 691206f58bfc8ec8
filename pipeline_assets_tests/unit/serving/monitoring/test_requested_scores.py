"""What a run is asked to do with days that are due: by which version they are scored, and as of when labels are known."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.due import Requested
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.retries import REASON
from pipeline_assets.serving.batch import assets as batch_inference
from pipeline_assets.serving.monitoring import assets
from pipeline_assets.serving.monitoring.due import LABELS, SCORES, WATCH
from pipeline_assets.serving.monitoring.sensors import request_of
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets.use_cases.nyc_flights.models import flight_delay

MODEL = flight_delay
FIRST, LAST = date(2013, 5, 1), date(2013, 5, 20)
CLOCK = datetime(2013, 6, 1, tzinfo=UTC)
PREDICTED, DRIFT, JUDGED = (key(name(MODEL.name)) for name in (names.predictions, names.drift, names.performance))


def asked_for(what: str) -> dg.RunRequest:
    """The run over days in May that are due for this."""
    asked = Requested(what=what, first=FIRST, last=LAST, mark=7, asked_on=date(2024, 1, 1))
    return request_of(MODEL, asked, {what: {FIRST: 3, FIRST + timedelta(days=1): 9, LAST: 7}}, CLOCK)


def test_days_are_scored_by_the_version_that_they_began_with() -> None:
    """Regression: days that were made again were scored by a champion that had learned from them, and it was judged on that."""
    request = asked_for(SCORES)

    assert request.run_config["ops"][PREDICTED.to_python_identifier()]["config"] == {"version": "as_of"}
    assert request.asset_selection is None
    assert request.tags == {**names.range_tags(FIRST, LAST), REASON: "vectors of 2 days are newer than their scores"}


@pytest.mark.parametrize(("what", "made"), [(SCORES, [PREDICTED, DRIFT, JUDGED]), (WATCH, [DRIFT, JUDGED]), (LABELS, [JUDGED])])
def test_labels_count_as_far_as_data_go(what: str, made: list[dg.AssetKey]) -> None:
    """Each run says as of when it judges, and Dagster takes what it says: it names no asset that the run does not make."""
    request, project = asked_for(what), Project(use_cases=(use_case,))
    own = [*(batch_inference.defs(project).assets or ()), *(assets.defs(project).assets or ())]
    job = dg.define_asset_job("asked", selection=dg.AssetSelection.assets(*made))
    resolved = dg.Definitions(assets=own, jobs=[job], resources={"platform": Platform()}).resolve_job_def("asked")

    assert (request.asset_selection or made) == made
    assert request.run_config["ops"][JUDGED.to_python_identifier()]["config"] == {"as_of": CLOCK.isoformat()}
    assert dg.validate_run_config(resolved, request.run_config)["ops"].keys() >= request.run_config["ops"].keys()
