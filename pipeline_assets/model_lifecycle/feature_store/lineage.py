"""The way of columns through the project: from the fields of contracts by way of dbt to features, and on to models and predictions."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.processing.cleaning.lineage import DbtLineage, SourceColumn
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.processing.features.lineage import Dependencies, dependencies
from pipeline_assets.processing.features.request import REQUEST
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.models import Model, Observations

How = Literal["computed", "decided"]
# Column → those that depend on it, and how.
Edges = Mapping[SourceColumn, list[tuple[SourceColumn, How]]]
# What stands in place of a schema for what is no table: facts of the request, the label and the decisions of a model.
OF_REQUEST, LABEL, DECISION, SLICE = "request", "label", "decision", "slice"


def vector_lineage(model: Model) -> dict[str, tuple[SourceColumn, ...]]:
    """Column of a model's vectors → the columns that it comes from: features of views from the view's table, others from the observations.

    The hash of the features is made of them all.
    """
    asked = model.observations
    table = names.cleaned(asked.table)
    found = {name: (table, name) for name in (*asked.keys, asked.decision_at, *model.slices)}
    if asked.versions is not None:
        found[names.OBSERVATION_KNOWN_AT] = (table, asked.versions.known_at)
    for feature in feature_columns(model):
        is_of_request = feature.view == REQUEST
        found[feature.name] = (table, str(feature.column)) if is_of_request else (names.features(feature.view), feature.name)
    hashed = tuple(dict.fromkeys(found[feature.name] for feature in feature_columns(model)))
    return {**{name: (column,) for name, column in found.items()}, names.FEATURE_HASH: hashed}


def decision_columns(asked: Observations) -> tuple[str, ...]:
    """The columns by which decisions are made: their keys and times, and which version of a row counts."""
    versions = () if asked.versions is None else (asked.versions.known_at, asked.versions.superseded_at, asked.versions.version)
    return tuple(dict.fromkeys((*asked.keys, asked.decision_at, asked.event_at, *versions)))


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What depends on a column: `how` says whether any of it is computed from it, or only which rows there are is decided by it."""

    computed: frozenset[SourceColumn]
    decided: frozenset[SourceColumn]


@dataclass(frozen=True, kw_only=True)
class ProjectLineage:
    """The lineage of all columns of a project. A field of a contract is the column of its raw table, which is a copy of it."""

    project: Project
    dbt: DbtLineage

    def reached(self, column: SourceColumn) -> Reached:
        """All that depends on a column, directly or through others."""
        computed = self._below({column}, {"computed"})
        return Reached(computed=computed, decided=self._below({column}, {"computed", "decided"}) - computed)

    def contract(self, name: str) -> Contract | None:
        """The contract of that name; None where nobody declares one."""
        return next((one for one in self.project.contracts if one.name == name), None)

    def _below(self, columns: set[SourceColumn], ways: set[How]) -> frozenset[SourceColumn]:
        found, left = set[SourceColumn](), list(columns)
        while left:
            for below, how in self._edges.get(left.pop(), ()):
                if how in ways and below not in found:
                    found.add(below)
                    left.append(below)
        return frozenset(found)

    @cached_property
    def _edges(self) -> Edges:
        edges: dict[SourceColumn, list[tuple[SourceColumn, How]]] = defaultdict(list)
        for below, found in (*self._of_histories(), *self._of_dbt(), *self._of_views(), *self._of_models()):
            for column in found.computed_from:
                edges[column].append((below, "computed"))
            for column in found.decided_by:
                edges[column].append((below, "decided"))
        return dict(edges)

    def _of_histories(self) -> Iterator[tuple[SourceColumn, Dependencies]]:
        """The fields of events, which are those of the rows that were before their topic began."""
        for stream in self.project.streams:
            if stream.history is not None:
                table, theirs = names.raw(stream.contract.name), stream.history.source.contract
                for field in sorted({field.name for field in theirs.fields} & {field.name for field in stream.contract.fields}):
                    chosen = () if stream.history.field is None else ((names.raw(theirs.name), stream.history.field),)
                    yield (table, field), Dependencies(computed_from=((names.raw(theirs.name), field),), decided_by=chosen)

    def _of_dbt(self) -> Iterator[tuple[SourceColumn, Dependencies]]:
        for table, model in self.dbt.models.items():
            for name, origin in model.columns.items():
                found = Dependencies(computed_from=(*origin.same_row, *origin.other_rows), decided_by=model.decided_by)
                yield (table, name), found

    def _of_views(self) -> Iterator[tuple[SourceColumn, Dependencies]]:
        for view in self.project.views:
            asked = [model.observations for model in self.project.models_of(view)]
            for name, found in dependencies(view, asked).items():
                yield (names.features(view.name), name), found

    def _of_models(self) -> Iterator[tuple[SourceColumn, Dependencies]]:
        for model in self.project.models:
            asked, label = names.cleaned(model.observations.table), model.label
            table = names.cleaned(label.table)
            ends = () if label.superseded_at is None else (label.superseded_at,)
            chosen = tuple((table, column) for column in (*label.keys, label.known_at, *ends))
            yield ((LABEL, model.name), label.column), Dependencies(computed_from=((table, label.column),), decided_by=chosen)
            for kind, columns in ((DECISION, decision_columns(model.observations)), (SLICE, model.slices)):
                yield from ((((kind, model.name), column), _only((asked, column))) for column in columns)
            for feature in feature_columns(model):
                if feature.view == REQUEST:
                    yield ((OF_REQUEST, model.name), feature.name), _only((asked, str(feature.column)))


def _only(column: SourceColumn) -> Dependencies:
    return Dependencies(computed_from=(column,))


def named(column: SourceColumn) -> str:
    """A column as people write it: schema, table and column."""
    (schema, table), name = column
    return f"{schema}.{table}.{name}"


def by_table(columns: Iterable[SourceColumn]) -> dict[str, tuple[str, ...]]:
    """The names of columns by their table, both in the order of the alphabet."""
    found: dict[str, list[str]] = {}
    for (schema, table), name in sorted(set(columns)):
        found.setdefault(f"{schema}.{table}", []).append(name)
    return {table: tuple(listed) for table, listed in found.items()}
