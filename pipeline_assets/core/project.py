"""All use cases of a code location as one: each declared object once, who uses it, and which days it has."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from typing import TypeVar

from pipeline_assets.core import names
from pipeline_assets.core.columns import ColumnKind, Tables
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.versions import versioned
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.features import CleanedTable, FeatureView
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.sources import EventStream, Source
from pipeline_assets.spec.use_case import UseCase

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Span:
    """The partitions of an asset: UTC days from `first` to `last`, both inclusive; None: every day up to now."""

    first: date
    last: date | None


@dataclass(frozen=True, kw_only=True)
class Project:
    """The checked use cases of a code location, in the order of their names.

    An object that several use cases share (a source, a stream, a view) appears once; the first use case that declares it is its home.
    `tables` has the kinds of columns of each cleaned dbt model, by name. `platform` is the home of what the platform records of itself
    (`core.prediction_streams`), if it does: it is no use case, and has no models.
    """

    use_cases: tuple[UseCase, ...]
    tables: Tables = field(default_factory=dict, compare=False)
    platform: UseCase | None = None

    @cached_property
    def homes(self) -> tuple[UseCase, ...]:
        """What a source or a stream may belong to: the use cases, then the platform."""
        return self.use_cases if self.platform is None else (*self.use_cases, self.platform)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every source once, those that are only a stream's history included."""
        return _unique((source for use_case in self.use_cases for source in sources_of(use_case)), lambda one: one.contract.name)

    @cached_property
    def streams(self) -> tuple[EventStream, ...]:
        """Every declared stream once, then those of the platform."""
        return _unique((stream for home in self.homes for stream in home.streams), lambda one: one.contract.name)

    @cached_property
    def histories(self) -> frozenset[str]:
        """The contracts of sources that only fill streams with what came before their topics; their rows reach the lake as events."""
        return frozenset(stream.history.source.contract.name for stream in self.streams if stream.history is not None)

    @cached_property
    def lake_contracts(self) -> tuple[tuple[Contract, bool], ...]:
        """What the lake has a table of, each with whether it is kept by day: all sources but histories, then all streams.

        They are the contracts of all versions of the rows that are declared.
        """
        sources = ((one.contract, one.load == "daily") for one in self.sources if one.contract.name not in self.histories)
        streams = ((stream.contract, True) for stream in self.streams)
        return tuple((versioned(contract), by_day) for contract, by_day in (*sources, *streams))

    @cached_property
    def typed_tables(self) -> tuple[names.AssetName, ...]:
        """The typed rows of all streams, then of the change logs of followed tables."""
        logs = (names.change_log(source.contract.name) for source in self.sources if source.load == "changes")
        return tuple(names.typed(name) for name in (*(stream.contract.name for stream in self.streams), *logs))

    @cached_property
    def contracts(self) -> tuple[Contract, ...]:
        """The contracts of all sources, then of all streams."""
        return (*(source.contract for source in self.sources), *(stream.contract for stream in self.streams))

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """Every model."""
        return tuple(model for use_case in self.use_cases for model in use_case.models)

    @cached_property
    def views(self) -> tuple[FeatureView, ...]:
        """Every feature view that a model uses, once."""
        return _unique((view for use_case in self.use_cases for view in views_of(use_case)), lambda one: one.name)

    @cached_property
    def feature_tables(self) -> frozenset[str]:
        """The cleaned tables that features are computed from or for: the sources of all views, and the observations of all models."""
        return frozenset((*(view.source.name for view in self.views), *(model.observations.table for model in self.models)))

    def use_case(self, name: str) -> UseCase:
        """The use case of that name; raises UnknownName with those there are."""
        return _named("use case", name, {use_case.name: use_case for use_case in self.use_cases})

    def model(self, name: str) -> Model:
        """The model of that name; raises UnknownName with those there are."""
        return _named("model", name, {model.name: model for model in self.models})

    def models_of(self, view: FeatureView) -> tuple[Model, ...]:
        """The models that use a view."""
        return tuple(model for model in self.models if view in model.views)

    def kind_of(self, table: str, column: str) -> ColumnKind:
        """The kind of a column of a cleaned table; `other` for a table or column that no dbt project declares, as in a test."""
        return self.tables.get(table, {}).get(column, "other")

    def homes_of(self, contract: Contract) -> tuple[UseCase, ...]:
        """The use cases that declare a contract, or the platform, the home first."""
        return tuple(one for one in self.homes if contract.name in _contract_names(one))

    def home_of(self, contract: Contract) -> UseCase:
        """The first use case that declares a contract, or the platform."""
        return self.homes_of(contract)[0]

    def home_of_model(self, model: Model) -> UseCase:
        """The use case that declares a model."""
        return next(use_case for use_case in self.use_cases if model in use_case.models)

    def home_of_view(self, view: FeatureView) -> UseCase:
        """The first use case one of whose models uses a view."""
        return next(use_case for use_case in self.use_cases if view in views_of(use_case))

    def span_of(self, use_case: UseCase) -> Span:
        """The days of a use case: its own, and those of all use cases that it shares anything with, directly or through others."""
        related = next(group for group in self._related if use_case.name in {one.name for one in group})
        ends = [one.last_day for one in related]
        known = [end for end in ends if end is not None]
        return Span(first=min(one.first_day for one in related), last=max(known) if len(known) == len(ends) else None)

    @cached_property
    def _related(self) -> tuple[tuple[UseCase, ...], ...]:
        """The use cases in groups: two that share a contract, a view or a cleaned table are in one."""
        groups: list[list[UseCase]] = []
        for use_case in self.homes:
            near = [group for group in groups if any(_shares(use_case, other) for other in group)]
            groups = [group for group in groups if group not in near]
            groups.append([*(one for group in near for one in group), use_case])
        return tuple(tuple(group) for group in groups)


