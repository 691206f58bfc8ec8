"""The arrow back: when what was watched asks for a retraining, and for which moment."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from pipeline_assets.core import names
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.monitoring import tables
from pipeline_assets.serving.monitoring.watch import SCORE, has_drifted
from pipeline_assets.spec.monitors import Monitor


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """A retraining asked for because of `day`: with what was known as the next day began (`as_of`, UTC), and why."""

    day: date
    as_of: datetime
    reason: str


def asked_for(settings: Settings, monitor: Monitor, last_asked: date | None) -> Retraining | None:
    """The retraining that the newest failed day asks for, or None.

    Days up to `last_asked` have had their answer, and days within the monitor's cool-down after it (event time) wait: many failed days ask
    once, for the newest of them.
    """
    model = monitor.model.name
    after = last_asked + monitor.cool_down - timedelta(days=1) if last_asked is not None else None
    drifted = [day for day in tables.drifted_days(settings, names.drift(model), after) if has_drifted(monitor, day)]
    weak = tables.weak_days(settings, names.performance(model), after, monitor.min_roc_auc)
    failed = dict.fromkeys(weak, f"ROC AUC below {monitor.min_roc_auc}") | {day.day: _why(day) for day in drifted}
    if not failed:
        return None
    newest = max(failed)
    return Retraining(day=newest, as_of=datetime.combine(newest + timedelta(days=1), time(), UTC), reason=failed[newest])


def _why(day: tables.DriftedDay) -> str:
    score = "the score and " if SCORE in day.drifted else ""
    features = len(day.drifted) - (SCORE in day.drifted)
    return f"{score}{features} of {day.columns - 1} features drifted"
