"""The arrow back: when what was monitored asks for a retraining, and for which moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.inputs import end_of_vectors
from pipeline_assets.serving.monitoring import tables
from pipeline_assets.serving.monitoring.performance import broken_rules
from pipeline_assets.serving.monitoring.watch import drift_in_words, has_drifted
from pipeline_assets.spec.models import Model

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A retraining that the failure of `day` asks for, and why.

    `as_of` (UTC) is when the labels of all decisions of that day have matured. It is due once the data go as far.
    """

    day: date
    as_of: datetime
    reason: str
    is_due: bool


def asked_for(settings: Settings, model: Model, last_asked: date | None) -> Retraining | None:
    """The retraining that failed days ask for, or None where none has failed.

    Days up to `last_asked` have had their answer, and days within the monitor's cool-down after it (event time) wait: many failed days ask
    once. "Now" is the end of the newest day that has vectors.
    """
    after = last_asked + model.monitor.cool_down - DAY if last_asked is not None else None
    broken = {day: broken_rules(model, figures) for day, figures in tables.measured_days(settings, model, after)}
    weak = {day: ", ".join(rules) for day, rules in broken.items() if rules}
    drifted = [day for day in tables.drifted_days(settings, model, after) if has_drifted(model, day)]
    failed = weak | {day.day: drift_in_words(model, day) for day in drifted}
    return choose(failed, model.label.horizon, end_of_vectors(settings, model)) if failed else None


def choose(failed: Mapping[date, str], horizon: timedelta, clock: datetime | None) -> Retraining:
    """The retraining that failed days (at least one, each with its reason) ask for at `clock` (UTC; None: there are no data).

    The newest day whose labels have matured is the one that asks. Where none has, the oldest waits: the newest would put off the retraining
    for as long as days keep failing.
    """
    matured = {day: _matured_at(day, horizon) for day in failed}
    due = [day for day, at in matured.items() if clock is not None and at <= clock]
    day = max(due) if due else min(failed)
    return Retraining(day=day, as_of=matured[day], reason=failed[day], is_due=bool(due))


def _matured_at(day: date, horizon: timedelta) -> datetime:
    """The first midnight at which the labels of all decisions of a day have matured."""
    return datetime.combine(day, time(), UTC) + DAY * (1 + -(-horizon // DAY))
