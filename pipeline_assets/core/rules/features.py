"""The rules of feature views and of request features, their columns' types included."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from math import isfinite
from zoneinfo import available_timezones

from pipeline_assets.core.aggregates import AGGREGATES
from pipeline_assets.core.columns import ColumnKind, Columns, Tables
from pipeline_assets.core.project import views_of
from pipeline_assets.core.rules.problems import LONGEST, Place, Problem, listed
from pipeline_assets.spec.features import ONLINE, TRANSFORMS, FeatureView, Latest, Learned, RequestFeature, Windowed
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase

KEYS: tuple[ColumnKind, ...] = ("string", "integer")
VALUES: tuple[ColumnKind, ...] = ("integer", "number", "boolean", "string", "timestamp", "date")
DEFAULTS: Mapping[ColumnKind, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,), "string": (str,)}
MOST_CATEGORIES = 10_000


def problems(use_case: UseCase, tables: Tables) -> Iterator[Problem]:
    """What is wrong with the views of a use case."""
    for view in views_of(use_case):
        yield from _view(view, tables)


def request_problems(model: Model, columns: Columns) -> Iterator[Problem]:
    """What is wrong with the request features of a model; `columns` are those of its observations."""
    place = Place(declared=model, subject=f"Model '{model.name}'")
    yield from place.names(f"{place.subject}: request feature", [feature.name for feature in model.request_features])
    for feature in model.request_features:
        yield from _request_feature(place.part(f"request feature '{feature.name}'"), feature, columns)


def of_kind(place: Place, field: str, column: str, columns: Columns, kinds: tuple[ColumnKind, ...]) -> Iterator[Problem]:
    """A problem unless the column is there and of one of the kinds."""
    if column not in columns:
        yield from place.one_of(field, column, columns)
    elif columns[column] not in kinds:
        fit = [name for name, kind in columns.items() if kind in kinds]
        yield place.problem(field, f"is '{column}' of type {columns[column]}", f"{' or '.join(kinds)}, such as {listed(fit)}")


def _view(view: FeatureView, tables: Tables) -> Iterator[Problem]:
    place = Place(declared=view, subject=f"View '{view.name}'")
    yield from place.names("View", [view.name])
    yield from place.names("Entity", [view.entity.name])
    yield from place.names(f"{place.subject}: feature", [feature.name for feature in view.features])
    yield from place.positive("freshness", view.freshness)
    yield from place.owner(view.owner)
    yield from place.one_of("online", view.online, (*ONLINE, None))
    if not view.features:
        yield place.problem("features", "is empty", "at least one feature")
    if view.source.name not in tables:
        yield from place.one_of("source", view.source.name, tables)
        return
    columns = tables[view.source.name]
    yield from _source(place, view, columns)
    for feature in view.features:
        part = place.part(f"feature '{feature.name}'")
        yield from _windowed(part, feature, columns) if isinstance(feature, Windowed) else _latest(part, feature, columns)


def _source(place: Place, view: FeatureView, columns: Columns) -> Iterator[Problem]:
    if not view.entity.keys or len({*view.entity.keys}) < len(view.entity.keys):
        yield place.problem("entity", f"has the keys {view.entity.keys}", "at least one key, each once")
    for key in view.entity.keys:
        yield from of_kind(place, "entity", key, columns, KEYS)
    for time in (view.source.event_at, view.source.known_at):
        yield from of_kind(place, f"source '{view.source.name}'", time, columns, ("timestamp",))
    if view.source.superseded_at is not None:
        yield from of_kind(place, f"source '{view.source.name}'", view.source.superseded_at, columns, ("timestamp",))
    for column in view.source.order_by:
        yield from place.one_of(f"source '{view.source.name}'", column, columns)


def _windowed(place: Place, feature: Windowed, columns: Columns) -> Iterator[Problem]:
    kind = AGGREGATES.get(feature.aggregate)
    if kind is None:
        yield from place.one_of("aggregate", feature.aggregate, AGGREGATES)
    elif feature.column is not None:
        yield from of_kind(place, "column", feature.column, columns, kind.takes)
    elif kind.needs_column:
        fit = [name for name, found in columns.items() if found in kind.takes]
        yield place.problem("column", "is missing", f"one of {listed(fit)}")
    if not feature.windows:
        yield place.problem("windows", "is empty", "at least one length of time")
    for window in feature.windows:
        if not timedelta(0) < window <= LONGEST or window % timedelta(minutes=1):
            yield place.problem("windows", f"holds {window}", "whole minutes, at most 100 years")
    if feature.hop is not None:
        yield from place.positive("hop", feature.hop)
    yield from _windowed_default(place, feature)


def _windowed_default(place: Place, feature: Windowed) -> Iterator[Problem]:
    default = feature.default
    if default is not None and feature.aggregate == "count":
        yield place.problem("default", "is set", "no default for a count, which is 0 where nothing happened")
    elif default is not None and (type(default) not in (int, float) or not isfinite(default)):
        yield place.problem("default", f"is {default!r}", "a finite number")


def _latest(place: Place, feature: Latest, columns: Columns) -> Iterator[Problem]:
    yield from of_kind(place, "column", feature.column, columns, VALUES)
    yield from _categories(place, feature.column, feature.values, columns)
    yield from _default(place, feature, columns.get(feature.column))
    if feature.ttl is not None:
        yield from place.positive("ttl", feature.ttl)


def _request_feature(place: Place, feature: RequestFeature, columns: Columns) -> Iterator[Problem]:
    yield from place.one_of("transform", feature.transform, TRANSFORMS)
    if feature.time_zone not in _time_zones():
        yield place.problem("time_zone", f"is {feature.time_zone!r}", "an IANA time zone such as America/New_York")
    if feature.transform != "value":
        yield from of_kind(place, "column", feature.column, columns, ("timestamp",))
        if feature.values:
            yield place.problem("values", "is set", "no values beside a part of a time, which is a number")
        if feature.default is not None:
            yield place.problem("default", "is set", "no default beside a part of a time")
        return
    yield from of_kind(place, "column", feature.column, columns, VALUES)
    yield from _categories(place, feature.column, feature.values, columns)
    yield from _default(place, feature, columns.get(feature.column))


def _default(place: Place, feature: RequestFeature | Latest, kind: ColumnKind | None) -> Iterator[Problem]:
    """A default has to be a value that the column may have; times have none, as they are counted from the decision."""
    default = feature.default
    if default is None or kind not in VALUES:
        return
    types = DEFAULTS.get(kind)
    if types is None:
        yield place.problem("default", "is set", f"no default for '{feature.column}', which is of type {kind}")
    elif type(default) not in types or (isinstance(default, float) and not isfinite(default)):
        yield place.problem("default", f"is {default!r}", f"a value of type {kind}, as '{feature.column}' is")
    elif isinstance(feature.values, tuple) and feature.values and default not in feature.values:
        yield from place.one_of("default", str(default), feature.values)


@cache
def _time_zones() -> frozenset[str]:
    """The names of all time zones; to list them opens some hundred files."""
    return frozenset(available_timezones())


def _categories(place: Place, column: str, values: tuple[str, ...] | Learned, columns: Columns) -> Iterator[Problem]:
    is_text = columns.get(column) == "string"
    if isinstance(values, Learned):
        yield from place.between("values", values.most, 1, MOST_CATEGORIES)
    elif len(set(values)) < len(values):
        yield place.problem("values", "holds a value twice", "each value once")
    if is_text and not values:
        yield place.problem("values", "is empty", "the values of this text, or Learned()")
    if values and column in columns and not is_text:
        yield place.problem("values", "is set", f"values on text alone; '{column}' is of type {columns[column]}")
