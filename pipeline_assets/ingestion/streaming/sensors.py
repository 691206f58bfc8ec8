"""The sensors that materialize what arrived, and that watch whether anything arrives.

What landed is typed; the days that received events are materialized again, per use case. None of them reads an event: they compare the
snapshots of the lake's tables with those in their cursors, and read the state that the services report. Many commits between two ticks make
one run.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.project import Project, Span
from pipeline_assets.core.resources import (
    Able,
    Platform,
    checks_of,
    cursor_of,
    dagster_errors,
    key,
    last_day,
    last_recorded,
    run_key,
    without_stopped,
)
from pipeline_assets.core.retries import REASON, Tries
from pipeline_assets.core.sensors import being_scored, is_running
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import connectors_of, is_applied, obstacles_of, topics_of
from pipeline_assets.ingestion.streaming.health import flow as health
from pipeline_assets.ingestion.streaming.streams import ChangeLog, change_log, followed, followed_table, record_streams, streams_behind
from pipeline_assets.spec.sources import Source
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    from pipeline_assets.ingestion.streaming.health.arrivals import Arrived, Snapshots, Touched
    from pipeline_assets.ingestion.streaming.health.days import Pending
    from pipeline_assets.ingestion.streaming.health.watch import Seen

# The daemon evaluates its sensors every five seconds, and an interval of five is missed by a hair at every other tick. So these are each
# tick, as what landed is waited for, and every other: each takes processor time from the runs.
LANDED_SECONDS, SECONDS = 4, 9
HEALTH_SECONDS = 15
# Health is recorded when something fails or recovers, and else so often.
RECORDED_EVERY = timedelta(minutes=2)
# What lands in a burst is typed bit by bit; days wait so long for the rest of it, and no longer, as a stream may never pause.
BURST = timedelta(seconds=30)
# A run over days takes followed tables to dbt, too. A change waits so long for such a run to end before one of its own is requested.
ALONG = timedelta(minutes=3)
DAILY_AUDIT = "0 5 * * *"


def defs(project: Project, checks: Sequence[dg.AssetCheckKey] = ()) -> dg.Definitions:
    """The sensors of all streams, one for the days of each use case and of the platform, and the daily audit; all are on.

    There are none where there is no stream.

    checks: those that typing itself evaluates. A run of some of the typed tables must name them.
    """
    if not record_streams(project):
        return dg.Definitions()
    of_days = [_days_changed(project, home) for home in project.homes if streams_behind(project, home)]
    of_tables = [_tables_changed(project)] if followed(project) else []
    daily = dg.ScheduleDefinition(
        name=names.AUDIT_DAILY,
        job_name=names.AUDIT_SOURCES,
        cron_schedule=DAILY_AUDIT,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Reconciles all topics and followed tables with the lake, once a day.",
    )
    return dg.Definitions(sensors=[_records_landed(project, checks), *of_days, *of_tables, _stream_health(project)], schedules=[daily])


def _records_landed(project: Project, checks: Sequence[dg.AssetCheckKey]) -> dg.SensorDefinition:
    streams = record_streams(project)

    @dg.sensor(
        name=names.RECORDS_LANDED,
        job_name=names.TYPE_RECORDS,
        minimum_interval_seconds=LANDED_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has records typed of which Kafka Connect has landed more. The cursor holds the landing snapshots that were seen.",
    )
    def landed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        from pipeline_assets.ingestion.streaming.health.arrivals import landed_snapshots, untyped

        if is_running(context, names.TYPE_RECORDS):
            return dg.SkipReason("Records are being typed; what lands meanwhile is for the next run.")
        with dagster_errors():
            snapshots = landed_snapshots(platform.settings, streams)
            waiting = untyped(platform.settings, streams) if snapshots != cursor_of(context) else []
        if not waiting:
            return dg.SkipReason("Nothing has landed since the last run.")
        # A table that has nothing to type would take the others half a second.
        tables = [key(names.typed(stream.contract.name)) for stream in waiting]
        own = [check for check in checks if check.asset_key in tables]
        request = dg.RunRequest(run_key=run_key(snapshots), asset_selection=tables, asset_check_keys=own)
        return dg.SensorResult(run_requests=[request], cursor=json.dumps(snapshots))

    return landed


def job_of_days(project: Project, home: UseCase) -> str:
    """The job that materializes days which received events."""
    return names.RECORD_PREDICTIONS if home is project.platform else names.build_features(home.name)


def _days_changed(project: Project, use_case: UseCase) -> dg.SensorDefinition:
    streams, job = streams_behind(project, use_case), job_of_days(project, use_case)

    @dg.sensor(
        name=names.days_changed(use_case.name),
        job_name=job,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Materializes the days that received events, those of decisions about them and those after them, in one run, once they "
        "have ended. The cursor holds the snapshots seen, and the days that have not ended.",
    )
    def changed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        from pipeline_assets.ingestion.streaming.health.arrivals import touched, untyped

        if is_running(context, job):
            return dg.SkipReason("Days are being materialized; what is typed meanwhile is for the next run.")
        before = cursor_of(context, _pending, _snapshots)
        with dagster_errors():
            found = touched(platform.settings, streams, _snapshots(before))
            is_new = found.since is not None and datetime.now(UTC) - found.since < BURST
            is_burst = is_new and bool(untyped(platform.settings, streams))
        if is_burst:
            return dg.SkipReason("More has landed than is typed; the days are materialized once it is, or half a minute later.")
        able = partial(without_stopped, context, project, job)
        scored = partial(being_scored, context, use_case)
        return _days_result(use_case, project.span_of(use_case), found, _pending(before), able, scored)

    return changed


def _days_result(
    use_case: UseCase,
    span: Span,
    found: "Touched",
    before: "Pending",
    able: Callable[[], Able],
    scored: Callable[[tuple[date, date]], str | None],
) -> dg.SensorResult | dg.SkipReason:
    """The run over the stale days that have ended, if there are any, and in the cursor what is left for later.

    able: what can go on. scored: why days wait for those who score them.
    """
    from pipeline_assets.ingestion.streaming.health.days import bounded, pending_days, reach_of, reason_of, stale_days

    reach, ended = reach_of(use_case), last_day(span)
    if before.open_day is not None:
        found = replace(found, days=sorted({*found.days, before.open_day}))
    after = pending_days(found, reach, span, ended, datetime.now(UTC).date(), before.due)
    stale, later = bounded(None if ended is None else stale_days(found, reach, span.first, ended, before.due))
    cursor = json.dumps(
        {
            "snapshots": dict(found.snapshots),
            "open_day": after.open_day and after.open_day.isoformat(),
            "due_days": [day.isoformat() for day in sorted({*later, *after.due})],
        }
    )
    if stale is None:
        return dg.SensorResult(skip_reason="No day that has ended received events since the last run.", cursor=cursor)
    tags = {**names.range_tags(*stale), REASON: reason_of(found, stale)}
    if (reason := scored(stale)) is not None:
        return dg.SkipReason(reason)
    made = able()
    request = dg.RunRequest(run_key=run_key(found.snapshots, *stale), asset_selection=made.assets, asset_check_keys=made.checks, tags=tags)
    return dg.SensorResult(run_requests=[request], cursor=cursor)


def _snapshots(cursor: Mapping[str, Any]) -> "Snapshots":
    """The snapshots that were seen, by contract."""
    return _numbers(cursor.get("snapshots", {}))


def _numbers(snapshots: Mapping[str, Any]) -> "Snapshots":
    return {name: int(number) for name, number in snapshots.items()}


def _remembered(cursor: Mapping[str, Any]) -> tuple[dict[str, health.Memory], dict[str, health.Restarts]]:
    return health.load(cursor.get("remembered", {}))


def _tries(cursor: Mapping[str, Any]) -> Tries:
    """How often connectors were asked for that are lacking still."""
    last_at = datetime.fromisoformat(cursor["asked_at"]).astimezone(UTC) if cursor.get("asked_at") else None
    return Tries(number=int(cursor.get("tries", 0)), last_at=last_at)


def _positions(cursor: Mapping[str, Any]) -> dict[str, object]:
    """How far topics had come, by asset."""
    return dict(cursor.get("arrived", {}).items())


def _pending(cursor: Mapping[str, Any]) -> "Pending":
    from pipeline_assets.ingestion.streaming.health.days import Pending

    open_day = date.fromisoformat(cursor["open_day"]) if cursor.get("open_day") else None
    return Pending(open_day=open_day, due=[date.fromisoformat(day) for day in cursor.get("due_days", ())])


def _tables_changed(project: Project) -> dg.SensorDefinition:
    logs = [change_log(source) for source in followed(project)]
    of_days = [names.build_features(use_case.name) for use_case in project.use_cases]

    @dg.sensor(
        name=names.TABLES_CHANGED,
        job_name=names.UPDATE_FOLLOWED_TABLES,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Takes followed tables to dbt once they changed. The cursor holds the snapshots of their change logs that were seen.",
    )
    def changed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        from pipeline_assets.ingestion.streaming.health.arrivals import touched

        if is_running(context, names.UPDATE_FOLLOWED_TABLES):
            return dg.SkipReason("Tables are being updated; what changes meanwhile is for the next run.")
        with dagster_errors():
            found = touched(platform.settings, logs, _numbers(cursor_of(context, _numbers)))
            absent = [log for log in logs if log.contract.name not in found.snapshots]
            refused = obstacles_of(platform.settings, project) if found.days and absent else {}
        if not found.days or any(followed_table(log.source) not in refused for log in absent):
            return dg.SkipReason("No table has changed since the last run, or one has no changes in the lake yet.")
        is_new = found.since is not None and datetime.now(UTC) - found.since < ALONG
        if is_new and is_running(context, *of_days):
            return dg.SkipReason("Days are being materialized, and tables with them; what is left is updated then, or some minutes later.")
        there = [log for log in logs if log not in absent]
        behind = [log for log in there if _taken(context.instance, project, log.source) != str(found.snapshots[log.contract.name])]
        able = without_tables(cast("dg.RepositoryDefinition", context.repository_def), absent) if absent else Able()
        request = dg.RunRequest(run_key=run_key(found.snapshots), asset_selection=able.assets, asset_check_keys=able.checks)
        return dg.SensorResult(run_requests=[request] if behind else [], cursor=json.dumps(dict(found.snapshots)))

    return changed


def without_tables(repository: dg.RepositoryDefinition, absent: Sequence[ChangeLog]) -> Able:
    """What a run that updates followed tables makes without tables that cannot be followed: nothing that is made of these."""
    tables = [key(names.staged(log.source.contract.name)) for log in absent]
    below = dg.AssetSelection.assets(*tables).downstream().resolve(repository.asset_graph)
    left = repository.get_job(names.UPDATE_FOLLOWED_TABLES).asset_layer.selected_asset_keys - below
    return Able(assets=sorted(left), checks=checks_of(repository, names.UPDATE_FOLLOWED_TABLES, left))


def _taken(instance: dg.DagsterInstance, project: Project, source: Source) -> str | None:
    """The snapshot of its change log that a table was staged from, if the run that did it last took it to dbt as well, and succeeded.

    A run over the days of one use case takes it to the models of that use case alone: for a table that several share it does not count.
    """
    from pipeline_assets.ingestion.streaming.staged.state import LOG_SNAPSHOT

    event = instance.get_latest_materialization_event(key(names.staged(source.contract.name)))
    run = instance.get_run_by_id(event.run_id) if event is not None else None
    if event is None or event.asset_materialization is None or run is None or not run.is_success or run.asset_selection:
        return None
    homes = project.homes_of(source.contract)
    of_days = [names.build_features(homes[0].name)] if len(homes) == 1 else []
    snapshot = event.asset_materialization.metadata.get(LOG_SNAPSHOT)
    return str(snapshot.value) if run.job_name in {names.UPDATE_FOLLOWED_TABLES, *of_days} and snapshot is not None else None


def _stream_health(project: Project) -> dg.SensorDefinition:
    @dg.sensor(
        name=names.STREAM_HEALTH,
        job_name=names.APPLY_CONNECTORS,
        minimum_interval_seconds=HEALTH_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has connectors run as they are declared, restarts failed ones, and records consumer lag and what has stalled. "
        "Connectors that cannot be applied are tried again, later each time.",
    )
    def watched(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        from pipeline_assets.ingestion.streaming.health.arrivals import arrived
        from pipeline_assets.ingestion.streaming.health.watch import Watch, look

        before = cursor_of(context, last_recorded, _remembered, _positions, _tries)
        memories, restarts = _remembered(before)
        watch = Watch(now=datetime.now(UTC), memories=memories, restarts=restarts)
        with dagster_errors(), open_connect(platform.settings) as connect:
            look(platform.settings, connect, project, watch)
            declared, verdicts = connectors_of(project), watch.verdicts
            lacking = [one.name for one in declared if not is_applied(platform.settings, watch.running, one, verdicts.get(one.name))]
        tries = _tries(before) if lacking else Tries()
        requests = [dg.RunRequest()] if lacking and tries.are_due(watch.now) and not is_running(context, names.APPLY_CONNECTORS) else []
        tries = tries.with_one_at(watch.now) if requests else tries
        wrong = sorted("/".join(asset) for asset, seen in watch.seen.items() if seen.trouble)
        recorded_at = last_recorded(before)
        asked = {"tries": tries.number, "asked_at": tries.last_at and tries.last_at.isoformat()}
        cursor = {**before, **asked, "wrong": wrong, "remembered": health.dump(watch.memories, watch.restarts)}
        if recorded_at is not None and wrong == before.get("wrong") and watch.now - recorded_at < RECORDED_EVERY:
            return dg.SensorResult(run_requests=requests, cursor=json.dumps(cursor))
        with dagster_errors():
            come = arrived(platform.settings, topics_of(project))
        positions = {"/".join(asset): one.position for asset, one in come.items()}
        cursor |= {"recorded_at": watch.now.isoformat(), "arrived": positions}
        news = [_arrival(asset, one) for asset, one in come.items() if _positions(before).get("/".join(asset)) != one.position]
        seen = [event for asset, one in watch.seen.items() for event in _events(asset, one)]
        return dg.SensorResult(run_requests=requests, asset_events=[*news, *seen], cursor=json.dumps(cursor))

    return watched


def _events(asset: names.AssetName, seen: "Seen") -> list[dg.AssetObservation | dg.AssetCheckEvaluation]:
    """What was seen of an asset, as the UI shows it."""
    check = dg.AssetCheckEvaluation(
        asset_key=key(asset),
        check_name=names.IS_PROGRESSING,
        passed=seen.trouble is None,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={} if seen.trouble is None else {"problem": seen.trouble, "what to do": seen.todo},
    )
    return [dg.AssetObservation(key(asset), metadata=dict(seen.numbers)), check]


def _arrival(asset: names.AssetName, arrived: "Arrived") -> dg.AssetMaterialization:
    """That more has come to what others write to: so Dagster knows how fresh it is."""
    return dg.AssetMaterialization(key(asset), metadata=dict(arrived.numbers))
