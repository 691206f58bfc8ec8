"""The assets of cleaning: raw tables, and the dbt models above them, one asset each, with dbt's tests as their checks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtCliInvocation, DbtCliResource, DbtProject, dbt_assets
from dagster_dbt.core.dbt_event_iterator import DbtDagsterEventType, DbtEventIterator

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.resources import Platform, asked_days, column_schema, dagster_errors, days, key
from pipeline_assets.core.settings import Settings, in_environment
from pipeline_assets.processing.cleaning import inspection, raw_tables
from pipeline_assets.processing.cleaning.dbt import PROGRAM_OF_RUNS, PROJECT, between, ending, run_folder, variables
from pipeline_assets.processing.cleaning.manifest import ensure_manifest
from pipeline_assets.processing.cleaning.raw_tables import Days, Loaded, RawTable
from pipeline_assets.spec.use_case import UseCase

LOADED_IN_TIME = "loaded_in_time"


class Rebuild(dg.Config):
    """How models are built: with `full_refresh` tables are made anew with all days, as they must be once their columns changed."""

    full_refresh: bool = False


class Translator(DagsterDbtTranslator):
    """What dagster-dbt makes of a model, and how fresh it has to be: as fresh as the freshest source that it reads.

    daily: the raw tables that are loaded by the day. What hangs on none of them is a register, and built by an op of its own.
    """

    def __init__(self, daily: Collection[AssetName]) -> None:
        super().__init__()
        self._daily = daily

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        """The asset of a model, with a freshness policy, and after the registers that its tests compare it with."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        registers = _compared_with(manifest, unique_id) - _read_below(manifest, self._daily)
        compared = {self.get_asset_key(manifest["nodes"][register]) for register in registers}
        return spec.replace_attributes(
            deps=[*spec.deps, *(dg.AssetDep(other) for other in sorted(compared - {dep.asset_key for dep in spec.deps}))],
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_freshness(manifest, unique_id)),
        )

    def get_asset_check_spec(
        self, asset_spec: dg.AssetSpec, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None
    ) -> dg.AssetCheckSpec | None:
        """The check of a test, described by the words of its YAML file, or else by its kind and column."""
        spec = super().get_asset_check_spec(asset_spec, manifest, unique_id, project)
        test = manifest["nodes"][unique_id]
        kind = " of ".join(filter(None, [test["test_metadata"]["name"], test["column_name"]]))
        return spec and spec._replace(description=test["description"] or f"dbt: {kind}.")

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The description without the SQL, which stands in the repository."""
        return str(dbt_resource_props["description"])

    def get_metadata(self, dbt_resource_props: Mapping[str, Any]) -> Mapping[str, Any]:
        """Columns and name of the table; the database is known to a run alone."""
        table = f"{dbt_resource_props['schema']}.{dbt_resource_props['name']}"
        return {**super().get_metadata(dbt_resource_props), "dagster/table_name": table}


def defs(use_case: UseCase) -> dg.Definitions:
    """Raw tables and dbt models of the use case. Where dbt's manifest is missing or old it is made first, which takes some seconds."""
    tables, manifest, by_day = raw_tables.tables_of(use_case), ensure_manifest(), days(use_case)
    daily = [names.raw(table.contract.name) for table in tables if table.by_day]
    below = " ".join(f"source:{'.'.join(table)}+" for table in daily)
    return dg.Definitions(
        assets=[
            *(_raw(table, by_day) for table in tables),
            _models("cleaned_by_day", manifest, Translator(daily), select=below, by_day=by_day),
            _models("cleaned_registers", manifest, Translator(daily), select=f"fqn:{use_case.name}", exclude=below),
        ],
        asset_checks=[_loaded_in_time(tables)],
        resources={"dbt": DbtCliResource(project_dir=PROJECT, profiles_dir=PROJECT, dbt_executable=PROGRAM_OF_RUNS)},
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
    manifest: Path,
    translator: Translator,
    *,
    select: str,
    exclude: str = "",
    by_day: dg.PartitionsDefinition[str] | None = None,
) -> dg.AssetsDefinition:
    @dbt_assets(
        manifest=manifest,
        name=name,
        select=select,
        exclude=exclude,
        partitions_def=by_day,
        backfill_policy=dg.BackfillPolicy.single_run() if by_day is not None else None,
        dagster_dbt_translator=translator,
        pool=names.CLEANING,
    )
    def build(context: dg.AssetExecutionContext, config: Rebuild, platform: Platform, dbt: DbtCliResource) -> Iterator[DbtDagsterEventType]:
        asked = asked_days(context) if by_day is not None else None
        with dagster_errors():
            yield from _built(context, platform.settings, dbt, asked, full_refresh=config.full_refresh)

    return build


