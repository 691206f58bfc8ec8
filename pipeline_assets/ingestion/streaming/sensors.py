"""The sensors that move the graph when events come: what landed is typed, and the days that got events are materialized again.

None of them reads an event: they look at the snapshots of the lake's tables. Many commits between two ticks make one run.
"""

import json
from collections.abc import Mapping
from hashlib import sha256

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import UNFINISHED, Platform, dagster_errors
from pipeline_assets.ingestion.streaming.progress import landed_snapshots, stale_days, touched
from pipeline_assets.spec.use_case import UseCase

SECONDS = 5


def defs(use_case: UseCase) -> dg.Definitions:
    """The sensors of the use case's streams, which are on; none where it has no stream."""
    return dg.Definitions(sensors=[_landed(use_case), _typed(use_case)] if use_case.streams else [])


def _landed(use_case: UseCase) -> dg.SensorDefinition:
    @dg.sensor(
        name="events_landed",
        job_name=names.TYPE_EVENTS,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has events typed once Kafka Connect has landed more. The cursor holds the landing snapshots that were seen.",
    )
    def landed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if _is_running(context, names.TYPE_EVENTS):
            return dg.SkipReason("Events are being typed; what lands meanwhile is for the next run.")
        with dagster_errors():
            snapshots = landed_snapshots(platform.settings, use_case.streams)
        if snapshots == _cursor(context):
            return dg.SkipReason("Nothing has landed since the last run.")
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=_key(snapshots))], cursor=json.dumps(snapshots))

    return landed


def _typed(use_case: UseCase) -> dg.SensorDefinition:
    @dg.sensor(
        name="events_typed",
        job_name=names.BUILD_FEATURES,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Materializes the days that got events, and those after them, in one run. The cursor holds the snapshots seen.",
    )
    def typed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if _is_running(context, names.BUILD_FEATURES):
            return dg.SkipReason("Days are being materialized; what is typed meanwhile is for the next run.")
        with dagster_errors():
            found = touched(platform.settings, use_case.streams, _cursor(context))
        span = stale_days(found, use_case.first_day, use_case.last_day)
        cursor = json.dumps(dict(found.snapshots))
        if span is None:
            return dg.SensorResult(skip_reason="No day has got events since the last run.", cursor=cursor)
        request = dg.RunRequest(
            run_key=_key(found.snapshots), tags={**names.range_tags(*span), "pipeline/reason": f"{len(found.days)} days got events"}
        )
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return typed


def _is_running(context: dg.SensorEvaluationContext, job: str) -> bool:
    return bool(context.instance.get_runs(dg.RunsFilter(job_name=job, statuses=UNFINISHED), limit=1))


def _cursor(context: dg.SensorEvaluationContext) -> Mapping[str, int]:
    return json.loads(context.cursor) if context.cursor else {}


def _key(snapshots: Mapping[str, int]) -> str:
    """A name for these snapshots: the same tick, repeated, asks for the same run."""
    return sha256(json.dumps(dict(snapshots), sort_keys=True).encode()).hexdigest()[:16]
