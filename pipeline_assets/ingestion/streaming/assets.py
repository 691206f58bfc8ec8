"""The assets of streaming ingestion: events by day, and tables as their changes left them, as files of rows that kept their contract."""

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.errors import ContractViolation
from pipeline_assets.core.resources import Platform, asked_days, column_schema, dagster_errors, days, key
from pipeline_assets.ingestion.batch import summary
from pipeline_assets.ingestion.batch.stage import Staged
from pipeline_assets.ingestion.streaming.changes import log_contract
from pipeline_assets.ingestion.streaming.events import stage_history
from pipeline_assets.ingestion.streaming.state import StagedState, stage_state
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import EventStream, Source
from pipeline_assets.spec.use_case import UseCase

CONTRACT = "contract"


def defs(use_case: UseCase) -> dg.Definitions:
    """One asset a stream, by day, and one a table that is followed by its changes, with the checks of their contracts."""
    followed = [_state(source) for source in use_case.sources if source.load == "changes"]
    return dg.Definitions(assets=[*(_staged(use_case, stream) for stream in use_case.streams), *followed])


def _staged(use_case: UseCase, stream: EventStream) -> dg.AssetsDefinition:
    contract = stream.contract
    asset_key = key(names.staged(contract.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.staged(stream.history.contract.name))],
        partitions_def=days(use_case),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.STREAMING_INGESTION,
        kinds={"parquet", "s3"},
        owners=[contract.owner],
        code_version=contract.version,
        description=f"{contract.description} Staged files of events that kept the contract.",
        metadata={"dagster/column_schema": column_schema(contract), "topic": stream.topic},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=contract.freshness),
        check_specs=[
            dg.AssetCheckSpec(CONTRACT, asset=asset_key, blocking=True, description="Events keep their contract; others are in quarantine.")
        ],
    )
    def staged(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        begun = monotonic()
        with dagster_errors():
            try:
                done = stage_history(platform.settings, stream, *asked_days(context), run_id=context.run.run_id)
            except ContractViolation as error:
                yield _check(asset_key, error.reasons, dg.AssetCheckSeverity.ERROR)
                raise
        for one in done:
            context.add_asset_metadata(summary.partition_facts(one), partition_key=one.manifest.partition)
        check = _check(asset_key, summary.reasons(done), dg.AssetCheckSeverity.WARN)
        yield dg.MaterializeResult(metadata=_metadata(stream, done, monotonic() - begun), check_results=[check])

    return staged


def _state(source: Source) -> dg.AssetsDefinition:
    contract = source.contract
    asset_key, log = key(names.staged(contract.name)), key(names.typed(log_contract(contract).name))

    @dg.asset(
        key=asset_key,
        deps=[log],
        group_name=names.STREAMING_INGESTION,
        kinds={"parquet", "s3"},
        owners=[contract.owner],
        code_version=contract.version,
        description=f"{contract.description} Staged files of the rows that its changes left, as far as they kept the contract.",
        metadata={"dagster/column_schema": column_schema(contract)},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=contract.freshness),
        check_specs=[
            dg.AssetCheckSpec(CONTRACT, asset=asset_key, blocking=True, description="Rows keep their contract; others are in quarantine.")
        ],
    )
    def state(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        begun = monotonic()
        with dagster_errors():
            try:
                done = stage_state(platform.settings, source, run_id=context.run.run_id)
            except ContractViolation as error:
                yield _check(asset_key, error.reasons, dg.AssetCheckSeverity.ERROR)
                raise
        check = _check(asset_key, summary.reasons([done.staged]), dg.AssetCheckSeverity.WARN)
        yield dg.MaterializeResult(metadata=_state_metadata(contract, log, done, monotonic() - begun), check_results=[check])

    return state


def _state_metadata(contract: Contract, log: dg.AssetKey, done: StagedState, seconds: float) -> dict[str, Any]:
    lineage = {field.name: [dg.TableColumnDep(log, field.name)] for field in contract.fields}
    return {
        **summary.facts([done.staged], seconds),
        "broken_by_reason": dg.MetadataValue.json(summary.reasons([done.staged])),
        "changes": done.merged.changes,
        # As text: the page would show numbers of 19 digits rounded.
        "lsn": str(done.merged.lsn),
        "log_snapshot_id": str(done.log_snapshot),
        "values_not_in_log": len(done.merged.unresolved),
        "dagster/column_schema": column_schema(contract),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
    }


def _metadata(stream: EventStream, staged: Sequence[Staged], seconds: float) -> dict[str, Any]:
    upstream = key(names.staged(stream.history.contract.name))
    lineage = {field.name: [dg.TableColumnDep(upstream, field.name)] for field in stream.contract.fields}
    return {
        **summary.facts(staged, seconds),
        "broken_by_reason": dg.MetadataValue.json(summary.reasons(staged)),
        "dagster/column_schema": column_schema(stream.contract),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
    }


def _check(asset_key: dg.AssetKey, broken: dict[str, int], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset_key, check_name=CONTRACT, passed=not broken, severity=severity, metadata={"broken_by_reason": broken}
    )
