"""The sensor that looks how old the newest row of each source is."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, cursor_of, dagster_errors, key, last_recorded
from pipeline_assets.processing.lake.awaited import Awaited

if TYPE_CHECKING:
    from pipeline_assets.processing.lake.freshness import Freshness, Newest

LOOK_SECONDS = 60
# Without news as often; each record is an event of Dagster.
RECORDED_EVERY = timedelta(hours=6)


def data_freshness(awaited: Sequence[Awaited]) -> dg.SensorDefinition:
    """Evaluates `is_fresh` of each source that has a lake table, or should have; where nothing is stale that was not, now and then."""

    @dg.sensor(
        name=names.DATA_FRESHNESS,
        asset_selection=dg.AssetSelection.assets(*(key(names.lake(one.contract.name)) for one in awaited)),
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Holds the newest row of each source against what its contract promises, by the clock of its use case.",
    )
    def watched(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        from pipeline_assets.processing.lake.freshness import all_judged, read_newest, without_table

        now, before = datetime.now(UTC), cursor_of(context, last_recorded, _known, _missing)
        with dagster_errors():
            settings = platform.settings
            newest = read_newest(settings, [one.contract for one in awaited], _known(before))
        missing = without_table(awaited, newest, _missing(before), now)
        found = all_judged(settings.home, awaited, newest, missing, now)
        stands = {one.awaited.contract.name: one.is_fresh for one in found}
        recorded_at = last_recorded(before)
        is_news = stands != before.get("stands") or recorded_at is None or now - recorded_at >= RECORDED_EVERY
        cursor = {
            "newest": {name: [one.metadata, None if one.at is None else one.at.isoformat()] for name, one in newest.items()},
            "missing": {name: since.isoformat() for name, since in missing.items()},
            "stands": stands,
            "recorded_at": now.isoformat() if is_news or recorded_at is None else recorded_at.isoformat(),
        }
        return dg.SensorResult(asset_events=[_evaluation(one) for one in found] if is_news else [], cursor=json.dumps(cursor))

    return watched


def shown(found: "Freshness") -> dict[str, Any]:
    """The numbers of a check: ages in hours, as plots over time have them."""
    return {
        "promised_hours": round(found.awaited.contract.freshness / timedelta(hours=1), 3),
        **({} if found.age is None else {"age_hours": round(found.age / timedelta(hours=1), 3)}),
        **({} if found.newest_at is None else {"newest_row_at": dg.MetadataValue.timestamp(found.newest_at)}),
        **({} if found.clock is None else {"clock": dg.MetadataValue.timestamp(found.clock)}),
    }


def _evaluation(found: "Freshness") -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key(names.lake(found.awaited.contract.name)),
        check_name=names.IS_FRESH,
        passed=found.is_fresh,
        severity=dg.AssetCheckSeverity.ERROR,
        description=found.in_words,
        metadata=shown(found),
    )


def _known(cursor: Mapping[str, Any]) -> "dict[str, Newest]":
    """What was known of the tables at the last look."""
    from pipeline_assets.processing.lake.freshness import Newest

    known = cursor.get("newest", {})
    return {name: Newest(metadata=str(place), at=None if at is None else datetime.fromisoformat(at)) for name, (place, at) in known.items()}


def _missing(cursor: Mapping[str, Any]) -> dict[str, datetime]:
    """Since which look each source without a table is awaited."""
    return {name: datetime.fromisoformat(since) for name, since in cursor.get("missing", {}).items()}
