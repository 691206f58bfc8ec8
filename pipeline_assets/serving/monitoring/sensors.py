"""The sensors that have new vectors scored and watched, and that turn a failed check into a request for retraining."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.clocks import is_live
from pipeline_assets.core.due import (
    MOST_DAYS,
    MOST_HELD,
    Due,
    Requested,
    free_range,
    oldest_range,
    quiet,
    remembered,
    still_due,
    wait,
    without,
)
from pipeline_assets.core.project import Project, Span
from pipeline_assets.core.resources import (
    Platform,
    cursor_of,
    dagster_errors,
    key,
    made_at,
    newest,
    run_key,
    switched,
)
from pipeline_assets.core.retries import REASON
from pipeline_assets.core.sensors import (
    UNFINISHED,
    ended_by_hand,
    ended_by_others,
    is_running_but_for,
    retried_days,
    unfinished_days,
    unfinished_of,
    was_given_up,
)
from pipeline_assets.core.settings import Settings
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    from pipeline_assets.serving.monitoring.due import Known
    from pipeline_assets.serving.monitoring.feedback import Retraining

SECONDS = 60
# The tag of a training: the day that asked for it.
DAY_TAG = "pipeline/day"
# What a run over days makes besides scores, by what is due.
WATCHED = (names.drift, names.performance)


def scoring(project: Project, model: Model) -> dg.SensorDefinition:
    """Requests scores of days with new vectors, the watch of scores that nobody measured, and performance by labels that have matured.

    The oldest days first, a bounded number at once. The cursor holds what was requested and is still due, so nothing is requested twice.
    """
    home = project.home_of_model(model)
    span, own, name = project.span_of(home), names.score_and_monitor(model.name), names.score(model.name)
    loading = names.load(home.name)
    build = names.build_features(home.name)
    leading = (build, names.train(model.name), own)

    @dg.sensor(
        name=name,
        job_name=own,
        minimum_interval_seconds=SECONDS,
        default_status=switched(home, "score"),
        description=f"Has new vectors of {model.name} scored, scores watched, and performance judged by labels that have matured, in runs "
        f"of {MOST_DAYS} days at most, the oldest first. The cursor holds what was requested and is still due.",
    )
    def score(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        if (running := unfinished_of(context, own, names.train(model.name))) is not None:
            return dg.SkipReason(f"A run of {running} is under way.")
        from pipeline_assets.serving.monitoring.due import due_days

        memory, now = remembered(cursor_of(context, remembered)), datetime.now(UTC)
        with dagster_errors():
            state = _state(context.instance, platform.settings, model)
            if state == memory.settled:
                return dg.SkipReason("All was scored, watched and judged, or asked for, and nothing has changed since.")
            known = _known(context.instance, platform.settings, model, span)
        due = {} if known is None else due_days(known)
        memory = replace(memory, requested=still_due(due, memory.requested, now.date()))
        # Of a run that failed some may be there, so that its days are due in another way: they are left to the run that is asked for again.
        left = without(due, retried_days(context, own, now))
        if known is None or len(memory.requested) >= MOST_HELD or oldest_range(left, memory.requested, now.date()) is None:
            settled = replace(memory, since=None, settled=state)
            return dg.SensorResult(skip_reason=_nothing(model, due, memory.requested), cursor=json.dumps(settled.as_json()))
        since = memory.since or now
        asked = free_range(left, memory.requested, now, since, unfinished_days(context, build))
        reason = wait(now, since, ended_by_others(context, {name, loading}, *leading))
        if asked is None or reason is not None:
            reason = reason or f"A run of {build} is under way, which makes what is due."
            return dg.SensorResult(skip_reason=reason, cursor=json.dumps(replace(memory, since=since).as_json()))
        memory = replace(memory, since=since, requested=(*memory.requested, asked))
        return dg.SensorResult(run_requests=[request_of(model, asked, left, known.clock)], cursor=json.dumps(memory.as_json()))

    return score


def _state(instance: dg.DagsterInstance, settings: Settings, model: Model) -> str:
    """In which state a model is: another one wherever anything may be due that was not before. It costs two queries."""
    from pipeline_assets.model_lifecycle.registry.ledger import first_live_from

    assets = (names.vectors(model.name), names.predictions(model.name), *(name(model.name) for name in WATCHED))
    seen = newest(instance, assets) | {"live_from": str(first_live_from(settings, model)), "today": str(datetime.now(UTC).date())}
    return run_key(seen)


def _midnight(span: Span) -> datetime | None:
    """The begin of today by the clock on the wall; None of a replay."""
    today = datetime.now(UTC).date()
    return datetime.combine(today, time(), UTC) if is_live(span.last, today) else None


def _known(instance: dg.DagsterInstance, settings: Settings, model: Model, span: Span) -> "Known | None":
    """What is known of the days of a model by now; None before a version is live and there are vectors."""
    from pipeline_assets.model_lifecycle.registry.ledger import first_live_from
    from pipeline_assets.processing.lake.tables import days as filled_days
    from pipeline_assets.serving.monitoring.due import Known, clock_of_data, first_scored
    from pipeline_assets.serving.monitoring.tables import judged_days

    since, filled = first_live_from(settings, model), filled_days(settings, names.vectors(model.name))
    if since is None or not filled:
        return None
    vectors = made_at(instance, names.vectors(model.name))
    return Known(
        vectors=vectors,
        predictions=made_at(instance, names.predictions(model.name)),
        drift=made_at(instance, names.drift(model.name)),
        performance=made_at(instance, names.performance(model.name)),
        scored_from=first_scored(since),
        filled=frozenset(filled),
        judged=judged_days(settings, model),
        clock=clock_of_data(filled[-1], vectors.keys(), _midnight(span)),
        horizon=model.label.horizon,
    )


def _nothing(model: Model, due: Due, held: Sequence[Requested]) -> str:
    job, left = names.score_and_monitor(model.name), sum(map(len, due.values()))
    if len(held) >= MOST_HELD:
        return f"The runs over {len(held)} ranges failed, or were cancelled; the rest waits for one of them. See the runs of {job}."
    if left:
        return f"{left} days are due and were asked for; their runs failed, or were cancelled. See the runs of {job}."
    return f"All vectors of {model.name} are scored, watched and judged, or no version is live yet."


def request_of(model: Model, asked: Requested, due: Due, clock: datetime) -> dg.RunRequest:
    """A run over the days that were chosen: of all that follows vectors, or of what only measures, by labels as of `clock` (UTC).

    Each day is scored by the version that it began with: one that is live now may have learned from days that are made again.
    """
    from pipeline_assets.serving.monitoring.due import LABELS, SCORES, WATCH

    number = sum(asked.has(day, mark) for day, mark in due[asked.what].items())
    days = f"{number} day{'' if number == 1 else 's'}"
    reasons = {
        SCORES: f"vectors of {days} are newer than their scores",
        WATCH: f"scores of {days} were not measured",
        LABELS: f"labels of {days} have matured",
    }
    measured = {WATCH: WATCHED, LABELS: (names.performance,)}.get(asked.what)
    config: dict[str, dict[str, str]] = {"__".join(names.performance(model.name)): {"as_of": clock.isoformat()}}
    if measured is None:
        config["__".join(names.predictions(model.name))] = {"version": "as_of"}
    return dg.RunRequest(
        run_key=asked.run_key,
        run_config={"ops": {op: {"config": chosen} for op, chosen in config.items()}},
        tags={**names.range_tags(asked.first, asked.last), REASON: reasons[asked.what]},
        asset_selection=None if measured is None else [key(name(model.name)) for name in measured],
    )


def retraining(project: Project, model: Model) -> dg.SensorDefinition:
    """Requests the first training once vectors suffice, and another when drift or performance of a day fails.

    Never two of a model at once, and one in its cool-down. The cursor is the day that last asked, and the run key holds it too: a tick that
    is repeated requests the same run. A day whose training was given up, or cancelled, asks again a day later.
    """
    home = project.home_of_model(model)

    @dg.sensor(
        name=names.retrain(model.name),
        job_name=names.train(model.name),
        minimum_interval_seconds=SECONDS,
        default_status=switched(home, "train"),
        description=f"Requests a first training of {model.name} once vectors go far enough, and a retraining when a day drifted or was "
        "predicted badly; the gate decides on the result.",
    )
    def retrain(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        from pipeline_assets.serving.monitoring.feedback import asked_for, first_asked

        if _is_training(context, model):
            return dg.SkipReason(f"A run of {names.train(model.name)} is under way.")
        day = _day_of(context)
        is_lost = day is not None and was_given_up(context, names.train(model.name), {DAY_TAG: day.isoformat()})
        with dagster_errors():
            since = None if is_lost else day
            asked = asked_for(platform.settings, model, since) or first_asked(platform.settings, model, since)
        if asked is None:
            return dg.SkipReason("No day has failed since the last retraining and its cool-down, or there are no vectors yet.")
        why = _not_yet(asked) or (_at_work(context, home) if asked.is_first else None)
        if why is not None:
            return dg.SkipReason(why)
        request = _request(model, asked, datetime.now(UTC).date() if is_lost else None)
        return dg.SensorResult(run_requests=[request], cursor=asked.day.isoformat())

    return retrain


def _not_yet(asked: "Retraining") -> str | None:
    """Why a training that is asked for waits for data; None where it does not."""
    if asked.is_due:
        return None
    if asked.is_first:
        return f"There is no live version yet, and its training waits: {asked.reason}. They go to {asked.day}."
    until = asked.as_of.isoformat()
    return f"{asked.day} failed ({asked.reason}). Its labels have matured at {until}; the vectors do not go as far yet."


def _at_work(context: dg.SensorEvaluationContext, home: UseCase) -> str | None:
    """That vectors are being made, or were by hand a moment ago, when what they are made for often follows; None otherwise.

    Days that are loaded in the background do not count: over years of history there would always be such a run.
    """
    job = names.build_features(home.name)
    if is_running_but_for(context, names.load(home.name), job):
        return f"A run of {job} is under way."
    return quiet(datetime.now(UTC), ended_by_hand(context, job))


def _day_of(context: dg.SensorEvaluationContext) -> date | None:
    """The day that asked last; None before the first, and where the cursor was damaged: what tables say then counts alone."""
    try:
        return date.fromisoformat(context.cursor) if context.cursor else None
    except ValueError:
        context.log.warning("The cursor '%s' is no day. The sensor starts again from what tables say.", context.cursor)
        return None


def _request(model: Model, asked: "Retraining", again: date | None) -> dg.RunRequest:
    """The training that is asked for; again: today, if one that the same day asked for may have been given up."""
    op = "__".join(names.training_set(model.name))
    return dg.RunRequest(
        run_key=f"{model.name}-{asked.day}" if again is None else f"{model.name}-{asked.day}-{again}",
        run_config={"ops": {op: {"config": {"as_of": asked.as_of.isoformat()}}}},
        tags={REASON: asked.reason, DAY_TAG: asked.day.isoformat()},
    )


def _is_training(context: dg.SensorEvaluationContext, model: Model) -> bool:
    """Whether a run of the model's job is unfinished; a job of that name in another code location is another job."""
    here = context.code_location_origin
    runs = context.instance.get_runs(dg.RunsFilter(job_name=names.train(model.name), statuses=UNFINISHED))
    origins = [run.remote_job_origin for run in runs]
    places = [None if origin is None else origin.location_name for origin in origins]
    return any(here is None or place is None or place == here.location_name for place in places)
