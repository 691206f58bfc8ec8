"""The assets of cleaning: raw tables, and the dbt models above them, one asset each, with dbt's tests as their checks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    dagster_errors,
    days,
    key,
    report_days,
    rows_by_day,
    use_case_tags,
)
from pipeline_assets.core.settings import Settings, in_environment
from pipeline_assets.processing.cleaning import inspection, retention
from pipeline_assets.processing.cleaning.dbt import PROGRAM_OF_RUNS, between, ending, project_folder, read_ahead, run_folder, variables
from pipeline_assets.processing.cleaning.lineage import DbtLineage, read_lineage
from pipeline_assets.processing.cleaning.models import Built, ProjectModels, Selection, read_models
from pipeline_assets.processing.cleaning.raw.assets import BY_DAY, Shrinking, raw_table
from pipeline_assets.processing.cleaning.raw_tables import Days
from pipeline_assets.processing.cleaning.unchanged import Facts, Look, Registers, Tested, definition_of, look_at, note_built
from pipeline_assets.spec.use_case import UseCase

Event = DbtDagsterEventType | dg.MaterializeResult[None] | dg.AssetCheckResult
# What runs build of models: their unit tests have the same rows each time, and belong to the tests of the project.
BUILT = ("--exclude-resource-type=unit_test",)
# How a model or test ends that need not be looked at again; a test that only warns has been evaluated.
DONE = frozenset(("success", "pass", "warn"))
CURRENT_VALUE_ONLY = {names.CURRENT_VALUE_ONLY: ""}
# What the description of an asset with that tag ends with.
OF_NOW = "Current value only: it has the rows as they are now, and what reads it for the past takes that for what was known then."


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
            *(raw_table(project, contract, by_day=by_day) for contract, by_day in project.lake_contracts),
            *(built for use_case in project.use_cases for built in _of_use_case(models, use_case)),
        ],
        resources={"dbt": DbtCliResource(project_dir=str(folder), profiles_dir=str(folder), dbt_executable=PROGRAM_OF_RUNS)},
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
    def build(context: dg.AssetExecutionContext, config: Rebuild, platform: Platform, dbt: DbtCliResource) -> Iterator[Event]:
        building = Building(context=context, settings=platform.settings, dbt=dbt, models=models, lineage=lineage, config=config)
        with dagster_errors():
            yield from building.of_days(asked_days(context)) if by_day is not None else building.of_registers(selection)

    return build


@dataclass(frozen=True, kw_only=True)
class Building:
    """A run of an op of dbt: what it builds, publishes and reports."""

    context: dg.AssetExecutionContext
    settings: Settings
    dbt: DbtCliResource
    models: ProjectModels
    lineage: DbtLineage
    config: Rebuild

    def of_days(self, asked: Days) -> Iterator[Event]:
        """Builds the rows of days, and what belongs to them; raises RowsLost when all tables that lose none are built and published."""
        lost = list[RowsLost]()
        for event in self._built(between(*asked)):
            try:
                in_lake = self._in_lake(event, asked)
            except RowsLost as error:
                lost.append(error)
            else:
                yield _by_day(self.context, self.settings, self.models, _with_lineage(self.models, self.lineage, in_lake), asked)
        if lost:
            raise lost[0]

    def of_registers(self, selection: Selection) -> Iterator[Event]:
        """Builds the tables without days that would come out otherwise than they are, and reports the others as they are."""
        before = look_at(self.settings, self._chosen(selection))
        if self.config.full_refresh:
            before = replace(before, notes={})
        for model, facts in before.unchanged.items():
            yield from self._left(before, model, facts)
        if before.due:
            tested = dict[dg.AssetKey, list[Tested]]()
            results = dict[str, str]()
            for event in self._built([], leaving=sorted(before.unchanged), results=results):
                if isinstance(event, dg.AssetCheckResult) and event.asset_key is not None:
                    tested.setdefault(event.asset_key, []).append(_tested(event))
                yield _with_lineage(self.models, self.lineage, self._in_lake(event, None))
            done = [model for model in before.due if before.registers.tests_of(model) <= results.keys()]
            note_built(self.settings, before, {model: self._facts(model, tested) for model in done})

    def _chosen(self, selection: Selection) -> Registers:
        """The models that this run is asked for, with the tests that come with them."""
        chosen = frozenset(model for model in selection.models if self._key(model) in self.context.selected_asset_keys)
        made_by = definition_of(Path(self.dbt.project_dir))
        return Registers(definition=made_by, manifest=self.models.manifest, models=chosen, tests=selection.tests)

    def _key(self, model: str) -> dg.AssetKey:
        node = self.models.manifest["nodes"][model]
        return key((node["schema"], node["name"]))

    def _left(self, before: Look, model: str, facts: Facts) -> Iterator[Event]:
        """What is reported of a table that is as it would be built again: so, and the results that its tests had."""
        asset, built = self._key(model), self.models.built(model)
        in_lake = {} if built is None else _published(self.settings, built, None, may_shrink=False, at=facts.lake_snapshot)
        rows = before.rows(model)
        lineage = column_lineage(self.lineage.read_by(before.registers.table(model)))
        counted = {} if rows is None else {names.ROW_COUNT: rows}
        yield dg.MaterializeResult(asset, metadata={names.UNCHANGED: True, "dagster/column_lineage": lineage, **counted, **in_lake})
        asked = {check.name for check in self.context.selected_asset_check_keys if check.asset_key == asset}
        yield from (_said_again(asset, test) for test in facts.tests if test.name in asked)

    def _facts(self, model: str, tested: Mapping[dg.AssetKey, Sequence[Tested]]) -> Facts:
        from pipeline_assets.processing.lake.tables import snapshot_id

        built = self.models.built(model)
        snapshot = None if built is None else snapshot_id(self.settings, names.cleaned(built.name))
        return Facts(tests=tuple(tested.get(self._key(model), ())), lake_snapshot=snapshot)

    def _in_lake(self, event: DbtDagsterEventType, asked: Days | None) -> DbtDagsterEventType:
        """The event, once what changed of its table is in the lake, where features read the table."""
        if not isinstance(event, dg.Output):
            return event
        built = self.models.built(str(event.metadata["unique_id"].value))
        if built is None:
            return event
        return event.with_metadata({**event.metadata, **_published(self.settings, built, asked, may_shrink=self.config.may_shrink)})

    def _built(
        self, arguments: Sequence[str], leaving: Sequence[str] = (), results: dict[str, str] | None = None
    ) -> Iterator[DbtDagsterEventType]:
        """The events of a build by dbt: a materialization per model, an evaluation per test. `results` gets how each of them ended."""
        others = self.models.named(leaving)
        full = ["--full-refresh"] if self.config.full_refresh else []
        command = ["build", *BUILT, *arguments, *full, *(["--exclude", " ".join(others)] if others else [])]
        with run_folder(self.settings.home / "dbt", Path(self.dbt.project_dir)) as target:
            # dagster-dbt takes what dbt's profile reads from the environment of its own process.
            with in_environment(variables(self.settings)):
                invocation = self.dbt.cli(command, context=self.context.op_execution_context, target_path=target)
            with ending(invocation.process):
                yield from read_ahead(_described(invocation))
            if results is not None:
                found = invocation.get_artifact("run_results.json")["results"]
                results.update({one["unique_id"]: one["status"] for one in found if one["status"] in DONE})


def _tested(result: dg.AssetCheckResult) -> Tested:
    """The result of a test as it is noted."""
    failed = (result.metadata or {}).get("dagster_dbt/failed_row_count")
    return Tested(
        name=str(result.check_name),
        passed=result.passed,
        severity=result.severity.value,
        description=result.description,
        failed_rows=None if failed is None else int(str(getattr(failed, "value", failed))),
    )


def _said_again(asset: dg.AssetKey, test: Tested) -> dg.AssetCheckResult:
    """The result that a test had, of a table that has not changed since."""
    rows = {} if test.failed_rows is None else {"dagster_dbt/failed_row_count": test.failed_rows}
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=test.name,
        passed=test.passed,
        severity=dg.AssetCheckSeverity(test.severity),
        description=test.description,
        metadata={names.UNCHANGED: True, **rows},
    )


def _specs(models: ProjectModels, translator: Translator, selection: Selection) -> tuple[list[dg.AssetSpec], list[dg.AssetCheckSpec]]:
    """The asset of each model, and the checks that its tests are."""
    assets = {model: translator.get_asset_spec(models.manifest, model, None) for model in sorted(selection.models)}
    checks = [
        translator.get_asset_check_spec(spec, models.manifest, test, None)
        for model, spec in assets.items()
        for test in sorted(selection.tests.intersection(models.manifest["child_map"][model]))
    ]
    return list(assets.values()), [check for check in checks if check is not None]


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


def _published(settings: Settings, built: Built, asked: Days | None, *, may_shrink: bool, at: int | None = None) -> dict[str, str | int]:
    """What a publication of a table to the lake did."""
    from pipeline_assets.processing.cleaning.publish import publish

    done = publish(settings, built, asked, may_shrink=may_shrink, at=at)
    facts = {"lake_days_changed": sum(one.changed for one in done), "lake_commits": len(done)}
    last = {"lake_snapshot_id": str(done[-1].snapshot_after)} if done else {}
    since = retention.versions_since(settings, built.name)
    kept = {} if since is None else {"versions_since": since.isoformat()}
    return {**facts, **last, **kept}
