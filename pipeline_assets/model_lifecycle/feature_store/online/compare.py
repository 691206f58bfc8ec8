"""Online beside offline: the same questions asked of the online store and of the lake, compared bit for bit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.core.online_errors import RequestFieldMissing
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online.copies import open_source
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader, Served
from pipeline_assets.model_lifecycle.feature_store.spine import check_requests, entity_keys, left_out
from pipeline_assets.spec.models import Model


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The features that were served, which were compared, how many values of each differ, and how many questions have each status."""

    served: pa.Table
    compared: Sequence[str]
    differing: Mapping[str, int]
    statuses: Mapping[str, Mapping[str, int]]


def online_features(settings: OnlineSettings, project: Project, feeds: Sequence[Feed], model: Model, spine: pa.Table, name: str) -> Served:
    """All features of a model in its order for a spine, as `offline.historical_features` takes it, from the online store.

    Raises as `questions_of` does, NotOnline for views that are not there, BehindState for a time that is no longer known.
    """
    asked = questions_of(project, model, spine, name)
    with open_source(settings, feeds_of_model(tuple(feeds), model)) as source:
        return Reader(source, model.views, model.request_features).read(asked)


def questions_of(project: Project, model: Model, spine: pa.Table, name: str) -> pa.Table:
    """The rows of a spine as a model's reader takes them.

    Raises TableRejected for a spine unfit for use, RequestFieldMissing for one without the column of a request feature that has no default.
    """
    for feature in left_out(model, spine.column_names):
        raise RequestFieldMissing(name, model.name, feature.name, feature.column)
    return check_requests(name, model, spine, kinds_of(project, model))


def beside(
    settings: OnlineSettings, project: Project, feeds: Sequence[Feed], model_name: str, spine: pa.Table, past: pa.Table, *, name: str
) -> Beside:
    """What the online store gives for a spine, held against what the lake gives (`past`: its rows with their features).

    Request features whose column the spine lacks are left out, as they are of `past`.
    """
    from pipeline_assets.model_lifecycle.feature_store.parity import differs

    model = project.model(model_name)
    omitted = left_out(model, spine.column_names)
    asked = replace(model, request_features=tuple(one for one in model.request_features if one not in omitted))
    served = online_features(settings, project, feeds, asked, spine, name)
    counts = {column: int(differs(served.features[column], past[column]).sum()) for column in served.features.column_names}
    return Beside(
        served=served.features,
        compared=served.features.column_names,
        differing={column: count for column, count in counts.items() if count},
        statuses=served.counts(),
    )


def kinds_of(project: Project, model: Model) -> dict[str, ColumnKind]:
    """The kinds of the columns of the observations that a question has: entity keys, and what features of the request are computed from."""
    asked = (*entity_keys(model), *(feature.column for feature in model.request_features))
    return {column: project.kind_of(model.observations.table, column) for column in asked}
