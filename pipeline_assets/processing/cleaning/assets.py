"""The assets of cleaning: raw tables, and the dbt models above them, one asset each, with dbt's tests as their checks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtCliInvocation, DbtCliResource, DbtProject
from dagster_dbt.asset_utils import DAGSTER_DBT_EXCLUDE_METADATA_KEY, DAGSTER_DBT_SELECT_METADATA_KEY
from dagster_dbt.core.dbt_event_iterator import DbtDagsterEventType, DbtEventIterator

from pipeline_assets.core import names
from pipeline_assets.core.errors import SpecError
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
from pipeline_assets.core.settings import Settings, in_environment
from pipeline_assets.processing.cleaning import inspection, raw_tables, retention
from pipeline_assets.processing.cleaning.dbt import PROGRAM_OF_RUNS, between, ending, project_folder, read_ahead, run_folder, variables
from pipeline_assets.processing.cleaning.lineage import DbtLineage, read_lineage
from pipeline_assets.processing.cleaning.models import ProjectModels, Selection, read_models
from pipeline_assets.processing.cleaning.raw_tables import Days, Loaded
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.use_case import UseCase

KEEPS_ROWS = "keeps_rows"
Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
OF_KEPT_ROWS = "No day loses rows that are still staged; what would have lost some is not written."
BY_DAY = {names.BY_DAY_TAG: ""}
CURRENT_VALUE_ONLY = {names.CURRENT_VALUE_ONLY: ""}
# What the description of an asset with that tag ends with.
OF_NOW = "Current value only: it has the rows as they are now, and what reads it for the past takes that for what was known then."


class Shrinking(dg.Config):
    """With `may_shrink` days may lose rows that are still in what they are made from; without it that fails the check `keeps_rows`."""

    may_shrink: bool = False


class Rebuild(Shrinking):
    """How models are built: with `full_refresh` tables are made anew with all days, as they must be once their columns changed."""

    full_refresh: bool = False


class Translator(DagsterDbtTranslator):
    """What dagster-dbt makes of the models of a use case.

    Key and table are the folder and the name; the owner is the one of the use case, unless the model's YAML names others. A register
    without history is marked, and so is what reads one.
    """

    def __init__(self, models: ProjectModels, use_case: UseCase) -> None:
        super().__init__()
        self._models, self._use_case = models, use_case

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        """The asset of a model, which also depends on the registers that its tests compare it with."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        registers = self._models.compared_with(unique_id) - self._models.by_day if unique_id in self._models.by_day else ()
        compared = {self.get_asset_key(manifest["nodes"][register]) for register in registers}
        whole = spec.replace_attributes(
            deps=[*spec.deps, *(dg.AssetDep(other) for other in sorted(compared - {dep.asset_key for dep in spec.deps}))],
            group_name=names.CLEANING,
            owners=spec.owners or [self._use_case.owner],
            tags={**spec.tags, **use_case_tags(self._use_case), **(BY_DAY if unique_id in self._models.by_day else {})},
        )
        return self._marked(whole, unique_id)

    def get_asset_check_spec(
        self, asset_spec: dg.AssetSpec, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None
    ) -> dg.AssetCheckSpec | None:
        """The check of a test, described by the words of its YAML file, or else by its kind and column."""
        spec = super().get_asset_check_spec(asset_spec, manifest, unique_id, project)
        test = manifest["nodes"][unique_id]
        kind = " of ".join(filter(None, [(test.get("test_metadata") or test)["name"], test.get("column_name")]))
        return spec and spec._replace(description=test["description"] or f"dbt: {kind}.")

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        """The key of a model is its table, that of a source dagster-dbt's: source and table."""
        if dbt_resource_props["resource_type"] == "model":
            return key((dbt_resource_props["schema"], dbt_resource_props["name"]))
        return super().get_asset_key(dbt_resource_props)

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """The description without the SQL, which stands in the repository."""
        return str(dbt_resource_props["description"])

    def _marked(self, spec: dg.AssetSpec, model: str) -> dg.AssetSpec:
        """The asset, tagged where it has the rows as they are now alone, with the names of such tables that it reads; a source as it is."""
        references = self._models.references
        if model not in references.models:
            return spec
        if references.is_without_history(model):
            spec = spec.replace_attributes(description=f"{spec.description} {OF_NOW}", tags={**spec.tags, **CURRENT_VALUE_ONLY})
        read = references.current_inputs(model)
        return spec.merge_attributes(metadata={names.CURRENT_VALUE_ONLY: ", ".join(read)}) if read else spec

    def get_metadata(self, dbt_resource_props: Mapping[str, Any]) -> Mapping[str, Any]:
        """Columns and name of the table, and how long it keeps versions; the database is known to a run alone."""
        table = f"{dbt_resource_props['schema']}.{dbt_resource_props['name']}"
        keeps = retention.kept_versions(dbt_resource_props)
        kept = {} if keeps is None else {retention.KEEPS_VERSIONS: str(keeps)}
        return {**super().get_metadata(dbt_resource_props), "dagster/table_name": table, **kept}


