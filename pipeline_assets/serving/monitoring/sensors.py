"""The sensor that turns a failed check into a request for retraining; the gate decides what becomes of it."""

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import UNFINISHED, Platform, dagster_errors
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.serving.monitoring.feedback import Retraining

SECONDS = 60


def retraining(model: Model) -> dg.SensorDefinition:
    """Requests a retraining when drift or performance of a day fails; never two of a model at once, and once in its cool-down.

    The cursor is the day that last asked, and the run key holds it too: a tick that is repeated requests the same run.
    """

    @dg.sensor(
        name=names.retrain(model.name),
        job_name=names.train(model.name),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests a retraining of {model.name} when a day drifted or was predicted badly; the gate decides on the result.",
    )
    def retrain(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        from pipeline_assets.serving.monitoring.feedback import asked_for

        if _is_training(context, model):
            return dg.SkipReason(f"A run of {names.train(model.name)} is under way.")
        with dagster_errors():
            asked = asked_for(platform.settings, model, _day_of(context))
        if asked is None:
            return dg.SkipReason("No day has failed since the last retraining and its cool-down.")
        if not asked.is_due:
            until = asked.as_of.isoformat()
            return dg.SkipReason(
                f"{asked.day} failed ({asked.reason}). Its labels have matured at {until}; the vectors do not go as far yet."
            )
        return dg.SensorResult(run_requests=[_request(model, asked)], cursor=asked.day.isoformat())

    return retrain


def _day_of(context: dg.SensorEvaluationContext) -> date | None:
    """The day that asked last; None before the first, and where the cursor was damaged: what tables say then counts alone."""
    try:
        return date.fromisoformat(context.cursor) if context.cursor else None
    except ValueError:
        context.log.warning("The cursor '%s' is no day. The sensor starts again from what tables say.", context.cursor)
        return None


def _request(model: Model, asked: "Retraining") -> dg.RunRequest:
    op = "__".join(names.training_set(model.name))
    return dg.RunRequest(
        run_key=f"{model.name}-{asked.day}",
        run_config={"ops": {op: {"config": {"as_of": asked.as_of.isoformat()}}}},
        tags={"pipeline/reason": asked.reason, "pipeline/day": asked.day.isoformat()},
    )


def _is_training(context: dg.SensorEvaluationContext, model: Model) -> bool:
    """Whether a run of the model's job is unfinished; a job of that name in another code location is another job."""
    here = context.code_location_origin
    runs = context.instance.get_runs(dg.RunsFilter(job_name=names.train(model.name), statuses=UNFINISHED))
    origins = [run.remote_job_origin for run in runs]
    places = [None if origin is None else origin.location_name for origin in origins]
    return any(here is None or place is None or place == here.location_name for place in places)
