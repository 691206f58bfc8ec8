"""The arrow back: when what was monitored asks for a retraining, and for which moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from pipeline_assets.core import names
from pipeline_assets.core.project import whole_days
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry.ledger import live_version
from pipeline_assets.model_lifecycle.training.inputs import end_of_vectors
from pipeline_assets.processing.lake.tables import days
from pipeline_assets.serving.monitoring import tables
from pipeline_assets.serving.monitoring.performance import broken_rules
from pipeline_assets.serving.monitoring.watch import drift_in_words, has_drifted
from pipeline_assets.spec.models import Model

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A retraining that the failure of `day` asks for, and why.

    `as_of` (UTC) is when the labels of all decisions of that day have matured. It is due once the data go as far. The first training of a
    model is asked for by the newest day that has vectors.
    """

    day: date
    as_of: datetime
    reason: str
    is_due: bool
    is_first: bool = False


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


def first_asked(settings: Settings, model: Model, last_asked: date | None) -> Retraining | None:
    """The training that a model without any version asks for; None where one is live, or there are no vectors.

    It is due once vectors go as far as `least_days`, and again, if its candidate was refused, after the monitor's cool-down (event time).
    """
    if live_version(settings, model) is not None:
        return None
    filled = days(settings, names.vectors(model.name))
    return first_training(model, filled, last_asked) if filled else None


def first_training(model: Model, filled: Sequence[date], last_asked: date | None) -> Retraining:
    """The first training of a model whose vectors have these days (at least one, in order), as of the end of the newest."""
    newest, least = filled[-1], least_days(model)
    has_enough = (newest - filled[0]).days + 1 >= least
    is_cool = last_asked is None or newest >= last_asked + model.monitor.cool_down
    as_of = datetime.combine(newest + DAY, time(), UTC)
    cool = f", and {model.monitor.cool_down.days} days more after a candidate was refused" if last_asked is not None else ""
    reason = f"vectors over {least} days make a first version{cool}"
    return Retraining(day=newest, as_of=as_of, reason=reason, is_due=has_enough and is_cool, is_first=True)


def least_days(model: Model) -> int:
    """Over how many days vectors have to go for a first training: as many to learn from as to judge by, all with labels that matured."""
    split = model.split
    judged = split.validation + split.holdout
    return whole_days(min(split.train, judged) + judged + model.label.horizon)


def choose(failed: Mapping[date, str], horizon: timedelta, clock: datetime | None) -> Retraining:
    """The retraining that failed days (at least one, each with its reason) ask for at `clock` (UTC; None: there are no data).

    The newest day whose labels have matured is the one that asks. Where none has, the oldest waits: the newest would put off the retraining
    for as long as days keep failing.
    """
    matured = {day: matured_at(day, horizon) for day in failed}
    due = [day for day, at in matured.items() if clock is not None and at <= clock]
    day = max(due) if due else min(failed)
    return Retraining(day=day, as_of=matured[day], reason=failed[day], is_due=bool(due))


def matured_at(day: date, horizon: timedelta) -> datetime:
    """The first midnight at which the labels of all decisions of a day have matured."""
    return datetime.combine(day, time(), UTC) + DAY * (1 + -(-horizon // DAY))
