"""The assets of batch ingestion: what each source held, day by day, as files of rows that kept their contract."""

from collections.abc import Callable, Iterator, Sequence
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
from pipeline_assets.ingestion.batch import sensors
from pipeline_assets.ingestion.sources.origins import kind_of, source_name, system_of
from pipeline_assets.ingestion.staging import summary
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import Source

if TYPE_CHECKING:
    from pipeline_assets.ingestion.staging.stage import Staged

Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
LOGGED_EVERY_PARTITIONS = 25
IS_COMPLETE = "Days without rows do not follow each other for longer than the contract lets its newest row be old."


class Reading(dg.Config):
    """How a source that is loaded incrementally is read: `find_deletes` compares all keys, `from_the_start` reads all rows again."""

    find_deletes: bool = False
    from_the_start: bool = False


def defs(project: Project) -> dg.Definitions:
    """One asset per source that is read in batches, by day or as a snapshot, with the checks of its contract; and the sensors of files."""
    graph = dg.Definitions(assets=[_staged(project, source) for source in project.sources if source.load != "changes"])
    return dg.Definitions.merge(graph, sensors.defs(project))


def _staged(project: Project, source: Source) -> dg.AssetsDefinition:
    contract, by_day, home = source.contract, source.load == "daily", project.home_of(source.contract)
    # A history has no rows of the days since its stream began; the stream checks whether a day has none at all.
    is_history = contract.name in project.histories
    asset_key = key(names.staged(contract.name))

    asset = dg.asset(
        key=asset_key,
        deps=[key(source_name(source.origin))],
        partitions_def=days(project.span_of(home)) if by_day else None,
        backfill_policy=dg.BackfillPolicy.single_run() if by_day else None,
        group_name=names.BATCH_INGESTION,
        kinds={kind_of(source.origin), "parquet", "s3"},
        owners=[contract.owner],
        tags=use_case_tags(home),
        code_version=contract.version,
        pool=system_of(source.origin),
        description=f"{contract.description} Staged files of rows that kept the contract.",
        metadata={"dagster/column_schema": column_schema(contract)},
        check_specs=[
            dg.AssetCheckSpec(CONTRACT, asset=asset_key, blocking=True, description="Rows keep their contract; others are in quarantine."),
            *([] if is_history else [dg.AssetCheckSpec(COMPLETE, asset=asset_key, description=IS_COMPLETE)]),
        ],
    )

    def materialized(context: dg.AssetExecutionContext, platform: Platform, reading: Reading) -> Results:
        begun = monotonic()
        with dagster_errors():
            try:
                with naming_dependents(context):
                    done = _stage(context, platform, source, reading)
            except SourceChanged as error:
                yield source_changed(asset_key, CONTRACT, error)
                raise
            except ContractViolation as error:
                yield contract_refused(asset_key, error)
                raise
        metadata, checks = _metadata(source, done, monotonic() - begun), _checks(asset_key, contract, done, is_whole=not is_history)
        if by_day:
            report_days(context, summary.by_day(done), metadata)
        yield dg.MaterializeResult(metadata=None if by_day else metadata, check_results=checks)

    if source.load == "incremental":

        @asset
        def increment(context: dg.AssetExecutionContext, platform: Platform, config: Reading) -> Results:
            yield from materialized(context, platform, config)

        return increment

    @asset
    def staged(context: dg.AssetExecutionContext, platform: Platform) -> Results:
        yield from materialized(context, platform, Reading())

    return staged


def _stage(context: dg.AssetExecutionContext, platform: Platform, source: Source, reading: Reading) -> "list[Staged]":
    from pipeline_assets.ingestion.batch.load import stage_days, stage_new_rows, stage_snapshot

    if source.load == "incremental":
        find_deletes, from_the_start = reading.find_deletes, reading.from_the_start
        run_id = context.run.run_id
        return [stage_new_rows(platform.settings, source, run_id=run_id, find_deletes=find_deletes, from_the_start=from_the_start)]
    if source.load == "snapshot":
        return [stage_snapshot(platform.settings, source, run_id=context.run.run_id)]
    first, last = asked_days(context)
    return stage_days(
        platform.settings, source, first, last, run_id=context.run.run_id, on_staged=_progress(context, (last - first).days + 1)
    )


def _progress(context: dg.AssetExecutionContext, partitions: int) -> "Callable[[Staged], None]":
    staged: list[Staged] = []

    def log(one: "Staged") -> None:
        staged.append(one)
        if len(staged) % LOGGED_EVERY_PARTITIONS == 0 or len(staged) == partitions:
            context.log.info("%s of %s days staged, %s rows", len(staged), partitions, sum(each.manifest.rows for each in staged))

    return log


def _metadata(source: Source, staged: "Sequence[Staged]", seconds: float) -> dict[str, Any]:
    contract, upstream = source.contract, key(source_name(source.origin))
    lineage = {field.name: [dg.TableColumnDep(upstream, field.name)] for field in contract.fields}
    facts = summary.facts(staged, seconds)
    return {
        **(of_run(facts) if source.load == "daily" else {names.ROW_COUNT: facts["rows"], **facts}),
        "broken_by_reason": dg.MetadataValue.json(summary.reasons(staged)),
        "dagster/column_schema": column_schema(contract),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
    }


def _checks(asset_key: dg.AssetKey, contract: Contract, staged: "Sequence[Staged]", *, is_whole: bool) -> list[dg.AssetCheckResult]:
    kept = contract_check(asset_key, contract, summary.rows(staged), summary.reasons(staged))
    return [kept, complete(contract, summary.empty_partitions(staged))] if is_whole else [kept]
