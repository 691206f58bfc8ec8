"""What the features of a model are: their columns in order, what they are made of, how far back they look, and the hash of all that."""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from pipeline_assets.core import names
from pipeline_assets.core.aggregates import AGGREGATES
from pipeline_assets.processing.features.hops import hop_of
from pipeline_assets.processing.features.request import REQUEST, request_feature_name
from pipeline_assets.spec.features import FeatureView, Latest, Learned, RequestFeature, Windowed
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.processing.features.values import Categories

# Counts up whenever the kernel gives other values for the same declaration, so that a model trained before differs.
SEMANTICS = 1
MICROSECOND = timedelta(microseconds=1)
DType = Literal["int64", "float64", "string"]


@dataclass(frozen=True, kw_only=True)
class FeatureColumn:
    """One input of a model.

    view: the feature view, or `request`. source: the cleaned table. column: of the source; None where events as such are counted.
    aggregate: that of a windowed feature, `latest`, or the transform of a request feature. window: None where it has none. categories: the
    listed ones, whose code the feature is, or that training learns them from the text that the feature is; empty for numbers. empty: its
    value where nothing is known of the entity. default: the declared value that it has in place of null, a category as the feature has it.
    """

    name: str
    dtype: DType
    view: str
    source: str
    column: str | None
    aggregate: str
    window: timedelta | None
    description: str
    categories: "Categories" = ()
    empty: int | None = None
    default: float | str | None = None

    @property
    def nothing(self) -> float | str | None:
        """Its value where nothing counts for it."""
        return self.empty if self.default is None else self.default


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
    superseded = {} if view.source.superseded_at is None else {"superseded_at": view.source.superseded_at}
    return _sha256(
        {
            "semantics": SEMANTICS,
            **superseded,
            "view": view.name,
            "keys": view.entity.keys,
            "source": [view.source.name, view.source.event_at, view.source.known_at, view.source.order_by],
            "features": [_canonical(feature) for feature in view.features],
        }
    )


def definition_hash(model: Model) -> str:
    """SHA-256 (hex) of everything that the values of the model's inputs, and their order, depend on."""
    request = [
        [one.name, one.column, one.transform, one.time_zone, _categories(one.values), *([] if one.default is None else [one.default])]
        for one in model.request_features
    ]
    return _sha256({"semantics": SEMANTICS, "views": [view_hash(view) for view in model.views], "request": request})


def _canonical(feature: Windowed | Latest) -> dict[str, Any]:
    default = {} if feature.default is None else {"default": feature.default}
    if isinstance(feature, Latest):
        categories = {"values": _categories(feature.values)} if feature.values else {}
        return {"latest": feature.name, "column": feature.column, "ttl": _microseconds(feature.ttl), **categories, **default}
    tiles = [[_microseconds(window), _microseconds(hop_of(window, feature.hop))] for window in feature.windows]
    return {"windowed": feature.name, "aggregate": feature.aggregate, "column": feature.column, "windows_and_hops": tiles, **default}


def _categories(values: "Categories") -> list[str] | str:
    """What values depend on: of learned categories the feature is the text itself, however many training takes."""
    return "learned" if isinstance(values, Learned) else list(values)


def _microseconds(span: timedelta | None) -> int | None:
    return None if span is None else span // MICROSECOND


def _sha256(declaration: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(declaration, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _window_column(view: FeatureView, feature: Windowed, window: timedelta) -> FeatureColumn:
    kind = AGGREGATES[feature.aggregate]
    wording = kind.wording.format(rows=_rows_of(view), column=feature.column)
    return FeatureColumn(
        name=names.feature(view.name, feature.name, window),
        dtype=kind.dtype,
        view=view.name,
        source=view.source.name,
        column=feature.column,
        aggregate=feature.aggregate,
        window=window,
        description=f"{wording} of the {view.entity.name} in the {names.span(window)} before the decision.",
        empty=kind.empty,
        default=_plain(feature.default),
    )


def _rows_of(view: FeatureView) -> str:
    """What a person calls the rows that a view reads."""
    return view.source.name.removesuffix(names.HISTORY).replace("_", " ")


def _latest_column(view: FeatureView, feature: Latest) -> FeatureColumn:
    age = "" if feature.ttl is None else f", if not older than {names.span(feature.ttl)}"
    return FeatureColumn(
        name=names.feature(view.name, feature.name),
        dtype=_dtype(feature.values),
        view=view.name,
        source=view.source.name,
        column=feature.column,
        aggregate="latest",
        window=None,
        description=f"Newest known {feature.column} of the {view.entity.name}, from {_rows_of(view)}{age}.{_legend(feature.values)}",
        categories=feature.values,
        default=_default_of(feature),
    )


def _legend(values: "Categories") -> str:
    """What the codes of listed categories stand for, as the end of a description."""
    return f" Codes: {', '.join(f'{code} {value}' for code, value in enumerate(values))}." if isinstance(values, tuple) and values else ""


def _default_of(feature: Latest) -> float | str | None:
    """The default as the feature has it: the code of a listed category, learned ones as text."""
    if isinstance(feature.default, str):
        return feature.values.index(feature.default) if isinstance(feature.values, tuple) else feature.default
    return _plain(feature.default)


def _plain(default: float | None) -> float | None:
    """A number as values are: without a zero that has a sign."""
    return None if default is None else float(default) + 0.0


def _request_column(model: Model, feature: RequestFeature) -> FeatureColumn:
    return FeatureColumn(
        name=request_feature_name(feature),
        dtype=_dtype(feature.values) if feature.transform == "value" else "int64",
        view=REQUEST,
        source=model.observations.table,
        column=feature.column,
        aggregate=feature.transform,
        window=None,
        description=f"{feature.description}{_legend(feature.values)}",
        categories=feature.values,
    )


def _dtype(values: "Categories") -> DType:
    """The type of a plain value: text is learned, the code of a listed category is whole."""
    return "string" if isinstance(values, Learned) else "int64" if values else "float64"
