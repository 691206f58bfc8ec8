"""The dbt models of a project: which of them the use cases need, which are built by the day, and how dbt is asked for them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline_assets.core import names
from pipeline_assets.core.columns import Columns
from pipeline_assets.core.problems import DeclarationProblem
from pipeline_assets.core.project import Project, tables_of
from pipeline_assets.processing.cleaning import retention
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.processing.cleaning.references import References
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    from pipeline_assets.processing.cleaning.row_by_row import StreamProblem

# Where in a model's path through dbt's project (project, use case, staging or cleaned, name) its use case stands.
FOLDER = 1
# What dbt builds as tables or views.
TABLES = ("model", "seed", "snapshot")
# The incremental strategy that notes which days it changes.
NOTING_STRATEGY = "replace_days"
# What the macro `versions_of` calls the end of a version.
SUPERSEDED_AT = "superseded_at"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The models and tests of one op of a use case, and the arguments by which dbt selects them."""

    models: frozenset[str]
    tests: frozenset[str]
    select: str
    exclude: str = ""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A cleaned table as dbt builds it, with its declared columns.

    A table that is built by the day has an `event_at`, by whose UTC day the lake keeps it, and `keys`, which identify a row. `is_noted`
    says whether dbt notes which days of it change; of a view it does not, nor where a model has a strategy of its own. `made_from` are the
    contracts of the rows by day that it is made from, directly or through others.
    """

    name: str
    columns: Columns
    event_at: str | None
    keys: tuple[str, ...]
    is_noted: bool
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProjectModels:
    """dbt's manifest, as far as the chosen use cases need it. Models are named by dbt's unique ids.

    A use case builds the models of its own folder. What it reads of the folder of a use case that is not chosen it builds too, so that each
    choice of use cases is complete; other models of such a folder are nobody's.
    """

    project: Project
    manifest: Mapping[str, Any]

    @cached_property
    def by_day(self) -> frozenset[str]:
        """The models that are built by the day: all that read a raw table that is loaded by the day, directly or through others."""
        return _reached(self._daily_tables, self.manifest["child_map"]) & self._models

    @cached_property
    def references(self) -> References:
        """The models as reference data; versions end in the column of `versions_of`, or in one that declarations name."""
        models = self.project.models
        declared = {
            *(view.source.superseded_at for view in self.project.views),
            *(model.label.superseded_at for model in models),
            *(model.observations.versions.superseded_at for model in models if model.observations.versions is not None),
        }
        ends = frozenset(end for end in (SUPERSEDED_AT, *declared) if end is not None)
        return References(manifest=self.manifest, models=self._models, by_day=self.by_day, ends=ends)

    def selections(self, use_case: UseCase) -> tuple[Selection, Selection]:
        """The models of a use case that are built by the day, and its registers; either may have none."""
        own, borrowed = self._own(use_case), self._borrowed[use_case.name]
        tables = sorted(_reached(own, self.manifest["parent_map"]) & self._daily_tables)
        below = [f"source:{self.manifest['sources'][table]['source_name']}.{self._table(table)}+" for table in tables]
        folder = f"fqn:{self.manifest['metadata']['project_name']}.{use_case.name}"
        by_day = [*(f"{folder},{daily}" for daily in below), *self.named(borrowed & self.by_day)]
        registers = [folder, *self.named(borrowed - self.by_day)]
        daily, others = (own | borrowed) & self.by_day, (own | borrowed) - self.by_day
        # As dbt selects: each test that reads one of the models, and none that reads what is excluded.
        excluded = _reached(tables, self.manifest["child_map"])
        return (
            Selection(models=daily, tests=self._tests_of(daily), select=" ".join(by_day)),
            Selection(models=others, tests=self._tests_of(others) - excluded, select=" ".join(registers), exclude=" ".join(below)),
        )

    def compared_with(self, model: str) -> frozenset[str]:
        """The other models that tests of a model read; a test that finds none of its tables is an error to dbt, not a failed test."""
        return self._compared.get(model, frozenset()) - {model}

    def built(self, model: str) -> Built | None:
        """How a model builds a table that features read; None for one that they do not."""
        node = self.manifest["nodes"][model]
        if node["schema"] != names.CLEANED or node["name"] not in self.project.feature_tables:
            return None
        config, columns = node["config"], self.project.tables[node["name"]]
        key, event_at = config["unique_key"] or (), config["event_time"]
        keys = (key,) if isinstance(key, str) else tuple(key)
        noting = {"table": True, "incremental": config["incremental_strategy"] == NOTING_STRATEGY}
        is_noted = noting.get(config["materialized"], False)
        above = _reached([model], self.manifest["parent_map"]) & self._daily_tables if event_at else ()
        return Built(
            name=node["name"],
            columns=columns,
            event_at=event_at,
            keys=keys if event_at else (),
            is_noted=is_noted,
            made_from=tuple(sorted(map(self._table, above))),
        )

    @property
    def published(self) -> tuple[Built, ...]:
        """How each cleaned table is built that features read, and that the lake has a copy of."""
        models = sorted(name for name in self._models if self.manifest["nodes"][name]["resource_type"] == "model")
        return tuple(built for name in models if (built := self.built(name)) is not None)

    def problems(self) -> Iterator[DeclarationProblem]:
        """What models read that is not declared or is of another time, retentions and views that cannot be kept so."""
        for use_case in self.project.use_cases:
            for model in sorted(self._own(use_case) | self._borrowed[use_case.name]):
                yield from self._undeclared(use_case, model)
                yield from self._of_other_days(use_case, model)
                for problem, expected in self.references.problems(model):
                    yield self._problem(use_case, model, problem, expected)
                yield from self._retention(use_case, model)
        for view in self.project.views:
            if view.online == "stream":
                yield from self._not_of_stream(view)

    def _undeclared(self, use_case: UseCase, model: str) -> Iterator[DeclarationProblem]:
        declared = {contract.name for contract, _ in self.project.lake_contracts}
        for table in self._raw_tables & set(self.manifest["parent_map"][model]):
            if self._table(table) not in declared:
                expected = "a raw table of a source or stream that a chosen use case lists; import it where another use case declares it"
                yield self._problem(use_case, model, f"reads raw.{self._table(table)}, which is of none", expected)

    def _of_other_days(self, use_case: UseCase, model: str) -> Iterator[DeclarationProblem]:
        span = self.project.span_of(use_case)
        for parent in self.manifest["parent_map"][model]:
            other = self._chosen.get(self._folder(parent)) if parent in self._models else None
            if other is not None and parent in self.by_day and self.project.span_of(other) != span:
                expected = f"use cases that share a source, a stream or a view, so that both have the same days; list one of '{other.name}'"
                yield self._problem(
                    use_case, model, f"reads {self._name(parent)} of use case '{other.name}', which has other days", expected
                )

    def _retention(self, use_case: UseCase, model: str) -> Iterator[DeclarationProblem]:
        node = self.manifest["nodes"][model]
        for problem, expected in retention.problems(self.project, self.manifest, model):
            found = self._problem(use_case, model, problem, expected)
            file = f"dbt_project/{node['patch_path'].partition('://')[2]}"
            yield replace(found, field=retention.KEEPS_VERSIONS, file=file)

    def _not_of_stream(self, view: FeatureView) -> Iterator[DeclarationProblem]:
        for found in self._not_derivable(view.source.name):
            place = f"dbt_project/{found.file}" + (f", line {found.line}" if found.line is not None else "")
            yield DeclarationProblem(
                use_case=self.project.home_of_view(view).name,
                file=f"{place}, or the view",
                subject=f"View '{view.name}'",
                field="online",
                problem=f"is 'stream', but {found}",
                expected=f"rows of {view.source.name} each of which follows from one event of one stream; "
                "or online='table', which serves the view by following its table",
            )

    def _not_derivable(self, table: str) -> "tuple[StreamProblem, ...]":
        """What keeps a cleaned table from being derived of a stream; several views may read it."""
        if table not in self._streamed:
            from pipeline_assets.processing.cleaning.row_by_row import of_other_source, problems

            streams = {stream.contract.name for stream in self.project.streams}
            self._streamed[table] = problems(self.manifest, table) or of_other_source(self.manifest, table, streams)
        return self._streamed[table]

    @cached_property
    def _streamed(self) -> "dict[str, tuple[StreamProblem, ...]]":
        return {}

    def _problem(self, use_case: UseCase, model: str, problem: str, expected: str) -> DeclarationProblem:
        file = f"dbt_project/{self.manifest['nodes'][model]['original_file_path']}"
        subject = f"Model '{self._name(model)}' of dbt"
        return DeclarationProblem(use_case=use_case.name, file=file, subject=subject, field="", problem=problem, expected=expected)

    @cached_property
    def _chosen(self) -> dict[str, UseCase]:
        return {use_case.name: use_case for use_case in self.project.use_cases}

    @cached_property
    def _models(self) -> frozenset[str]:
        return frozenset(name for name, node in self.manifest["nodes"].items() if node["resource_type"] in TABLES)

    @cached_property
    def _raw_tables(self) -> frozenset[str]:
        return frozenset(name for name, table in self.manifest["sources"].items() if table["schema"] == names.RAW)

    @cached_property
    def _daily_tables(self) -> frozenset[str]:
        daily = {contract.name for contract, by_day in self.project.lake_contracts if by_day}
        return frozenset(table for table in self._raw_tables if self._table(table) in daily)

    @cached_property
    def _borrowed(self) -> dict[str, frozenset[str]]:
        """By use case, the models of folders that are not chosen which it reads and no use case before it."""
        taken: set[str] = set()
        found = {}
        for use_case in self.project.use_cases:
            tables = {names.cleaned(table) for table in tables_of(use_case)}
            read = {model for model in self._models if self._schema_and_name(model) in tables}
            needed = self._above(self._own(use_case) | read)
            found[use_case.name] = frozenset(model for model in needed if self._folder(model) not in self._chosen) - taken
            taken |= found[use_case.name]
        return found

    def _tests_of(self, models: frozenset[str]) -> frozenset[str]:
        nodes, below = self.manifest["nodes"], self.manifest["child_map"]
        return frozenset(one for model in models for one in below[model] if one in nodes and nodes[one]["resource_type"] == "test")

    @cached_property
    def _compared(self) -> dict[str, frozenset[str]]:
        read: dict[str, frozenset[str]] = {}
        for node in self.manifest["nodes"].values():
            if node["resource_type"] == "test" and node["attached_node"] is not None:
                others = frozenset(node["depends_on"]["nodes"]) & self._models
                read[node["attached_node"]] = read.get(node["attached_node"], frozenset()) | others
        return read

    def _own(self, use_case: UseCase) -> frozenset[str]:
        return frozenset(model for model in self._models if self._folder(model) == use_case.name)

    def _above(self, models: Collection[str]) -> frozenset[str]:
        """The models with all models that they read, directly or through others."""
        return _reached(models, self.manifest["parent_map"]) & self._models

    def named(self, models: Collection[str]) -> list[str]:
        """How dbt selects models, each by its place in the project."""
        return sorted("fqn:" + ".".join(self.manifest["nodes"][model]["fqn"]) for model in models)

    def _schema_and_name(self, model: str) -> names.AssetName:
        return self.manifest["nodes"][model]["schema"], self._name(model)

    def _folder(self, model: str) -> str:
        return str(self.manifest["nodes"][model]["fqn"][FOLDER])

    def _name(self, model: str) -> str:
        return str(self.manifest["nodes"][model]["name"])

    def _table(self, source: str) -> str:
        return str(self.manifest["sources"][source]["name"])


def read_models(project: Project) -> ProjectModels:
    """The models of this code location's dbt project; a manifest that is missing or old is made first (some seconds)."""
    return ProjectModels(project=project, manifest=read_manifest(project_folder()))


def _reached(nodes: Collection[str], neighbours: Mapping[str, Collection[str]]) -> frozenset[str]:
    found = set(nodes)
    while more := {other for node in found for other in neighbours.get(node, ())} - found:
        found |= more
    return frozenset(found)
