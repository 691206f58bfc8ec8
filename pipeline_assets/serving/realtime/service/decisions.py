"""What this process decides on a version that is tried, as it writes that into the ledger."""

from dataclasses import dataclass
from os import getpid
from socket import gethostname
from typing import TYPE_CHECKING

from pipeline_assets.model_lifecycle.registry import trials
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Entry, Trial
from pipeline_assets.serving.realtime.service.challenger import Challenger
from pipeline_assets.serving.realtime.service.evidence import Measure
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg


@dataclass(frozen=True, kw_only=True)
class Left:
    """A canary that this process has left alone: by which entry it began, why, and what was measured."""

    model: Model
    began: int
    reason: str
    measures: tuple[Measure, ...]


def is_ready(one: Challenger, measures: "Sequence[Measure]") -> bool:
    """Whether a canary has done enough of its step, all within the margins, and the model declares where it goes from there."""
    canary, seen = one.loaded.model.canary, one.evidence
    is_enough = seen.answers >= canary.least_answers and seen.seconds >= canary.step_time.total_seconds()
    return bool(canary.steps) and is_enough and all(measure.is_within for measure in measures)


def write_return(connection: "psycopg.Connection", trial: Trial, left: Left) -> Entry:
    """Ends a trial that was left alone; raises TrialConflict if somebody else has decided on it."""
    return trials.end(connection, left.model, _decision(trial, left.reason, left.measures), expected=trial)


def write_step(connection: "psycopg.Connection", one: Challenger) -> Entry:
    """Gives a canary the next share that its model declares, or has it go live after the last; raises TrialConflict."""
    model, trial, seen = one.loaded.model, one.trial, one.evidence
    reason = f"{seen.answers:,} answers of one process in {seen.seconds:.0f} s, all measures within their margins."
    decision = _decision(trial, reason, seen.measures(model.canary))
    share = next((step for step in model.canary.steps if step > (trial.share or 0)), None)
    if share is None:
        return trials.finish(connection, model, decision, expected=trial)
    return trials.start(connection, model, decision, role="canary", share=share, expected=trial)


def _decision(trial: Trial, reason: str, measures: "Sequence[Measure]") -> Decision:
    actor, rules = f"prediction service on {gethostname()}, process {getpid()}", [measure.to_json() for measure in measures]
    return Decision(version=trial.version, actor=actor, reason=reason, live_from=trial.live_from, rules=rules)
