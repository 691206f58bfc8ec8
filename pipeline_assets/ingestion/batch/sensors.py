"""The sensors that load: days that have ended, sources without days in time, and files that are new, changed or gone; they read none."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import cast

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.clocks import is_live
from pipeline_assets.core.due import MOST_DAYS, Due, Requested, oldest_range, remembered, still_due, wait
from pipeline_assets.core.project import Project, Span, days_between, sources_of
from pipeline_assets.core.resources import (
    Able,
    Platform,
    checks_of,
    cursor_of,
    dagster_errors,
    key,
    last_day,
    made_at,
    newest,
    run_key,
    switched,
    without_stopped,
)
from pipeline_assets.core.retries import REASON
from pipeline_assets.core.sensors import being_scored, ended_by_others, is_running, unfinished_of
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.due import asked_range, complete_day, due_days, period, slot
from pipeline_assets.spec.sources import Files, PostgresTable, Source
from pipeline_assets.spec.use_case import UseCase

SECONDS, LOAD_SECONDS = 29, 60
# By source and day a digest of the files that there are; of a source whose files are read once, of those that were not read yet.
Seen = dict[str, dict[str, str]]
UNREAD = "unread"
# The rooms that a run over new files goes through; what comes after them goes by the day.
ROOMS = (names.BATCH_INGESTION, names.LAKE, names.CLEANING)


def defs(project: Project) -> dg.Definitions:
    """The sensors of each use case: one if it has files that are read by the day or by what is new, one if it has anything else to load."""
    declared = [(use_case, [one for one in use_case.sources if _is_watched(one)]) for use_case in project.use_cases]
    files = [_files_changed(project, use_case, sources) for use_case, sources in declared if sources]
    others = [_loading(project, one) for one in project.use_cases if _by_day(one) or _wholes(project, one)]
    return dg.Definitions(sensors=[*files, *others])


def _loading(project: Project, use_case: UseCase) -> dg.SensorDefinition:
    """Requests the days that have ended and that nobody made, and sources that are loaded as a whole, in time for what they promise.

    The oldest days first, a bounded number at once. None is requested after days whose run failed, as what is made of them reaches back.
    """
    job, name = names.build_features(use_case.name), names.load(use_case.name)

    @dg.sensor(
        name=name,
        job_name=job,
        minimum_interval_seconds=LOAD_SECONDS,
        default_status=switched(use_case, "load"),
        description=f"Has days loaded that have ended, and all made that is made of them, in runs of {MOST_DAYS} days, oldest first; and "
        "sources without days, twice in the time that they promise. The cursor holds what was requested and is still due.",
    )
    def load(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if (busy := unfinished_of(context, job, names.APPLY_CONNECTORS)) is not None:
            return dg.SkipReason(f"A run of {busy} is under way.")
        memory, now = remembered(cursor_of(context, remembered)), datetime.now(UTC)
        state, stale = _state(context.instance, project, use_case, now), _stale_wholes(context.instance, project, use_case, now)
        if state == memory.settled and not stale:
            return dg.SkipReason(_nothing(job, ()))
        with dagster_errors():
            due = _due(context.instance, platform, project, use_case, now) if state != memory.settled else {}
        held = still_due(due, memory.requested, now.date())
        asked = None if held else oldest_range(due, (), now.date())
        memory = replace(memory, requested=held, settled=None if held or asked is not None else state)
        if asked is None and not stale:
            return dg.SensorResult(skip_reason=_nothing(job, held), cursor=json.dumps(replace(memory, since=None).as_json()))
        memory = replace(memory, since=memory.since or now)
        bounds = asked_range(asked, use_case, project.span_of(use_case)) if asked is not None else None
        reason = wait(now, memory.since or now, ended_by_others(context, {name}, job))
        if (reason := reason or (being_scored(context, use_case, bounds) if bounds is not None else None)) is not None:
            return dg.SensorResult(skip_reason=reason, cursor=json.dumps(memory.as_json()))
        if asked is None or bounds is None:
            request = _request_of_wholes(context, job, {source.contract.name: slot(source, now) for source in stale})
            memory = replace(memory, since=None)
        else:
            request = _request_of_days(without_stopped(context, project, job), asked, bounds)
            memory = replace(memory, requested=(*held, asked))
        return dg.SensorResult(run_requests=[request], cursor=json.dumps(memory.as_json()))

    return load


def _by_day(use_case: UseCase) -> list[Source]:
    """The sources that are asked for days: files come by themselves, in the folder that another sensor lists."""
    return [source for source in sources_of(use_case) if source.load == "daily" and not isinstance(source.origin, Files)]


def _wholes(project: Project, use_case: UseCase) -> list[Source]:
    """The sources at home here that are loaded without days, and that nothing else notices the news of."""
    own = [source for source in sources_of(use_case) if project.home_of(source.contract) is use_case]
    return [one for one in own if one.load == "snapshot" or (one.load == "incremental" and not isinstance(one.origin, Files))]


def _targets(use_case: UseCase) -> list[names.AssetName]:
    """What has to be there of a day for it to count as made: vectors, or where there is no model what was loaded."""
    vectors = [names.vectors(model.name) for model in use_case.models]
    return vectors or [names.staged(source.contract.name) for source in _by_day(use_case)]


def _state(instance: dg.DagsterInstance, project: Project, use_case: UseCase, now: datetime) -> str:
    """In which state the days are: another one wherever any may be due that was not before, and every hour. It costs one query."""
    return run_key(newest(instance, _targets(use_case)) | {"hour": f"{now:%Y-%m-%dT%H}", "span": str(project.span_of(use_case))})


def _stale_wholes(instance: dg.DagsterInstance, project: Project, use_case: UseCase, now: datetime) -> list[Source]:
    """The sources without days whose last load is so old that they are loaded again."""
    wholes = {key(names.staged(source.contract.name)): source for source in _wholes(project, use_case)}
    records = [record.asset_entry.last_materialization_record for record in instance.get_asset_records(list(wholes))] if wholes else []
    loaded = {record.asset_key: datetime.fromtimestamp(record.timestamp, UTC) for record in records if record is not None}
    return [source for asset, source in wholes.items() if asset not in loaded or now - loaded[asset] >= period(source)]


def _due(instance: dg.DagsterInstance, platform: Platform, project: Project, use_case: UseCase, now: datetime) -> Due:
    """The days that are due by now."""
    if not _by_day(use_case):
        return {}
    made = [made_at(instance, target) for target in _targets(use_case)]
    return due_days(project.span_of(use_case).first, _reach(platform, project, use_case, now), made)


def _reach(platform: Platform, project: Project, use_case: UseCase, now: datetime) -> date | None:
    """The last day that can be loaded by now; None where there is none.

    In a replay with streams days come with events, which have their own sensor; before them, there is what streams have of history.
    """
    from pipeline_assets.ingestion.batch.postgres import newest_event

    span, sources = project.span_of(use_case), _by_day(use_case)
    ended = last_day(span)
    last = None if ended is None else min(ended, complete_day(sources, now))
    if is_live(span.last, now.date()) or not use_case.streams:
        return last
    tables = [(one.contract, one.origin) for one in sources if one.contract.name in project.histories]
    if last is None:
        return None
    bounds = (datetime.combine(span.first, time(), UTC), datetime.combine(last + timedelta(days=1), time(), UTC))
    ends = [newest_event(platform.settings, contract, origin, bounds) for contract, origin in tables if isinstance(origin, PostgresTable)]
    return min((end.date() for end in ends if end is not None), default=None)


def _nothing(job: str, held: Sequence[Requested]) -> str:
    if held:
        first, last = held[0].first, held[-1].last
        return f"The run over {first} to {last} failed, or was cancelled; later days wait for it. See the runs of {job}."
    return "All days that have ended are made, and sources without days are as new as promised."


def _request_of_days(able: Able, asked: Requested, bounds: tuple[date, date]) -> dg.RunRequest:
    """A run over days that nobody has made."""
    tags = {**names.range_tags(*bounds), REASON: f"days from {asked.first} to {asked.last} have ended and are not made yet"}
    return dg.RunRequest(run_key=asked.run_key, asset_selection=able.assets, asset_check_keys=able.checks, tags=tags)


def _request_of_wholes(context: dg.SensorEvaluationContext, job: str, slots: Mapping[str, int]) -> dg.RunRequest:
    """A run over sources without days, once in the period of each."""
    repository = cast("dg.RepositoryDefinition", context.repository_def)
    return _request_of(repository, job, slots, list(slots), "they are to be no older than promised")


def _is_watched(source: Source) -> bool:
    return isinstance(source.origin, Files) and source.load in {"daily", "incremental"}


def _files_changed(project: Project, use_case: UseCase, sources: Sequence[Source]) -> dg.SensorDefinition:
    job, span = names.build_features(use_case.name), project.span_of(use_case)

    @dg.sensor(
        name=names.files_changed(use_case.name),
        job_name=job,
        minimum_interval_seconds=SECONDS,
        default_status=switched(use_case, "load"),
        description="Materializes the days that have ended and whose files are new, changed or gone, and sources whose files are read "
        "once, when nobody writes to them any more. The cursor holds what there was of each day, and what was new.",
    )
    def changed(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if is_running(context, job):
            return dg.SkipReason("Days are being materialized; files that came meanwhile are for the next run.")
        before: Seen = cursor_of(context, _days_by_source)
        with dagster_errors():
            now = seen(platform.settings, sources, before)
        ended = _ended_days(span)
        stale, later = _oldest({day for source in now for day in _differing(before.get(source, {}), now[source]) if day in ended})
        if (scored := being_scored(context, use_case, *_spans(stale))) is not None:
            return dg.SkipReason(scored)
        able = without_stopped(context, project, job) if stale else Able()
        requests = [_request(now, able, *bounds) for bounds in _spans(stale)]
        fresh = [source for source in now if UNREAD in now[source] and now[source] != before.get(source)]
        if fresh:
            requests.append(_request_of(cast("dg.RepositoryDefinition", context.repository_def), job, now, fresh, "files are new"))
        kept = {source: _kept(before.get(source, {}), found, {*ended, UNREAD}, later) for source, found in now.items()}
        reason = None if requests else "No day that has ended has files that are new, changed or gone, and no source has new ones."
        return dg.SensorResult(run_requests=requests, skip_reason=reason, cursor=json.dumps(kept))

    return changed


def seen(settings: Settings, sources: Sequence[Source], before: Seen) -> Seen:
    """What there is of each day of each source; of a day with a file that was just changed what there was before.

    Of a source whose files are read once, what was not read yet.
    """
    from pipeline_assets.ingestion.batch.files import days_of, folder_of
    from pipeline_assets.ingestion.batch.new_files import unread_digest

    found, now = Seen(), datetime.now(UTC)
    for source in sources:
        if source.load == "incremental":
            unread = unread_digest(settings, source)
            found[source.contract.name] = {} if unread is None else {UNREAD: unread}
        elif isinstance(source.origin, Files):
            name, files = source.contract.name, folder_of(settings, source.contract, source.origin).found()
            unsettled = {str(file.day) for file in files if not file.is_settled(now)}
            days = {str(day): digest for day, digest in days_of(files).items()}
            settled = {day: digest for day, digest in days.items() if day not in unsettled}
            found[name] = settled | {day: digest for day, digest in before.get(name, {}).items() if day in unsettled}
    return found


def _days_by_source(cursor: Seen) -> Seen:
    return {source: dict(days.items()) for source, days in cursor.items()}


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """The days that have other files than before."""
    yield from (day for day in before.keys() | now.keys() if before.get(day) != now.get(day))


def _oldest(stale: Collection[str]) -> tuple[list[date], set[str]]:
    """The stale days of the first month from the oldest on, in order, and the others, which are for later ticks."""
    days = sorted(map(date.fromisoformat, stale))
    now = [day for day in days if day < days[0] + timedelta(days=MOST_DAYS)]
    return now, set(map(str, days[len(now) :]))


def _kept(before: Mapping[str, str], now: Mapping[str, str], known: Collection[str], later: Collection[str]) -> dict[str, str]:
    """What the cursor holds of a source: what there is of days by now, but of those that are for later what there was."""
    kept = {day: digest for day, digest in now.items() if day in known and day not in later}
    return kept | {day: before[day] for day in later if day in before}


def _ended_days(span: Span) -> set[str]:
    """The days that are partitions by now."""
    last = last_day(span)
    return set() if last is None else set(map(str, days_between(span.first, last)))


def _spans(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Days that follow each other, by their first and last."""
    # Less its place among the days, each of those that follow each other is the same.
    for _, same in groupby(enumerate(days), key=lambda placed: placed[1] - timedelta(days=placed[0])):
        following = [day for _, day in same]
        yield following[0], following[-1]


def _request_of(
    repository: dg.RepositoryDefinition, job: str, now: Mapping[str, object], sources: Sequence[str], reason: str
) -> dg.RunRequest:
    """A run over sources without days, and over what is made of them without days: by what there is `now` of them it is requested once."""
    staged = dg.AssetSelection.assets(*(key(names.staged(source)) for source in sources))
    graph = repository.asset_graph
    below, made = (staged.downstream() & dg.AssetSelection.groups(*ROOMS)).resolve(graph), repository.get_job(job).asset_layer
    whole = sorted(asset for asset in below & made.selected_asset_keys if graph.get(asset).partitions_def is None)
    seen = {source: now[source] for source in sources}
    tags, checks = {REASON: f"{', '.join(sources)}: {reason}"}, checks_of(repository, job, whole)
    return dg.RunRequest(run_key=run_key(seen), asset_selection=whole, asset_check_keys=checks, tags=tags)


def _request(now: Seen, able: Able, first: date, last: date) -> dg.RunRequest:
    """A run over days, of all that can go on."""
    tags = {**names.range_tags(first, last), REASON: "files are new, changed or gone"}
    return dg.RunRequest(run_key=run_key(now, first, last), asset_selection=able.assets, asset_check_keys=able.checks, tags=tags)
