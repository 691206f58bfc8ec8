"""The sensor that asks again for runs that failed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from pipeline_assets.core import names, retries
from pipeline_assets.core.resources import cursor_of
from pipeline_assets.core.retries import MOST_TRIES, Asked
from pipeline_assets.core.sensors import asked_of, uncancelled

SECONDS = 30
# Failures of the last days are looked at, also after the daemon was down for so long.
LOOKED_BACK = timedelta(days=3)
# So many of the newest: what fails that often needs a person, and the cursor names each.
MOST_FAILED = 500
# Of the runs of a job that came after the one that failed, so many of the newest.
MOST_LATER = 50


@dataclass(frozen=True, kw_only=True)
class Look:
    """Failed runs by what becomes of them, and when others are asked for again (UTC)."""

    asked: Sequence[Asked]
    needless: Sequence[Asked]
    given_up: Sequence[Asked]
    later: Sequence[datetime]

    def reason(self) -> str:
        """Why nothing is asked for."""
        jobs = ", ".join(sorted({run.job for run in self.given_up}))
        parts = [
            *([f"Gave up {jobs} after {MOST_TRIES} tries."] if jobs else []),
            *([f"Later runs made {len(self.needless)} that failed needless."] if self.needless else []),
            *([f"{len(self.later)} failed; the next is asked for at {min(self.later):%H:%M:%S} UTC."] if self.later else []),
        ]
        return " ".join(parts) or "No run failed that is asked for again, or one of its job is under way."


def runs_retried(jobs: Mapping[str, Any]) -> dg.SensorDefinition:
    """Asks again for runs that failed and that a sensor or schedule had asked for, later each time, and gives up after some tries.

    jobs: those whose runs are asked for again, by name. A run that a later one has made needless is let be.
    """
    times = ", ".join(f"{int(after.total_seconds()) // 60}" for after in retries.BACK_OFF)

    @dg.sensor(
        name=names.RUNS_RETRIED,
        jobs=list(jobs.values()),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Asks again for runs that failed and that nobody started by hand, {times} minutes after each failure, then gives up. "
        "The cursor holds the failed runs that are done with.",
    )
    def retried(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        done, now = set(_done(cursor_of(context, _done))), datetime.now(UTC)
        records = _failed(context, now)
        failed = [run for run in map(asked_of, records) if run.job in jobs and retries.is_automatic(run.tags)]
        look = _look(context, [run for run in failed if run.run_id not in done], now)
        for run in look.given_up:
            context.log.error("Gave up %s after %d tries: %s failed. Repair it, then start it by hand.", run.job, MOST_TRIES, run.run_id)
        runs = {record.dagster_run.run_id: record.dagster_run for record in records}
        requests = [_request(run, runs[run.run_id]) for run in look.asked]
        kept = done & runs.keys() | {run.run_id for run in (*look.given_up, *look.asked, *look.needless)}
        cursor = json.dumps({"done": sorted(kept)})
        return dg.SensorResult(run_requests=requests, cursor=cursor, skip_reason=None if requests else look.reason())

    return retried


def _done(cursor: Mapping[str, Any]) -> list[str]:
    return [str(run) for run in cursor.get("done", [])]


def _failed(context: dg.SensorEvaluationContext, now: datetime) -> Sequence[dg.RunRecord]:
    """The newest of the runs that failed lately, oldest first: one query, whatever the number of use cases."""
    wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=now - LOOKED_BACK)
    return list(reversed(context.instance.get_run_records(wanted, limit=MOST_FAILED)))


def _look(context: dg.SensorEvaluationContext, failed: Sequence[Asked], now: datetime) -> Look:
    """What becomes of failed runs: the oldest of each job that is due is asked for again, and none that a later run has made needless."""
    due_at = {run.run_id: at for run in failed if (at := retries.due_at(run)) is not None}
    asked, needless = dict[str, Asked](), list[Asked]()
    for run in failed:
        if run.run_id not in due_at or due_at[run.run_id] > now:
            continue
        wanted = dg.RunsFilter(job_name=run.job, created_after=run.made_at)
        later = uncancelled(context.instance.get_run_records(wanted, limit=MOST_LATER))
        if retries.is_settled(run, later):
            needless.append(run)
        elif not retries.is_awaited(run, later):
            asked.setdefault(run.job, run)
    given_up = [run for run in failed if not retries.is_retried(run.tags)]
    return Look(asked=list(asked.values()), needless=needless, given_up=given_up, later=[at for at in due_at.values() if at > now])


def _request(failed: Asked, run: dg.DagsterRun) -> dg.RunRequest:
    """The same run once more."""
    chosen, checks = run.asset_selection, run.asset_check_selection
    return dg.RunRequest(
        job_name=failed.job,
        run_key=f"again-{failed.run_id}",
        run_config=run.run_config,
        tags=retries.tags_of_retry(failed),
        asset_selection=sorted(chosen) if chosen else None,
        asset_check_keys=sorted(checks, key=str) if chosen and checks is not None else None,
    )