def defs(project: Project) -> dg.Definitions:
    """Raw tables, each once, and the dbt models of all use cases. A manifest that is missing or old is made first (some seconds).

    Raises SpecError where a model reads what its use case does not declare, reads the present for rows of the past, or declares a
    retention that cannot be kept.
    """
    folder, models = project_folder(), read_models(project)
    problems = list(models.problems())
    if problems:
        raise SpecError(problems)
    return dg.Definitions(
        assets=[
            *(_raw(project, contract, by_day=by_day) for contract, by_day in project.lake_contracts),
            *(built for use_case in project.use_cases for built in _of_use_case(models, use_case)),
        ],
        resources={"dbt": DbtCliResource(project_dir=str(folder), profiles_dir=str(folder), dbt_executable=PROGRAM_OF_RUNS)},
    )


def _raw(project: Project, contract: Contract, *, by_day: bool) -> dg.AssetsDefinition:
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


def _of_use_case(models: ProjectModels, use_case: UseCase) -> Iterator[dg.AssetsDefinition]:
    """The ops of dbt of a use case: one for what is built by the day, one for its registers, where it has any."""
    by_day, registers = models.selections(use_case)
    translator, span = Translator(models, use_case), days(models.project.span_of(use_case))
    if by_day.models:
        yield _models(names.cleaned_by_day(use_case.name), models, translator, by_day, span)
    if registers.models:
        yield _models(names.registers(use_case.name), models, translator, registers, None)


def _models(
    name: str,
    models: ProjectModels,
    translator: Translator,
    selection: Selection,
    by_day: dg.PartitionsDefinition[str] | None,
) -> dg.AssetsDefinition:
    specs, checks = _specs(models, translator, selection)
    lineage = read_lineage(project_folder())

    # As dagster-dbt's own decorator does, which would import dbt's selection of nodes for it: half a second at each load.
    @dg.multi_asset(
        name=name,
        specs=specs,
        check_specs=checks,
        can_subset=True,
        partitions_def=by_day,
        backfill_policy=dg.BackfillPolicy.single_run() if by_day is not None else None,
        op_tags={DAGSTER_DBT_SELECT_METADATA_KEY: selection.select, DAGSTER_DBT_EXCLUDE_METADATA_KEY: selection.exclude},
        pool=names.CLEANING,
        allow_arbitrary_check_specs=True,
    )
    def build(context: dg.AssetExecutionContext, config: Rebuild, platform: Platform, dbt: DbtCliResource) -> Iterator[DbtDagsterEventType]:
        asked = asked_days(context) if by_day is not None else None
        with dagster_errors():
            lost = list[RowsLost]()
            for event in _built(context, platform.settings, dbt, asked, full_refresh=config.full_refresh):
                try:
                    in_lake = _in_lake(platform.settings, models, event, asked, may_shrink=config.may_shrink)
                except RowsLost as error:
                    # The other tables are built and published first.
                    lost.append(error)
                else:
                    described = _with_lineage(models, lineage, in_lake)
                    yield _by_day(context, platform.settings, models, described, asked) if asked is not None else described
            if lost:
                raise lost[0]

    return build


def _specs(models: ProjectModels, translator: Translator, selection: Selection) -> tuple[list[dg.AssetSpec], list[dg.AssetCheckSpec]]:
    """The asset of each model, and the checks that its tests are."""
    assets = {model: translator.get_asset_spec(models.manifest, model, None) for model in sorted(selection.models)}
    checks = [
        translator.get_asset_check_spec(spec, models.manifest, test, None)
        for model, spec in assets.items()
        for test in sorted(selection.tests.intersection(models.manifest["child_map"][model]))
    ]
    return list(assets.values()), [check for check in checks if check is not None]


