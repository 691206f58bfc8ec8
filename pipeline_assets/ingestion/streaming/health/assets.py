"""The check that connectors and streams make progress."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, dagster_errors, key
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import connectors_of
from pipeline_assets.ingestion.streaming.streams import record_streams

if TYPE_CHECKING:
    from pipeline_assets.ingestion.streaming.health.watch import Seen

DESCRIPTION = "It is running, and has made progress while there was something to do."


def specs(project: Project) -> list[dg.AssetCheckSpec]:
    """The check of each connector and of each typed table."""
    assets = [names.connector(one.name) for one in connectors_of(project)]
    assets += [names.typed(stream.contract.name) for stream in record_streams(project)]
    return [dg.AssetCheckSpec(names.IS_PROGRESSING, asset=key(asset), description=DESCRIPTION) for asset in assets]


def is_progressing(project: Project) -> dg.AssetChecksDefinition:
    """The check that the sensor of stream health evaluates; run by hand it reports what is wrong at once, but not what has stalled."""

    @dg.multi_asset_check(name=names.IS_PROGRESSING, specs=specs(project), can_subset=True)
    def checked(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        from pipeline_assets.ingestion.streaming.health.watch import Watch, look

        watch = Watch(now=datetime.now(UTC))
        with dagster_errors(), open_connect(platform.settings) as connect:
            look(platform.settings, connect, project, watch)
        for check in context.selected_asset_check_keys:
            yield _result(check, watch.seen.get((check.asset_key.path[0], check.asset_key.path[1])))

    return checked


def _result(check: dg.AssetCheckKey, seen: "Seen | None") -> dg.AssetCheckResult:
    problem = "it does not exist yet: materialize it" if seen is None else seen.trouble
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=names.IS_PROGRESSING,
        passed=problem is None,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"problem": problem or "", **({} if seen is None else dict(seen.numbers))},
    )
