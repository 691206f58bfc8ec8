"""The sensor that turns a failed check into a request for retraining; the gate decides what becomes of it."""

from datetime import date

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import UNFINISHED, Platform, dagster_errors
from pipeline_assets.serving.monitoring.feedback import asked_for
from pipeline_assets.spec.use_case import UseCase

SECONDS = 60


def retraining(use_case: UseCase) -> dg.SensorDefinition:
    """Asks for a retraining when drift or performance of a day fails; never two at once, and once in the monitor's cool-down.

    The cursor is the day that last asked, and the run key holds it too: a tick that is repeated asks for the same run.
    """
    monitor = use_case.monitor
    model = monitor.model.name

    @dg.sensor(
        name=f"retrain_{model}",
        job_name=names.TRAIN,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Asks for a retraining of {model} when a day drifted or was predicted badly; the gate decides what becomes of it.",
    )
    def retrain(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if context.instance.get_runs(dg.RunsFilter(job_name=names.TRAIN, statuses=UNFINISHED), limit=1):
            return dg.SkipReason("A training run is under way.")
        with dagster_errors():
            asked = asked_for(platform.settings, monitor, date.fromisoformat(context.cursor) if context.cursor else None)
        if asked is None:
            return dg.SkipReason("No day has failed since the last retraining and its cool-down.")
        op = "__".join(names.training_set(model))
        request = dg.RunRequest(
            run_key=f"{model}-{asked.day}",
            run_config={"ops": {op: {"config": {"as_of": asked.as_of.isoformat()}}}},
            tags={"pipeline/reason": asked.reason, "pipeline/day": asked.day.isoformat()},
        )
        return dg.SensorResult(run_requests=[request], cursor=asked.day.isoformat())

    return retrain
