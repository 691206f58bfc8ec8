"""The assets of raw tables: a copy of each lake table in the warehouse, for dbt to read."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.lake_errors import RowsLost
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import (
    Platform,
    asked_days,
    column_lineage,
    column_schema,
    dagster_errors,
    days,
    key,
    of_run,
    report_days,
    rows_by_day,
    use_case_tags,
)
from pipeline_assets.processing.cleaning import inspection, raw_tables
from pipeline_assets.processing.cleaning.raw_tables import Loaded
from pipeline_assets.spec.contracts import Contract

KEEPS_ROWS = "keeps_rows"
Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
OF_KEPT_ROWS = "No day loses rows that are still staged; what would have lost some is not written."
BY_DAY = {names.BY_DAY_TAG: ""}


class Shrinking(dg.Config):
    """With `may_shrink` days may lose rows that are still in what they are made from; without it that fails the check `keeps_rows`."""

    may_shrink: bool = False


def raw_table(project: Project, contract: Contract, *, by_day: bool) -> dg.AssetsDefinition:
    """The raw table of a contract."""
    home, table = project.home_of(contract), names.raw(contract.name)

    @dg.asset(
        key=key(table),
        deps=[key(names.lake(contract.name))],
        partitions_def=days(project.span_of(home)) if by_day else None,
        backfill_policy=dg.BackfillPolicy.single_run() if by_day else None,
        group_name=names.CLEANING,
        kinds={"postgres"},
        tags={**use_case_tags(home), **(BY_DAY if by_day else {})},
        owners=[contract.owner],
        description=f"{contract.description} A copy of the lake's table in the warehouse, for dbt to read.",
        code_version=contract.version,
        metadata={"dagster/table_name": ".".join(table), "dagster/column_schema": column_schema(contract)},
        check_specs=[dg.AssetCheckSpec(KEEPS_ROWS, asset=key(table), blocking=True, description=OF_KEPT_ROWS)],
        pool=names.CLEANING,
    )
    def raw(context: dg.AssetExecutionContext, config: Shrinking, platform: Platform) -> Results:
        with dagster_errors():
            try:
                if by_day:
                    loaded = raw_tables.load_raw_days(platform.settings, contract, *asked_days(context), may_shrink=config.may_shrink)
                else:
                    loaded = raw_tables.load_raw_snapshot(platform.settings, contract, may_shrink=config.may_shrink)
            except RowsLost as error:
                yield _rows_lost(context.asset_key, error)
                raise
            rows = inspection.count_rows(platform.settings, table, contract.event_at, asked_days(context)) if by_day else {}
        metadata = _loaded_metadata(contract, loaded, by_day=by_day)
        if by_day:
            report_days(context, rows_by_day(*asked_days(context), rows), metadata)
        kept = dg.AssetCheckResult(check_name=KEEPS_ROWS, passed=True)
        yield dg.MaterializeResult(metadata=None if by_day else metadata, check_results=[kept])

    return raw


def _rows_lost(asset: dg.AssetKey, error: RowsLost) -> dg.AssetCheckResult:
    """The failed check of days that would have lost rows: those of each before and after, and what is behind."""
    days = {str(lost.day or "all rows"): {"before": lost.before, "after": lost.after, **lost.behind} for lost in error.days}
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=KEEPS_ROWS,
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        description=str(error),
        metadata={"days": dg.MetadataValue.json(days)},
    )


def _loaded_metadata(contract: Contract, loaded: Loaded, *, by_day: bool) -> dict[str, Any]:
    sums = {"rows": loaded.rows, "replaced_rows": loaded.replaced}
    counted = of_run(sums) if by_day else {names.ROW_COUNT: loaded.rows, **sums}
    lineage = column_lineage({field.name: ((names.lake(contract.name), field.name),) for field in contract.fields})
    return {
        "dagster/column_lineage": lineage,
        **counted,
        "lake_snapshot_id": str(loaded.snapshot_id),
        **({names.UNCHANGED: True} if loaded.is_unchanged else {}),
    }
