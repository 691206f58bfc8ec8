"""What is staged of typed rows as assets: the days of each stream, and the versions of each followed table."""

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.errors import ContractViolation, SourceChanged
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import (
    COMPLETE,
    CONTRACT,
    Platform,
    asked_days,
    column_schema,
    complete,
    contract_check,
    contract_refused,
    dagster_errors,
    days,
    key,
    naming_dependents,
    of_run,
    report_days,
    source_changed,
    use_case_tags,
)
from pipeline_assets.ingestion.staging import summary
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import EventStream, Source

if TYPE_CHECKING:
    from pipeline_assets.ingestion.streaming.staged.events import StagedEvents
    from pipeline_assets.ingestion.streaming.staged.state import StagedState

Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]


def events(project: Project, stream: EventStream) -> dg.AssetsDefinition:
    """The events of a stream by day, with those from before the topic began where there is a history."""
    contract, home = stream.contract, project.home_of(stream.contract)
    asset_key, origin = key(names.staged(contract.name)), "topic" if stream.history is None else "history and topic"

    @dg.asset(
        key=asset_key,
        deps=_upstream(stream),
        partitions_def=days(project.span_of(home)),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.STREAMING_INGESTION,
        kinds={"parquet", "s3"},
        owners=[contract.owner],
        tags=use_case_tags(home),
        code_version=contract.version,
        description=f"{contract.description} Staged files of events that kept the contract, from {origin}.",
        metadata={"dagster/column_schema": column_schema(contract), "topic": stream.topic},
        check_specs=[
            _keeps_contract(asset_key, "Events"),
            dg.AssetCheckSpec(COMPLETE, asset=asset_key, description=f"From {origin} no longer pause than the contract promises."),
        ],
    )
    def staged(context: dg.AssetExecutionContext, platform: Platform) -> Results:
        from pipeline_assets.ingestion.streaming.staged.events import stage_events

        begun = monotonic()
        with dagster_errors():
            try:
                done = stage_events(platform.settings, stream, *asked_days(context), run_id=context.run.run_id)
            except ContractViolation as error:
                yield contract_refused(asset_key, error)
                raise
        report_days(context, summary.by_day(done.days), _events_metadata(stream, done, monotonic() - begun))
        check = contract_check(asset_key, contract, summary.rows(done.days), summary.reasons(done.days))
        yield dg.MaterializeResult(check_results=[check, complete(contract, summary.empty_partitions(done.days))])

    return staged


def _upstream(stream: EventStream) -> list[dg.AssetKey]:
    """The staged history of a stream, where there is one, and its typed rows."""
    history = [] if stream.history is None else [key(names.staged(stream.history.source.contract.name))]
    return [*history, key(names.typed(stream.contract.name))]


def _keeps_contract(asset_key: dg.AssetKey, what: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(CONTRACT, asset=asset_key, blocking=True, description=f"{what} keep their contract; others are in quarantine.")


def _events_metadata(stream: EventStream, staged: "StagedEvents", seconds: float) -> dict[str, Any]:
    lineage = {field.name: [dg.TableColumnDep(one, field.name) for one in _upstream(stream)] for field in stream.contract.fields}
    return {
        **of_run(summary.facts(staged.days, seconds)),
        "broken_by_reason": dg.MetadataValue.json(summary.reasons(staged.days)),
        "typed_snapshot": str(staged.typed_snapshot),
        "dagster/column_schema": column_schema(stream.contract),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
    }


def table(project: Project, source: Source) -> dg.AssetsDefinition:
    """All versions of the rows of a followed table."""
    contract = source.contract
    asset_key, log = key(names.staged(contract.name)), key(names.typed(log_contract(contract).name))

    @dg.asset(
        key=asset_key,
        deps=[log],
        group_name=names.STREAMING_INGESTION,
        kinds={"parquet", "s3"},
        owners=[contract.owner],
        tags=use_case_tags(project.home_of(contract)),
        code_version=contract.version,
        description=f"{contract.description} Staged files of all versions of its rows that kept the contract.",
        metadata={"dagster/column_schema": column_schema(contract)},
        check_specs=[_keeps_contract(asset_key, "Rows")],
    )
    def state(context: dg.AssetExecutionContext, platform: Platform) -> Results:
        from pipeline_assets.ingestion.streaming.staged.state import stage_state
        from pipeline_assets.ingestion.streaming.typed.schema_changes import hold_against_table

        begun = monotonic()
        with dagster_errors():
            try:
                with naming_dependents(context):
                    hold_against_table(platform.settings, source)
                    done = stage_state(platform.settings, source, run_id=context.run.run_id)
            except SourceChanged as error:
                yield source_changed(asset_key, CONTRACT, error)
                raise
            except ContractViolation as error:
                yield contract_refused(asset_key, error)
                raise
        check = contract_check(asset_key, contract, summary.rows([done.staged]), summary.reasons([done.staged]))
        yield dg.MaterializeResult(metadata=_state_metadata(contract, log, done, monotonic() - begun), check_results=[check])

    return state


def _state_metadata(contract: Contract, log: dg.AssetKey, done: "StagedState", seconds: float) -> dict[str, Any]:
    from pipeline_assets.ingestion.streaming.staged.state import LOG_SNAPSHOT

    lineage = {field.name: [dg.TableColumnDep(log, field.name)] for field in contract.fields}
    facts = summary.facts([done.staged], seconds)
    return {
        names.ROW_COUNT: facts["rows"],
        **facts,
        "broken_by_reason": dg.MetadataValue.json(summary.reasons([done.staged])),
        "changes": done.changes,
        # As text: the page would show numbers of 19 digits rounded.
        "lsn": str(done.lsn),
        LOG_SNAPSHOT: str(done.log_snapshot),
        "merged": "changed keys" if done.whole_because is None else f"the whole log: {done.whole_because}",
        "keys_merged": done.keys_merged,
        "values_not_in_log": done.values_not_in_log,
        "dagster/column_schema": column_schema(contract),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
    }
