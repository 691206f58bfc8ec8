"""A feature as a person asks about it: its declaration in words, the way down to its sources, and up to predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage, by_table, decision_columns
from pipeline_assets.model_lifecycle.feature_store.listing import ListedFeature, list_features
from pipeline_assets.model_lifecycle.feature_store.origins import Origin, origin_of
from pipeline_assets.processing.cleaning.lineage import SourceColumn
from pipeline_assets.processing.cleaning.references import References
from pipeline_assets.processing.features.lineage import Dependencies, dependencies
from pipeline_assets.processing.features.request import REQUEST


@dataclass(frozen=True, kw_only=True)
class User:
    """A model that uses a feature, and the table of the warehouse in which its predictions stand."""

    model: str
    use_case: str
    question: str
    owner: str
    predictions: str


@dataclass(frozen=True, kw_only=True)
class DescribedFeature:
    """A feature with its lineage, both ways.

    computed_from: the columns of cleaned tables that it is computed from, each with its way down to the fields of contracts; none where
    events as such are counted. rows_decided_by: by table, the columns that decide which rows count, on the whole way. used_by: the models.
    """

    feature: ListedFeature
    computed_from: tuple[Origin, ...]
    rows_decided_by: dict[str, tuple[str, ...]]
    used_by: tuple[User, ...]


def describe(lineage: ProjectLineage, references: References, name: str) -> tuple[DescribedFeature, ...]:
    """The feature of that name, or all features of the view of that name; raises UnknownName with near names.

    A fact of the request that models take differently is described once for each.
    """
    listed = list_features(lineage.project, references)
    chosen = [one for one in listed if name in {one.name, one.view}]
    if not chosen:
        raise UnknownName("feature or view", name, [*dict.fromkeys(known for one in listed for known in (one.name, one.view))])
    return tuple(_described(lineage, one) for one in chosen)


def describe_all(lineage: ProjectLineage, references: References) -> tuple[DescribedFeature, ...]:
    """All features, view by view in their order, then the facts of the request."""
    return tuple(_described(lineage, one) for one in list_features(lineage.project, references))


def _described(lineage: ProjectLineage, feature: ListedFeature) -> DescribedFeature:
    found = _dependencies(lineage, feature)
    return DescribedFeature(
        feature=feature,
        computed_from=tuple(origin_of(lineage, column) for column in found.computed_from),
        rows_decided_by=by_table(_deciding(lineage, found)),
        used_by=tuple(_user(lineage, model) for model in feature.models),
    )


def _dependencies(lineage: ProjectLineage, feature: ListedFeature) -> Dependencies:
    project = lineage.project
    if feature.view == REQUEST:
        asked = project.model(feature.models[0]).observations
        table = names.cleaned(asked.table)
        deciding = tuple((table, column) for column in decision_columns(asked))
        return Dependencies(computed_from=((table, str(feature.column)),), decided_by=deciding)
    view = next(one for one in project.views if one.name == feature.view)
    return dependencies(view, [model.observations for model in project.models_of(view)])[feature.name]


def _deciding(lineage: ProjectLineage, found: Dependencies) -> Sequence[SourceColumn]:
    """The columns that decide rows: those of the declaration, and those by which the tables on the way join, keep and group."""
    tables = {table for column, _ in found.all for table in lineage.dbt.tables_below(column)}
    return [*found.decided_by, *(one for table in sorted(tables) for one in lineage.dbt.models[table].decided_by)]


def _user(lineage: ProjectLineage, name: str) -> User:
    model = lineage.project.model(name)
    home = lineage.project.home_of_model(model)
    predictions = ".".join(names.predictions(name))
    return User(model=name, use_case=home.name, question=model.question, owner=model.owner, predictions=predictions)