def _built(
    context: dg.AssetExecutionContext, settings: Settings, dbt: DbtCliResource, asked: Days | None, *, full_refresh: bool
) -> Iterator[DbtDagsterEventType]:
    """What a build by dbt tells of each model and test."""
    arguments = ["build", *(between(*asked) if asked is not None else []), *(["--full-refresh"] if full_refresh else [])]
    with run_folder(settings.home / "dbt") as target:
        # dagster-dbt takes what dbt's profile reads from the environment of its own process.
        with in_environment(variables(settings)):
            invocation = dbt.cli(arguments, context=context.op_execution_context, target_path=target)
        with ending(invocation.process):
            events = DbtEventIterator(_told(invocation), invocation).fetch_row_counts().fetch_column_metadata()
            for event in events:
                yield _with_day_rows(settings, invocation, event, asked) if asked is not None else event


def _told(invocation: DbtCliInvocation) -> Iterator[DbtDagsterEventType]:
    """What dbt tells. The manifest of the graph was parsed without a warehouse; that of the run itself knows the database."""
    events = invocation.stream()
    for event in events:
        invocation.manifest = invocation.get_artifact("manifest.json")
        yield event
        break
    yield from events


def _with_day_rows(settings: Settings, invocation: DbtCliInvocation, event: DbtDagsterEventType, asked: Days) -> DbtDagsterEventType:
    """The event, and if it tells of a table that is built by the day, with the rows of the asked days."""
    if not isinstance(event, dg.Output):
        return event
    model = invocation.manifest["nodes"][event.metadata["unique_id"].value]
    event_at = model["config"]["event_time"]
    if event_at is None:
        return event
    rows = inspection.count_rows(settings, (model["schema"], model["name"]), event_at, asked)
    return event.with_metadata({**event.metadata, "dagster/partition_row_count": rows})


def _compared_with(manifest: Mapping[str, Any], unique_id: str) -> set[str]:
    """The other models that tests of a model read; a test that finds none of its tables is an error to dbt, not a failed test."""
    tests = [node for node in manifest["nodes"].values() if node["resource_type"] == "test" and node["attached_node"] == unique_id]
    return {other for test in tests for other in test["depends_on"]["nodes"] if other.startswith("model.")} - {unique_id}


def _read_below(manifest: Mapping[str, Any], tables: Collection[AssetName]) -> set[str]:
    """The models that hang on one of the raw tables, directly or through others."""
    found = {unique_id for unique_id, node in manifest["sources"].items() if (node["schema"], node["name"]) in tables}
    while more := {child for parent in found for child in manifest["child_map"][parent]} - found:
        found |= more
    return found


def _freshness(manifest: Mapping[str, Any], unique_id: str) -> timedelta:
    if unique_id in manifest["sources"]:
        limit = manifest["sources"][unique_id]["freshness"]["warn_after"]
        return timedelta(**{f"{limit['period']}s": limit["count"]})
    return min(_freshness(manifest, parent) for parent in manifest["parent_map"][unique_id])


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


def _loaded_metadata(table: RawTable, loaded: Loaded) -> dict[str, Any]:
    counted = "dagster/partition_row_count" if table.by_day else "dagster/row_count"
    return {counted: loaded.rows, "replaced_rows": loaded.replaced, "lake_snapshot_id": str(loaded.snapshot_id)}
