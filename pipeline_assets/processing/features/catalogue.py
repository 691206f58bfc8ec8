"""What the features of a model are: their columns in order, what they are made of, how far back they look, and the hash of all that."""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from pipeline_assets.core import names
from pipeline_assets.processing.features.request import REQUEST, request_feature_name
from pipeline_assets.processing.features.windows import hop_of
from pipeline_assets.spec.features import FeatureView, Latest, RequestFeature, Windowed
from pipeline_assets.spec.models import Model

# Counts up whenever the kernel gives other values for the same declaration, so that a model trained before is told apart.
SEMANTICS = 1
MICROSECOND = timedelta(microseconds=1)
AGGREGATES = {
    "count": "Number of {rows}",
    "sum": "Sum of {column} over {rows}",
    "mean": "Mean of {column} over {rows}",
    "stddev": "Standard deviation (of the sample) of {column} over {rows}",
    "variance": "Variance (of the sample) of {column} over {rows}",
    "min": "Least {column} of {rows}",
    "max": "Greatest {column} of {rows}",
    "last": "Newest {column} of {rows}",
    "rate": "Share with {column} among {rows}",
    "time_since_last": "Seconds since the newest of {rows}",
}


@dataclass(frozen=True, kw_only=True)
class FeatureColumn:
    """One input of a model.

    view: the feature view, or `request`. source: the cleaned table. column: of the source; None where events as such are counted.
    aggregate: that of a windowed feature, `latest`, or the transform of a request feature. window: None where it has none.
    """

    name: str
    dtype: Literal["int64", "float64"]
    view: str
    source: str
    column: str | None
    aggregate: str
    window: timedelta | None
    description: str


def feature_columns(model: Model) -> tuple[FeatureColumn, ...]:
    """All inputs of the model in their order: the features of its views, then the request features."""
    of_views = [column for view in model.views for column in view_columns(view)]
    return (*of_views, *(_request_column(model, feature) for feature in model.request_features))


def view_columns(view: FeatureView) -> tuple[FeatureColumn, ...]:
    """The features of one view in the order of their declaration."""
    columns: list[FeatureColumn] = []
    for feature in view.features:
        if isinstance(feature, Latest):
            columns.append(_latest_column(view, feature))
        else:
            columns.extend(_window_column(view, feature, window) for window in feature.windows)
    return tuple(columns)


def lookback(view: FeatureView) -> timedelta | None:
    """How long before a decision an event can have happened and still count; None if there is no limit."""
    spans: list[timedelta | None] = []
    for feature in view.features:
        if isinstance(feature, Latest):
            spans.append(feature.ttl)
        else:
            spans.extend(window + hop_of(window, feature.hop) for window in feature.windows)
    limited = [span for span in spans if span is not None]
    return max(limited) if len(limited) == len(spans) else None


def view_hash(view: FeatureView) -> str:
    """SHA-256 (hex) of everything in the declaration that values depend on; names count, owners and descriptions do not."""
    return _sha256(
        {
            "semantics": SEMANTICS,
            "view": view.name,
            "keys": view.entity.keys,
            "source": [view.source.name, view.source.event_at, view.source.known_at, view.source.order_by],
            "features": [_canonical(feature) for feature in view.features],
        }
    )


def definition_hash(model: Model) -> str:
    """SHA-256 (hex) of everything that the values of the model's inputs, and their order, depend on."""
    request = [[feature.name, feature.column, feature.transform, feature.time_zone, feature.values] for feature in model.request_features]
    return _sha256({"semantics": SEMANTICS, "views": [view_hash(view) for view in model.views], "request": request})


def _canonical(feature: Windowed | Latest) -> dict[str, Any]:
    if isinstance(feature, Latest):
        return {"latest": feature.name, "column": feature.column, "ttl": _microseconds(feature.ttl)}
    tiles = [[_microseconds(window), _microseconds(hop_of(window, feature.hop))] for window in feature.windows]
    return {"windowed": feature.name, "aggregate": feature.aggregate, "column": feature.column, "windows_and_hops": tiles}


def _microseconds(span: timedelta | None) -> int | None:
    return None if span is None else span // MICROSECOND


def _sha256(declaration: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(declaration, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _window_column(view: FeatureView, feature: Windowed, window: timedelta) -> FeatureColumn:
    told = AGGREGATES[feature.aggregate].format(rows=view.source.name.replace("_", " "), column=feature.column)
    return FeatureColumn(
        name=names.feature(view.name, feature.name, window),
        dtype="int64" if feature.aggregate == "count" else "float64",
        view=view.name,
        source=view.source.name,
        column=feature.column,
        aggregate=feature.aggregate,
        window=window,
        description=f"{told} of the {view.entity.name} in the {names.span(window)} before the decision.",
    )


def _latest_column(view: FeatureView, feature: Latest) -> FeatureColumn:
    age = "" if feature.ttl is None else f", if not older than {names.span(feature.ttl)}"
    return FeatureColumn(
        name=names.feature(view.name, feature.name),
        dtype="float64",
        view=view.name,
        source=view.source.name,
        column=feature.column,
        aggregate="latest",
        window=None,
        description=f"Newest known {feature.column} of the {view.entity.name}, from {view.source.name.replace('_', ' ')}{age}.",
    )


def _request_column(model: Model, feature: RequestFeature) -> FeatureColumn:
    is_plain = feature.transform == "value" and not feature.values
    return FeatureColumn(
        name=request_feature_name(feature),
        dtype="float64" if is_plain else "int64",
        view=REQUEST,
        source=model.observations.table,
        column=feature.column,
        aggregate=feature.transform,
        window=None,
        description=feature.description,
    )
