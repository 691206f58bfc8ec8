"""Which features there are: whose they are, what they are made of, and which models use them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipeline_assets.core import names
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.project import Project
from pipeline_assets.processing.cleaning.references import References
from pipeline_assets.processing.features.catalogue import FeatureColumn, feature_columns, view_columns
from pipeline_assets.processing.features.request import REQUEST
from pipeline_assets.spec.features import FeatureView, Latest


@dataclass(frozen=True, kw_only=True)
class ListedFeature:
    """One feature as a person asks about it.

    `view` is `request` for a fact of the request itself, which belongs to the model's owner and is as fresh as the request. `column` is
    None where events as such are counted. `window` is the span of events, or for `latest` the age up to which a value counts; None where
    there is no limit. `freshness` is how old the newest row of the source may be, None for the request. `models` are those that use it.
    `current_value_only` are the tables with the rows as they are now alone that it comes from: for the past they give the present.
    """

    name: str
    view: str
    entity: str | None
    owner: str
    source: str
    column: str | None
    aggregate: str
    window: str | None
    freshness: str | None
    models: tuple[str, ...]
    current_value_only: tuple[str, ...]
    type: str
    description: str


def list_features(project: Project, references: References) -> tuple[ListedFeature, ...]:
    """All features of a project: views in their order, each with the features in its order, then the facts of the request.

    A fact of the request that several models of one owner take in the same way is listed once.
    """
    of_views = [_listed(project, references, view, column) for view in project.views for column in view_columns(view)]
    users: dict[tuple[FeatureColumn, str], list[str]] = {}
    for model in project.models:
        for column in feature_columns(model):
            if column.view == REQUEST:
                users.setdefault((column, model.owner), []).append(model.name)
    return (*of_views, *(_of_request(references, column, owner, models) for (column, owner), models in users.items()))


def chosen(listed: Sequence[ListedFeature], text: str, model: str | None, view: str | None) -> list[ListedFeature]:
    """Those of a model and a view (None: any) that have a text in their name, source, column or description, whatever its case.

    Raises UnknownName for a model or view that has no feature.
    """
    for asked, known, kind in (
        (model, sorted({name for one in listed for name in one.models}), "model"),
        (view, sorted({one.view for one in listed}), "view"),
    ):
        if asked is not None and asked not in known:
            raise UnknownName(kind, asked, known)
    return [
        one
        for one in listed
        if (model is None or model in one.models)
        and (view is None or one.view == view)
        and any(text.lower() in part.lower() for part in (one.name, one.source, one.column or "", one.description))
    ]


def _listed(project: Project, references: References, view: FeatureView, column: FeatureColumn) -> ListedFeature:
    ages = {names.feature(view.name, feature.name): feature.ttl for feature in view.features if isinstance(feature, Latest)}
    return ListedFeature(
        name=column.name,
        view=view.name,
        entity=view.entity.name,
        owner=view.owner,
        source=".".join(names.cleaned(column.source)),
        column=column.column,
        aggregate=column.aggregate,
        window=_span(ages.get(column.name, column.window)),
        freshness=_span(view.freshness),
        models=tuple(model.name for model in project.models_of(view)),
        current_value_only=_of_now(references, column),
        type=column.dtype,
        description=column.description,
    )


def _of_request(references: References, column: FeatureColumn, owner: str, models: Sequence[str]) -> ListedFeature:
    return ListedFeature(
        name=column.name,
        view=REQUEST,
        entity=None,
        owner=owner,
        source=".".join(names.cleaned(column.source)),
        column=column.column,
        aggregate=column.aggregate,
        window=None,
        freshness=None,
        models=tuple(models),
        current_value_only=_of_now(references, column),
        type=column.dtype,
        description=column.description,
    )


def _of_now(references: References, column: FeatureColumn) -> tuple[str, ...]:
    return tuple(".".join(one.table) for one in references.current_only_below(column.source))


def _span(span: timedelta | None) -> str | None:
    return None if span is None else names.span(span)
