"""The sensors that materialize the days, or the sources, whose files are new, changed or gone: they list folders, and read no file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import cast

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.project import Project, Span, days_between
from pipeline_assets.core.resources import Able, Platform, cursor_of, dagster_errors, is_running, key, last_day, run_key, without_stopped
from pipeline_assets.core.settings import Settings
from pipeline_assets.spec.sources import Files, Source
from pipeline_assets.spec.use_case import UseCase

SECONDS = 29
# By source and day a digest of the files that there are; of a source whose files are read once, of those that were not read yet.
Seen = dict[str, dict[str, str]]
UNREAD = "unread"
# The rooms that a run over new files goes through; what comes after them goes by the day.
ROOMS = (names.BATCH_INGESTION, names.LAKE, names.CLEANING)


def defs(project: Project) -> dg.Definitions:
    """One sensor per use case that has sources of files which are read by the day in their path, or by what is new."""
    declared = [(use_case, [one for one in use_case.sources if _is_watched(one)]) for use_case in project.use_cases]
    return dg.Definitions(sensors=[_files_changed(project, use_case, sources) for use_case, sources in declared if sources])


def _is_watched(source: Source) -> bool:
    return isinstance(source.origin, Files) and source.load in {"daily", "incremental"}


def _files_changed(project: Project, use_case: UseCase, sources: Sequence[Source]) -> dg.SensorDefinition:
    job, span = names.build_features(use_case.name), project.span_of(use_case)

    @dg.sensor(
        name=names.files_changed(use_case.name),
        job_name=job,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
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
        stale = {day for source in now for day in _differing(before.get(source, {}), now[source]) if day in ended}
        able = without_stopped(context, project, job) if stale else Able()
        requests = [_request(now, able, *bounds) for bounds in _spans(sorted(map(date.fromisoformat, stale)))]
        fresh = [source for source in now if UNREAD in now[source] and now[source] != before.get(source)]
        if fresh:
            requests.append(_request_of(cast("dg.RepositoryDefinition", context.repository_def), job, now, fresh))
        kept = {source: {day: digest for day, digest in found.items() if day in {*ended, UNREAD}} for source, found in now.items()}
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


def _request_of(repository: dg.RepositoryDefinition, job: str, now: Seen, sources: Sequence[str]) -> dg.RunRequest:
    """A run over sources without days, and over what is made of them without days: by a set of new files it is requested once."""
    staged = dg.AssetSelection.assets(*(key(names.staged(source)) for source in sources))
    graph = repository.asset_graph
    below, made = (staged.downstream() & dg.AssetSelection.groups(*ROOMS)).resolve(graph), repository.get_job(job).asset_layer
    whole = sorted(asset for asset in below & made.selected_asset_keys if graph.get(asset).partitions_def is None)
    seen = {source: now[source] for source in sources}
    return dg.RunRequest(run_key=run_key(seen), asset_selection=whole, tags={"pipeline/reason": "files are new"})


def _request(now: Seen, able: Able, first: date, last: date) -> dg.RunRequest:
    """A run over days, of all that can go on."""
    tags = {**names.range_tags(first, last), "pipeline/reason": "files are new, changed or gone"}
    return dg.RunRequest(run_key=run_key(now, first, last), asset_selection=able.assets, asset_check_keys=able.checks, tags=tags)
