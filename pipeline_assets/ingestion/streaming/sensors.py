"""The sensors that move the graph when events come, and that watch whether they come.

What landed is typed; the days that got events are materialized again. None of them reads an event: they look at the snapshots of the lake's
tables, and at what the services say of themselves. Many commits between two ticks make one run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import UNFINISHED, Platform, dagster_errors, days, key
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import connectors_of, is_applied, topics_of
from pipeline_assets.ingestion.streaming.health import flow as health
from pipeline_assets.ingestion.streaming.health.arrivals import (
    Arrived,
    arrived,
    landed_snapshots,
    open_day_of,
    stale_days,
    touched,
    untyped,
)
from pipeline_assets.ingestion.streaming.health.watch import Seen, Watch, look
from pipeline_assets.ingestion.streaming.streams import change_log, followed, record_streams
from pipeline_assets.spec.sources import Source
from pipeline_assets.spec.use_case import UseCase

# The daemon looks at its sensors every five seconds, and an interval of five is missed by a hair at every other look. So these are each
# look, as what landed is waited for, and every other: each tick takes processor time from the runs.
LANDED_SECONDS, SECONDS = 4, 9
WATCH_SECONDS = 15
# What is seen is told when something is wrong or mended, and else so often.
TOLD_EVERY = timedelta(minutes=2)
# What lands in a burst is typed bit by bit; days wait so long for the rest of it, and no longer, as a stream may never pause.
BURST = timedelta(seconds=30)
# A run over days takes followed tables to dbt, too. A change waits so long for such a run to end before one of its own is asked for.
ALONG = timedelta(minutes=3)
LOG_SNAPSHOT = "log_snapshot_id"
GETS_ON = "gets_on"
VERIFIED_AT = "0 5 * * *"


def defs(use_case: UseCase, checks: Sequence[dg.AssetCheckKey] = ()) -> dg.Definitions:
    """The sensors of the use case's streams, and the daily look of the integrity oracle, which are on; none where it has no stream.

    checks: those that typing itself tells. A run of some of the typed tables must name them.
    """
    if not record_streams(use_case):
        return dg.Definitions()
    daily = dg.ScheduleDefinition(
        name="integrity_verified",
        job_name=names.VERIFY,
        cron_schedule=VERIFIED_AT,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Holds all topics and followed tables against the lake, once a day.",
    )
    return dg.Definitions(sensors=[_landed(use_case, checks), _typed(use_case), _changed(use_case), _watched(use_case)], schedules=[daily])


def _landed(use_case: UseCase, checks: Sequence[dg.AssetCheckKey]) -> dg.SensorDefinition:
    streams = record_streams(use_case)

    @dg.sensor(
        name="events_landed",
        job_name=names.TYPE_EVENTS,
        minimum_interval_seconds=LANDED_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has events typed of which Kafka Connect has landed more. The cursor holds the landing snapshots that were seen.",
    )
    def landed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if _is_running(context, names.TYPE_EVENTS):
            return dg.SkipReason("Events are being typed; what lands meanwhile is for the next run.")
        with dagster_errors():
            snapshots = landed_snapshots(platform.settings, streams)
            waiting = untyped(platform.settings, streams) if snapshots != _cursor(context) else []
        if not waiting:
            return dg.SkipReason("Nothing has landed since the last run.")
        # A table that has nothing to type would take the others half a second.
        tables = [key(names.typed(stream.contract.name)) for stream in waiting]
        told = [check for check in checks if check.asset_key in tables]
        request = dg.RunRequest(run_key=_key(snapshots), asset_selection=tables, asset_check_keys=told)
        return dg.SensorResult(run_requests=[request], cursor=json.dumps(snapshots))

    return landed


def _typed(use_case: UseCase) -> dg.SensorDefinition:
    @dg.sensor(
        name=names.EVENTS_TYPED,
        job_name=names.BUILD_FEATURES,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Materializes the days that got events, the day before and those after them, in one run, once they have ended. "
        "The cursor holds the snapshots seen, and the first day with events that has not ended.",
    )
    def typed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if _is_running(context, names.BUILD_FEATURES):
            return dg.SkipReason("Days are being materialized; what is typed meanwhile is for the next run.")
        before = _cursor(context)
        with dagster_errors():
            found = touched(platform.settings, use_case.streams, before.get("snapshots", {}))
            is_burst = (
                found.since is not None and datetime.now(UTC) - found.since < BURST and bool(untyped(platform.settings, use_case.streams))
            )
        if is_burst:
            return dg.SkipReason("More has landed than is typed; the days are materialized once it is, or half a minute later.")
        waiting = [date.fromisoformat(before["open_day"])] if before.get("open_day") else []
        found = replace(found, days=sorted({*found.days, *waiting}))
        ended = _last_day(use_case)
        open_day = open_day_of(found, ended, datetime.now(UTC).date())
        cursor = json.dumps({"snapshots": dict(found.snapshots), "open_day": open_day and open_day.isoformat()})
        span = None if ended is None else stale_days(found, use_case.first_day, ended)
        if span is None:
            return dg.SensorResult(skip_reason="No day that has ended got events since the last run.", cursor=cursor)
        told = {**names.range_tags(*span), "pipeline/reason": f"{len(found.days)} days got events"}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=_key(found.snapshots, *span), tags=told)], cursor=cursor)

    return typed


def _last_day(use_case: UseCase) -> date | None:
    """The last day that is a partition by now: a day is one when it has ended. None before the first has."""
    last = days(use_case).get_last_partition_key()
    return None if last is None else date.fromisoformat(last)


def _changed(use_case: UseCase) -> dg.SensorDefinition:
    logs = [change_log(source) for source in followed(use_case)]

    @dg.sensor(
        name="tables_changed",
        job_name=names.FOLLOW_TABLES,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Takes followed tables to dbt once they changed. The cursor holds the snapshots of their change logs that were seen.",
    )
    def changed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if _is_running(context, names.FOLLOW_TABLES):
            return dg.SkipReason("Tables are being followed; what changes meanwhile is for the next run.")
        with dagster_errors():
            found = touched(platform.settings, logs, _cursor(context))
        if not found.days or found.snapshots.keys() != {log.contract.name for log in logs}:
            return dg.SkipReason("No table has changed since the last run, or one has told nothing yet.")
        is_new = found.since is not None and datetime.now(UTC) - found.since < ALONG
        if is_new and _is_running(context, names.BUILD_FEATURES):
            return dg.SkipReason("Days are being materialized, and tables with them; what is left is followed then, or some minutes later.")
        behind = [log for log in logs if _taken(context.instance, log.source) != str(found.snapshots[log.contract.name])]
        request = dg.RunRequest(run_key=_key(found.snapshots))
        return dg.SensorResult(run_requests=[request] if behind else [], cursor=json.dumps(dict(found.snapshots)))

    return changed


def _taken(instance: dg.DagsterInstance, source: Source) -> str | None:
    """The snapshot of its change log that a table was staged from, if the run that did it last took it to dbt as well, and went well."""
    event = instance.get_latest_materialization_event(key(names.staged(source.contract.name)))
    run = instance.get_run_by_id(event.run_id) if event is not None else None
    if event is None or event.asset_materialization is None or run is None or not run.is_success:
        return None
    is_whole = run.job_name in {names.FOLLOW_TABLES, names.BUILD_FEATURES} and not run.asset_selection
    told = event.asset_materialization.metadata.get(LOG_SNAPSHOT)
    return str(told.value) if is_whole and told is not None else None


def _watched(use_case: UseCase) -> dg.SensorDefinition:
    @dg.sensor(
        name="streams_watched",
        job_name=names.CONNECT_STREAMS,
        minimum_interval_seconds=WATCH_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has connectors run as they are declared, starts failed ones again, and tells of lag and of what stands still.",
    )
    def watched(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        before = _cursor(context)
        memories, restarts = health.load(before.get("remembered", {}))
        watch = Watch(now=datetime.now(UTC), memories=memories, restarts=restarts)
        with dagster_errors(), open_connect(platform.settings) as connect:
            look(platform.settings, connect, use_case, watch)
            lacking = [one.name for one in connectors_of(use_case) if not is_applied(platform.settings, connect, one)]
        wrong = sorted("/".join(asset) for asset, seen in watch.seen.items() if seen.trouble)
        told_at = datetime.fromisoformat(before["told_at"]) if "told_at" in before else None
        tell = told_at is None or wrong != before.get("wrong") or watch.now - told_at >= TOLD_EVERY
        with dagster_errors():
            come = arrived(platform.settings, topics_of(use_case)) if tell else {}
        cursor = {
            "told_at": (watch.now if tell or told_at is None else told_at).isoformat(),
            "wrong": wrong,
            "remembered": health.dump(watch.memories, watch.restarts),
            "arrived": {"/".join(asset): one.position for asset, one in come.items()} if tell else before.get("arrived", {}),
        }
        news = [_arrival(asset, one) for asset, one in come.items() if before.get("arrived", {}).get("/".join(asset)) != one.position]
        seen = [event for asset, one in watch.seen.items() for event in _events(asset, one)]
        return dg.SensorResult(
            run_requests=[dg.RunRequest()] if lacking and not _is_running(context, names.CONNECT_STREAMS) else [],
            asset_events=[*news, *seen] if tell else [],
            cursor=json.dumps(cursor),
        )

    return watched


def _events(asset: names.AssetName, seen: Seen) -> list[dg.AssetObservation | dg.AssetCheckEvaluation]:
    """What was seen of an asset, as the UI shows it."""
    told = {} if seen.trouble is None else {"what": seen.trouble, "what to do": seen.todo}
    check = dg.AssetCheckEvaluation(
        asset_key=key(asset), check_name=GETS_ON, passed=seen.trouble is None, severity=dg.AssetCheckSeverity.ERROR, metadata=told
    )
    return [dg.AssetObservation(key(asset), metadata=dict(seen.numbers)), check]


def _arrival(asset: names.AssetName, arrived: Arrived) -> dg.AssetMaterialization:
    """That more has come to what others write to: so Dagster knows how fresh it is."""
    return dg.AssetMaterialization(key(asset), metadata=dict(arrived.numbers))


def _is_running(context: dg.SensorEvaluationContext, job: str) -> bool:
    return bool(context.instance.get_runs(dg.RunsFilter(job_name=job, statuses=UNFINISHED), limit=1))


def _cursor(context: dg.SensorEvaluationContext) -> dict[str, Any]:
    return json.loads(context.cursor) if context.cursor else {}


def _key(snapshots: Mapping[str, int], *span: date) -> str:
    """A name for these snapshots, and days: the same tick, repeated, asks for the same run."""
    told = [dict(snapshots), *map(str, span)] if span else dict(snapshots)
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