def whole_days(span: timedelta) -> int:
    """A span of time in days, rounded up."""
    return -(-span // timedelta(days=1))


def days_between(first: date, last: date) -> list[date]:
    """The days from the first to the last, inclusive."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


def longest_stretch(days: Sequence[date]) -> int:
    """How many of these days follow each other at most; they are in order, each once."""
    longest = length = 0
    for number, day in enumerate(days):
        length = length + 1 if number and day - days[number - 1] == timedelta(days=1) else 1
        longest = max(longest, length)
    return longest


def views_of(use_case: UseCase) -> tuple[FeatureView, ...]:
    """The views of all models of a use case, each once, in the order of the models."""
    return _unique((view for model in use_case.models for view in model.views), lambda one: one.name)


def sources_of(use_case: UseCase) -> tuple[Source, ...]:
    """The sources of a use case, and those that its streams name as their histories, each once."""
    histories = (stream.history.source for stream in use_case.streams if stream.history is not None)
    return _unique((*use_case.sources, *histories), lambda one: one.contract.name)


def tables_of(use_case: UseCase) -> dict[str, CleanedTable | None]:
    """The cleaned tables that a use case reads, by name, with how a view reads them (None: observations and labels alone do)."""
    read: dict[str, CleanedTable | None] = {view.source.name: view.source for view in views_of(use_case)}
    for model in use_case.models:
        read.setdefault(model.observations.table, None)
        read.setdefault(model.label.table, None)
    return read


def _contract_names(use_case: UseCase) -> set[str]:
    contracts = (*(one.contract for one in sources_of(use_case)), *(one.contract for one in use_case.streams))
    return {contract.name for contract in contracts}


def _shares(one: UseCase, other: UseCase) -> bool:
    return bool(
        _contract_names(one) & _contract_names(other)
        or {view.name for view in views_of(one)} & {view.name for view in views_of(other)}
        or tables_of(one).keys() & tables_of(other).keys()
    )


def _unique(found: Iterable[T], name: Callable[[T], str]) -> tuple[T, ...]:
    """The first object of each name; which of two is no question, as objects of one name are equal in a checked project."""
    first: dict[str, T] = {}
    for one in found:
        first.setdefault(name(one), one)
    return tuple(first.values())


def _named(kind: str, name: str, known: dict[str, T]) -> T:
    if name not in known:
        raise UnknownName(kind, name, list(known))
    return known[name]
