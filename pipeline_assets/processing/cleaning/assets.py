"""The assets of cleaning: raw tables, and the dbt models above them, one asset each, with dbt's tests as their checks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.resources import Platform, asked_days, column_schema, dagster_errors, days, key
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning import dbt, inspection, raw_tables
from pipeline_assets.processing.cleaning.lineage import column_lineage
from pipeline_assets.processing.cleaning.manifest import ensure_manifest
from pipeline_assets.processing.cleaning.project import DataTest, Model, Project, read_project
from pipeline_assets.processing.cleaning.raw_tables import Days, Loaded, RawTable
from pipeline_assets.spec.use_case import UseCase

LOADED_IN_TIME = "loaded_in_time"


class Rebuild(dg.Config):
    """How models are built: with `full_refresh` tables are made anew with all days, as they must be once their columns changed."""

    full_refresh: bool = False


def defs(use_case: UseCase) -> dg.Definitions:
    """Raw tables and dbt models of the use case. Where dbt's manifest is missing or old it is made first, which takes some seconds."""
    project, tables = read_project(ensure_manifest(), use_case), raw_tables.tables_of(use_case)
    by_day = _built_by_day(project, {names.raw(table.contract.name) for table in tables if table.by_day})
    registers = {model.name for model in project.models} - by_day
    freshness = _freshness(project, {names.raw(table.contract.name): table.contract.freshness for table in tables})
    built = (("cleaned_by_day", by_day, days(use_case)), ("cleaned_registers", registers, None))
    return dg.Definitions(
        assets=[
            *(_raw(table, days(use_case)) for table in tables),
            *(_models(name, project, chosen, freshness, partitions) for name, chosen, partitions in built if chosen),
        ],
        asset_checks=[_loaded_in_time(tables)],
    )


