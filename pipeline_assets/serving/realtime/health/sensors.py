"""The sensor that looks whether models are served as promised."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.resources import Platform, cursor_of, dagster_errors, key, last_recorded
from pipeline_assets.serving.realtime.health.assets import looked_at, severity, shown
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.health.judge import Verdict
    from pipeline_assets.serving.realtime.health.look import Look

LOOK_SECONDS = 30
# Without news as often; each record is an event of Dagster.
RECORDED_EVERY = timedelta(minutes=10)


def endpoint_health(models: Sequence[Model], homes: Mapping[str, str]) -> dg.SensorDefinition:
    """Records traffic, latency, errors and freshness of each model, and its checks; without news now and then. `homes`: as `is_served`."""

    @dg.sensor(
        name=names.ENDPOINT_HEALTH,
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records how the prediction service answers for each model, and which of its promises is not kept.",
    )
    def watched(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        from pipeline_assets.serving.realtime.health.judge import judged

        now, before = datetime.now(UTC), cursor_of(context, last_recorded)
        with dagster_errors():
            try:
                seen = looked_at(platform, homes)
            except SettingsMissing as error:
                return dg.SkipReason(f"No prediction service is named. {error}")
        found = [(model, judged(model, seen, now)) for model in models]
        wrong = sorted(f"{model.name}/{one.rule.name}" for model, verdicts in found for one in verdicts if one.finding is not None)
        recorded_at = last_recorded(before)
        if recorded_at is not None and wrong == before.get("wrong") and now - recorded_at < RECORDED_EVERY:
            return dg.SensorResult()
        events = [event for model, verdicts in found for event in _events(model, seen, verdicts)]
        return dg.SensorResult(asset_events=events, cursor=json.dumps({"wrong": wrong, "recorded_at": now.isoformat()}))

    return watched


def _events(model: Model, seen: "Look", verdicts: Sequence["Verdict"]) -> list[dg.AssetObservation | dg.AssetCheckEvaluation]:
    from pipeline_assets.serving.realtime.health.judge import numbers

    asset, found = key(names.endpoint(model.name)), numbers(model, seen)
    checks = [
        dg.AssetCheckEvaluation(
            asset_key=asset, check_name=one.rule.name, passed=one.finding is None, severity=severity(one), metadata=shown(one, found)
        )
        for one in verdicts
    ]
    return [dg.AssetObservation(asset, metadata=found), *checks]
