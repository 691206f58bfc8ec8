"""What the sensors of all rooms share: which runs are under way or have just ended, and so whom they wait for."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.due import Days, overlap
from pipeline_assets.core.retries import Asked, days_of, due_at, is_settled, sensor_of
from pipeline_assets.spec.use_case import UseCase

# Also one that is being cancelled, as its process may still write.
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# Of each job so many of the newest runs are looked at, as between two of a person there are those of sensors.
NEWEST = 20
# A failed run that was to be asked for again so long ago is not any more: nobody does.
OVERDUE = timedelta(hours=1)
# A run that ended without success so long ago has had all of its tries.
GIVEN_UP = timedelta(days=1)


def is_running(context: dg.SensorEvaluationContext, *jobs: str) -> bool:
    """Whether a run of one of these jobs has not ended."""
    return any(context.instance.get_runs(dg.RunsFilter(job_name=job, statuses=UNFINISHED), limit=1) for job in jobs)


def unfinished_of(context: dg.SensorEvaluationContext, *jobs: str) -> str | None:
    """One of these jobs that has a run which has not ended, by one query for all of them; None where none has."""
    found = {run.job_name for run in context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))}
    return next((job for job in jobs if job in found), None)


def is_running_but_for(context: dg.SensorEvaluationContext, sensor: str, job: str) -> bool:
    """Whether a run of a job has not ended that another than this sensor asked for."""
    runs = context.instance.get_runs(dg.RunsFilter(job_name=job, statuses=UNFINISHED))
    return any(sensor_of(run.tags) != sensor for run in runs)


def unfinished_days(context: dg.SensorEvaluationContext, *jobs: str) -> list[Days]:
    """First and last day (inclusive) of each run of these jobs that has not ended and goes over days."""
    runs = context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    spans = [days_of(run.tags) for run in runs if run.job_name in jobs]
    return [_dates(span) for span in spans if span is not None]


def retried_days(context: dg.SensorEvaluationContext, job: str, now: datetime) -> list[Days]:
    """First and last day of each run of a job that failed and that is to be asked for again, or was within the last hour."""
    records = context.instance.get_run_records(dg.RunsFilter(job_name=job), limit=NEWEST)
    later = uncancelled(records)
    ended = [asked_of(record) for record in records if record.dagster_run.status == dg.DagsterRunStatus.FAILURE]
    failed = [run for run in ended if not is_settled(run, later)]
    awaited = [run for run in failed if (at := due_at(run)) is not None and at > now - OVERDUE]
    return [_dates(run.days) for run in awaited if run.days is not None]


def _dates(days: tuple[str, str]) -> Days:
    return date.fromisoformat(days[0]), date.fromisoformat(days[1])


def uncancelled(records: Sequence[dg.RunRecord]) -> list[Asked]:
    """The runs among these that may stand for an earlier one: a cancelled one made nothing, and nobody asks for it again."""
    return [asked_of(record) for record in records if record.dagster_run.status != dg.DagsterRunStatus.CANCELED]


def was_given_up(context: dg.SensorEvaluationContext, job: str, tags: Mapping[str, str]) -> bool:
    """Whether the newest run of a job has these tags, and ended without success a day ago or longer: nobody asks for it any more."""
    for record in context.instance.get_run_records(dg.RunsFilter(job_name=job), limit=1):
        run, ended = record.dagster_run, record.end_time
        has_failed = run.status in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED} and tags.items() <= run.tags.items()
        return has_failed and ended is not None and datetime.now(UTC) - datetime.fromtimestamp(ended, UTC) >= GIVEN_UP
    return False


def asked_of(record: dg.RunRecord) -> Asked:
    """A run as `retries` sees it."""
    run, chosen = record.dagster_run, record.dagster_run.asset_selection
    ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time is not None else record.update_timestamp
    return Asked(
        run_id=run.run_id,
        job=run.job_name,
        tags=run.tags,
        made_at=record.create_timestamp,
        changed_at=ended,
        assets=frozenset(asset.to_user_string() for asset in chosen) if chosen else None,
        has_ended=run.status not in UNFINISHED,
    )


def being_scored(context: dg.SensorEvaluationContext, use_case: UseCase, *spans: Days) -> str | None:
    """That some of these days are being scored, as a sentence: vectors that are made meanwhile would not be; None where none are."""
    jobs = [names.score_and_monitor(model.name) for model in use_case.models]
    for first, last in unfinished_days(context, *jobs):
        if any(overlap(span, (first, last)) for span in spans):
            return f"Days from {first} to {last} are being scored; what is due of them is made after that."
    return None


def ended_by_others(context: dg.SensorEvaluationContext, sensors: Collection[str], *jobs: str) -> list[datetime]:
    """When the newest runs of each job ended (UTC), without those that one of `sensors` asked for, or that repeated a failed run."""
    return [at for at, by in _ended(context, jobs) if by not in {*sensors, names.RUNS_RETRIED}]


def ended_by_hand(context: dg.SensorEvaluationContext, *jobs: str) -> list[datetime]:
    """When the newest runs of each job ended (UTC), of those that no sensor asked for."""
    return [at for at, by in _ended(context, jobs) if by is None]


def _ended(context: dg.SensorEvaluationContext, jobs: Sequence[str]) -> Iterator[tuple[datetime, str | None]]:
    """When the newest runs of each job ended, of those that have, and which sensor asked for them."""
    for job in jobs:
        for record in context.instance.get_run_records(dg.RunsFilter(job_name=job), limit=NEWEST):
            if record.end_time is not None:
                yield datetime.fromtimestamp(record.end_time, UTC), sensor_of(record.dagster_run.tags)