def _raw(table: RawTable, by_day: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    contract = table.contract

    @dg.asset(
        key=key(names.raw(contract.name)),
        deps=[key(names.lake(contract.name))],
        partitions_def=by_day if table.by_day else None,
        backfill_policy=dg.BackfillPolicy.single_run() if table.by_day else None,
        group_name=names.CLEANING,
        kinds={"postgres"},
        owners=[contract.owner],
        description=f"{contract.description} A copy of the lake's table in the warehouse, for dbt to read.",
        code_version=contract.version,
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=contract.freshness),
        metadata={"dagster/table_name": ".".join(names.raw(contract.name)), "dagster/column_schema": column_schema(contract)},
        pool=names.CLEANING,
    )
    def raw(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        with dagster_errors():
            if table.by_day:
                loaded = raw_tables.load_raw_days(platform.settings, contract, *asked_days(context))
            else:
                loaded = raw_tables.load_raw_snapshot(platform.settings, contract)
        return dg.MaterializeResult(metadata=_loaded_metadata(table, loaded))

    return raw


def _models(
    name: str,
    project: Project,
    chosen: Iterable[AssetName],
    freshness: Mapping[AssetName, timedelta],
    by_day: dg.PartitionsDefinition[str] | None,
) -> dg.AssetsDefinition:
    models = {model.name: model for model in project.models if model.name in set(chosen)}
    tests = {(test.model, test.name): test for test in project.tests if test.model in models}

    @dg.multi_asset(
        name=name,
        specs=[_spec(model, freshness[model.name]) for model in models.values()],
        check_specs=[_check_spec(test) for test in tests.values()],
        partitions_def=by_day,
        backfill_policy=dg.BackfillPolicy.single_run() if by_day is not None else None,
        can_subset=True,
        pool=names.CLEANING,
    )
    def build(
        context: dg.AssetExecutionContext, config: Rebuild, platform: Platform
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        asked = asked_days(context) if by_day is not None else None
        wanted = [models[_name(asset)] for asset in sorted(context.selected_asset_keys)]
        checked = [tests[_name(check.asset_key), check.name] for check in sorted(context.selected_asset_check_keys)]
        with dagster_errors():
            for done in dbt.build(platform.settings, wanted, checked, asked, full_refresh=config.full_refresh):
                if isinstance(done, dbt.Built):
                    yield _materialized(platform.settings, project, done, asked)
                else:
                    yield _checked(done)

    return build


def _loaded_in_time(tables: Sequence[RawTable]) -> dg.AssetChecksDefinition:
    contracts = [table.contract for table in tables]
    specs = [
        dg.AssetCheckSpec(
            LOADED_IN_TIME, asset=key(names.raw(contract.name)), description=f"Rows were loaded within the last {contract.freshness}."
        )
        for contract in contracts
    ]

    @dg.multi_asset_check(name=LOADED_IN_TIME, specs=specs, can_subset=True)
    def loaded_in_time(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        asked = {check.asset_key for check in context.selected_asset_check_keys}
        with dagster_errors():
            found = inspection.freshness_of(platform.settings, [each for each in contracts if key(names.raw(each.name)) in asked])
        for each in found:
            yield dg.AssetCheckResult(
                asset_key=key(names.raw(each.contract.name)),
                check_name=LOADED_IN_TIME,
                passed=each.is_fresh,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"loaded_at": each.loaded_at.isoformat() if each.loaded_at is not None else "never"},
            )

    return loaded_in_time


def _built_by_day(project: Project, daily: set[AssetName]) -> set[AssetName]:
    """The models that hang on a raw table loaded by the day, directly or through others."""
    found: set[AssetName] = set()
    while more := {model.name for model in project.models if {*model.reads} & (daily | found)} - found:
        found |= more
    return found


def _freshness(project: Project, contracts: Mapping[AssetName, timedelta]) -> Mapping[AssetName, timedelta]:
    """How old each model may be: as old as the freshest of what it reads."""
    known = dict(contracts)
    while missing := [model for model in project.models if model.name not in known and {*model.reads} <= {*known}]:
        known |= {model.name: min(known[name] for name in model.reads) for model in missing}
    return known


def _spec(model: Model, freshness: timedelta) -> dg.AssetSpec:
    return dg.AssetSpec(
        key(model.name),
        deps=[key(name) for name in model.reads],
        description=model.description,
        group_name=names.CLEANING,
        kinds={"dbt", "postgres"},
        owners=list(model.owners),
        code_version=model.code_version,
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=freshness),
        metadata={
            "dagster/table_name": ".".join(model.name),
            "dagster/column_schema": dg.TableSchema([dg.TableColumn(each.name, each.type, each.description) for each in model.columns]),
            "dbt_unique_id": model.unique_id,
        },
        skippable=True,
    )


def _check_spec(test: DataTest) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        test.name,
        asset=key(test.model),
        description=test.description,
        additional_deps=[key(name) for name in test.others],
        blocking=test.is_blocking,
    )


def _loaded_metadata(table: RawTable, loaded: Loaded) -> dict[str, Any]:
    counted = "dagster/partition_row_count" if table.by_day else "dagster/row_count"
    return {counted: loaded.rows, "replaced_rows": loaded.replaced, "lake_snapshot_id": str(loaded.snapshot_id)}


def _materialized(settings: Settings, project: Project, built: dbt.Built, asked: Days | None) -> dg.MaterializeResult:
    model = built.model
    metadata: dict[str, Any] = {"seconds": built.seconds, "dagster/column_lineage": _lineage(column_lineage(built.sql, project.columns))}
    if not model.is_view:
        metadata["dagster/row_count"], rows = inspection.count_rows(settings, model.name, model.event_at, asked)
        metadata |= {"dagster/partition_row_count": rows} if asked is not None else {}
    return dg.MaterializeResult(asset_key=key(model.name), metadata=metadata)


def _lineage(columns: Mapping[str, Sequence[tuple[AssetName, str]]]) -> dg.TableColumnLineage:
    deps = {column: [dg.TableColumnDep(key(table), name) for table, name in sources] for column, sources in columns.items()}
    return dg.TableColumnLineage(deps)


def _checked(tested: dbt.Tested) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key(tested.test.model),
        check_name=tested.test.name,
        passed=tested.passed,
        severity=dg.AssetCheckSeverity.ERROR if tested.test.is_blocking else dg.AssetCheckSeverity.WARN,
        metadata={
            "failing_rows": tested.failures if tested.failures is not None else "the test could not be run",
            "seconds": tested.seconds,
        },
    )


def _name(asset: dg.AssetKey) -> AssetName:
    schema, table = asset.path
    return schema, table
