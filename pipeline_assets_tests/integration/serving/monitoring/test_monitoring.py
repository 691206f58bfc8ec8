"""Monitoring on a real warehouse: findings replace each other by day, and failed days ask for one retraining."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.monitoring import sensors, tables
from pipeline_assets.serving.monitoring.drift import Drift
from pipeline_assets.serving.monitoring.feedback import asked_for
from pipeline_assets.serving.monitoring.performance import DayPerformance
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.january import write_stack_env

MONITOR = use_case.monitor
DRIFT, PERFORMANCE = names.drift(MONITOR.model.name), names.performance(MONITOR.model.name)
FIRST = date(2013, 5, 1)


def _drift(day: date, columns: dict[str, float]) -> list[Drift]:
    """Findings of one day: the index of each column, against a limit of 0.25."""
    return [Drift(day=day, column=name, psi=psi, limit=0.25, rows=900, null_share=0.0) for name, psi in columns.items()]


def _keep(settings: Settings, day: date, columns: dict[str, float]) -> None:
    tables.replace_days(settings, DRIFT, _drift(day, columns), Drift, (day, day))


def _performance(day: date, roc_auc: float | None) -> DayPerformance:
    return DayPerformance(day=day, scores=900, labels=900, label_rate=0.2, mean_score=0.2, roc_auc=roc_auc, log_loss=None, brier=None)


def test_a_day_measured_again_replaces_its_findings(isolated: Settings) -> None:
    """The same day twice leaves one row per column, with the newer numbers; other days stay."""
    _keep(isolated, FIRST, {"score": 0.9, "a": 0.9, "gone": 0.9})
    _keep(isolated, FIRST + timedelta(days=1), {"score": 0.1, "a": 0.3})
    _keep(isolated, FIRST, {"score": 0.1, "a": 0.1})

    found = tables.drifted_days(isolated, DRIFT, None)

    assert [(day.day, day.columns, day.drifted) for day in found] == [(FIRST, 2, ()), (FIRST + timedelta(days=1), 2, ("a",))]


def test_nothing_measured_asks_for_nothing(isolated: Settings) -> None:
    """An empty warehouse has no failed day."""
    assert asked_for(isolated, MONITOR, None) is None


def test_many_failed_days_ask_once_for_the_newest(isolated: Settings) -> None:
    """A drifted score fails a day; the newest failed day asks, with what was known as the next day began."""
    for offset in range(4):
        _keep(isolated, FIRST + timedelta(days=offset), {"score": 0.9 if offset < 3 else 0.1, "a": 0.1, "b": 0.1})

    asked = asked_for(isolated, MONITOR, None)

    assert asked is not None
    assert (asked.day, asked.as_of) == (date(2013, 5, 3), datetime(2013, 5, 4, tzinfo=UTC))
    assert asked.reason == "the score and 0 of 2 features drifted"


def test_a_few_drifted_features_ask_for_nothing(isolated: Settings) -> None:
    """A day fails only above the declared share of drifted features."""
    _keep(isolated, FIRST, {"score": 0.1, "a": 0.9, "b": 0.1, "c": 0.1, "d": 0.1})

    assert asked_for(isolated, MONITOR, None) is None
    assert asked_for(isolated, replace(MONITOR, max_drifted_share=0.1), None) is not None


@pytest.mark.parametrize(("days_later", "asks"), [(6, False), (7, True)])
def test_the_cool_down_is_kept(isolated: Settings, days_later: int, *, asks: bool) -> None:
    """After a retraining was asked for, failed days within seven days of event time wait."""
    _keep(isolated, FIRST + timedelta(days=days_later), {"score": 0.9})

    assert (asked_for(isolated, MONITOR, FIRST) is not None) == asks


def test_weak_performance_asks_and_unknown_performance_does_not(isolated: Settings) -> None:
    """A known ROC AUC below the limit fails its day; a day whose labels are not yet known does not."""
    unknown, weak = _performance(FIRST, None), _performance(FIRST + timedelta(days=1), 0.5)
    tables.replace_days(isolated, PERFORMANCE, [unknown], DayPerformance, (FIRST, FIRST))
    assert asked_for(isolated, MONITOR, None) is None

    tables.replace_days(isolated, PERFORMANCE, [unknown, weak], DayPerformance, (FIRST, weak.day))
    asked = asked_for(isolated, MONITOR, None)

    assert asked is not None
    assert (asked.day, asked.reason) == (weak.day, f"ROC AUC below {MONITOR.min_roc_auc}")


def test_the_sensor_asks_once_and_moves_its_cursor(isolated: Settings, tmp_path: Path) -> None:
    """A tick on a failed day gives one run request with the day as run key; the next tick, from its cursor, skips."""
    _keep(isolated, FIRST, {"score": 0.9})
    write_stack_env(isolated, tmp_path)
    sensor, platform = sensors.retraining(use_case), Platform(home=str(tmp_path))

    with dg.DagsterInstance.ephemeral() as instance:
        first = sensor(dg.build_sensor_context(instance=instance, resources={"platform": platform}))
        assert isinstance(first, dg.SensorResult)
        second = sensor(dg.build_sensor_context(instance=instance, resources={"platform": platform}, cursor=first.cursor))

    (request,) = first.run_requests or ()
    assert request.run_key == "flight_delay-2013-05-01"
    assert request.run_config == {"ops": {"training_sets__flight_delay": {"config": {"as_of": "2013-05-02T00:00:00+00:00"}}}}
    assert first.cursor == "2013-05-01"
    assert isinstance(second, dg.SkipReason)
