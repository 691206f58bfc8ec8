"""The audit as a check of each topic, and of the change log of each followed table."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, dagster_errors, key
from pipeline_assets.ingestion.streaming.capture.connectors import topics_of
from pipeline_assets.ingestion.streaming.streams import change_log, followed

if TYPE_CHECKING:
    from pipeline_assets.ingestion.streaming.audit.audit import Verdict

OF_RECORDS = "Each record is in a typed table or in quarantine, exactly once."
OF_ROWS = "The rows that its changes leave equal the rows of the table; those that break the contract are in quarantine and do not stand."


def specs(project: Project) -> list[dg.AssetCheckSpec]:
    """The check of each topic, then of each followed table."""
    about = {names.topic(topic): OF_RECORDS for topic in topics_of(project)}
    about |= {names.typed(change_log(source).contract.name): OF_ROWS for source in followed(project)}
    return [dg.AssetCheckSpec(names.RECONCILED, asset=key(asset), description=what) for asset, what in about.items()]


def reconciled(project: Project) -> dg.AssetChecksDefinition:
    """The audit of all sources that can be compared with the lake record by record, or row by row."""

    @dg.multi_asset_check(name=names.RECONCILED, specs=specs(project), can_subset=True)
    def checked(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        from pipeline_assets.ingestion.streaming.audit.audit import verify

        asked = {(check.asset_key.path[0], check.asset_key.path[1]) for check in context.selected_asset_check_keys}
        with dagster_errors():
            for verdict in verify(platform.settings, project, asked):
                yield _result(verdict)

    return checked


def _result(verdict: "Verdict") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key(verdict.asset),
        check_name=names.RECONCILED,
        passed=not verdict.problems,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            verdict.unit: dg.MetadataValue.int(verdict.compared),
            **({"in_quarantine": dg.MetadataValue.int(verdict.in_quarantine)} if verdict.unit == "keys" else {}),
            "problems": dg.MetadataValue.json(list(verdict.problems)),
            **({"accepted_losses": dg.MetadataValue.json(list(verdict.accepted))} if verdict.accepted else {}),
        },
    )