def _built(
    context: dg.AssetExecutionContext, settings: Settings, dbt: DbtCliResource, asked: Days | None, *, full_refresh: bool
) -> Iterator[DbtDagsterEventType]:
    """The events of a build by dbt: a materialization per model, an evaluation per test."""
    arguments = ["build", *(between(*asked) if asked is not None else []), *(["--full-refresh"] if full_refresh else [])]
    with run_folder(settings.home / "dbt", Path(dbt.project_dir)) as target:
        # dagster-dbt takes what dbt's profile reads from the environment of its own process.
        with in_environment(variables(settings)):
            invocation = dbt.cli(arguments, context=context.op_execution_context, target_path=target)
        with ending(invocation.process):
            events = read_ahead(_described(invocation))
            yield from events


def _described(invocation: DbtCliInvocation) -> Iterator[DbtDagsterEventType]:
    """The events of a run, those of models with the rows and columns of their tables.

    One event at a time: over a whole run dagster-dbt looks for the next one without a pause, which takes a core from dbt until its end.
    """
    for event in _events(invocation):
        if isinstance(event, dg.Output):
            counted = DbtEventIterator(iter([event]), invocation).fetch_row_counts()
            yield from DbtEventIterator(iter(list(counted)), invocation).fetch_column_metadata(with_column_lineage=False)
        else:
            yield event


def _events(invocation: DbtCliInvocation) -> Iterator[DbtDagsterEventType]:
    """The events of a run. The manifest of the graph was parsed without a warehouse; that of the run itself knows the database."""
    import stamina

    events = invocation.stream()
    for event in events:
        # dbt writes its manifest in place, and again at the end of the run: a quick run may be read in the middle of that.
        for attempt in stamina.retry_context(on=ValueError, attempts=None, timeout=60, wait_initial=0.05, wait_max=0.5):
            with attempt:
                invocation.manifest = invocation.get_artifact("manifest.json")
        yield event
        break
    yield from events


def _by_day(
    context: dg.AssetExecutionContext, settings: Settings, models: ProjectModels, event: DbtDagsterEventType, asked: Days
) -> DbtDagsterEventType:
    """The event, where it is of a table with what it says given to the days: to each its rows, to the newest all else."""
    if not isinstance(event, dg.Output):
        return event
    model = models.manifest["nodes"][event.metadata["unique_id"].value]
    table, event_at = (model["schema"], model["name"]), model["config"]["event_time"]
    rows = {} if event_at is None else rows_by_day(*asked, inspection.count_rows(settings, table, event_at, asked))
    report_days(context, rows, event.metadata, key(table))
    return event.with_metadata({})


def _with_lineage(models: ProjectModels, lineage: DbtLineage, event: DbtDagsterEventType) -> DbtDagsterEventType:
    """The event, where it is of a table with what its columns are computed from: the lineage that commands and rules have too."""
    if not isinstance(event, dg.Output):
        return event
    model = models.manifest["nodes"][event.metadata["unique_id"].value]
    found = column_lineage(lineage.read_by((model["schema"], model["alias"])))
    return event.with_metadata({**event.metadata, "dagster/column_lineage": found})


def _in_lake(
    settings: Settings, models: ProjectModels, event: DbtDagsterEventType, asked: Days | None, *, may_shrink: bool
) -> DbtDagsterEventType:
    """The event, once what changed of its table is in the lake, where features read the table."""
    if not isinstance(event, dg.Output):
        return event
    built = models.built(str(event.metadata["unique_id"].value))
    if built is None:
        return event
    from pipeline_assets.processing.cleaning.publish import publish

    done = publish(settings, built, asked, may_shrink=may_shrink)
    facts = {"lake_days_changed": sum(one.changed for one in done), "lake_commits": len(done)}
    last = {"lake_snapshot_id": str(done[-1].snapshot_after)} if done else {}
    since = retention.versions_since(settings, built.name)
    kept = {} if since is None else {"versions_since": since.isoformat()}
    return event.with_metadata({**event.metadata, **facts, **last, **kept})


def _loaded_metadata(contract: Contract, loaded: Loaded, *, by_day: bool) -> dict[str, Any]:
    sums = {"rows": loaded.rows, "replaced_rows": loaded.replaced}
    counted = of_run(sums) if by_day else {names.ROW_COUNT: loaded.rows, **sums}
    lineage = column_lineage({field.name: ((names.lake(contract.name), field.name),) for field in contract.fields})
    return {
        "dagster/column_lineage": lineage,
        **counted,
        "lake_snapshot_id": str(loaded.snapshot_id),
    }
