"""The sensor that looks whether the views are kept online."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, cursor_of, dagster_errors, key, last_recorded
from pipeline_assets.model_lifecycle.feature_store.online.assets import verdict
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed

LOOK_SECONDS = 30
# Without news as often; each record is an event of Dagster.
RECORDED_EVERY = timedelta(minutes=10)


def online_health(feeds: Sequence[Feed]) -> dg.SensorDefinition:
    """Records lag, watermark and trouble of each feed that is online; where nothing is wrong that was not, now and then."""

    @dg.sensor(
        name=names.ONLINE_HEALTH,
        asset_selection=dg.AssetSelection.key_prefixes([names.ONLINE]),
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records how far workers have kept views online, and which of them stands still.",
    )
    def watched(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        from pipeline_assets.model_lifecycle.feature_store.online.facts import read_facts

        now, before = datetime.now(UTC), cursor_of(context, last_recorded)
        with dagster_errors():
            found = read_facts(platform.settings, feeds, now, with_sizes=False)
        kept = {feed: facts for feed, facts in zip(feeds, found, strict=True) if facts["status"] == "live"}
        wrong = sorted(feed.name for feed, facts in kept.items() if facts["trouble"] is not None)
        recorded_at = last_recorded(before)
        if recorded_at is not None and wrong == before.get("wrong") and now - recorded_at < RECORDED_EVERY:
            return dg.SensorResult()
        events = [event for feed, facts in kept.items() for event in _events(feed, verdict(facts), is_kept=facts["trouble"] is None)]
        return dg.SensorResult(asset_events=events, cursor=json.dumps({"wrong": wrong, "recorded_at": now.isoformat()}))

    return watched


def _events(
    feed: Feed, shown: dict[str, dg.MetadataValue | int | float | str], *, is_kept: bool
) -> list[dg.AssetObservation | dg.AssetCheckEvaluation]:
    asset = key(names.online_views(feed.table.name, feed.kind))
    check = dg.AssetCheckEvaluation(
        asset_key=asset, check_name=names.IS_PROGRESSING, passed=is_kept, severity=dg.AssetCheckSeverity.ERROR, metadata=shown
    )
    return [dg.AssetObservation(asset, metadata=shown), check]
