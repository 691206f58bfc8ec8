"""The rules within and between use cases: what has one name is one thing, and what lands in one place comes from one declaration."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.sources import Files, PostgresTable, RestEndpoint, Source
from pipeline_assets.spec.use_case import UseCase


@dataclass(frozen=True, kw_only=True)
class Clash:
    """Two different objects with one name, in the use cases that declare them."""

    kind: str
    name: str
    first: tuple[UseCase, object]
    second: tuple[UseCase, object]


def clashes(use_cases: Sequence[UseCase]) -> Iterator[Clash]:
    """Every name that two different declarations have; equal ones are one and the same."""
    yield from _clashes("contract", use_cases, _contracts)
    yield from _clashes("origin", use_cases, lambda one: ((_origin(source), source) for source in _sources(one)))
    yield from _clashes("landing table", use_cases, _landing_tables)
    yield from _clashes("view", use_cases, lambda one: ((view.name, view) for view in _views(one)))
    yield from _clashes("entity", use_cases, lambda one: ((view.entity.name, view.entity) for view in _views(one)))
    yield from _clashes("cleaned table", use_cases, lambda one: ((view.source.name, view.source) for view in _views(one)))
    yield from _clashes("model", use_cases, lambda one: ((model.name, model) for model in one.models))


def _clashes(kind: str, use_cases: Sequence[UseCase], named: Callable[[UseCase], Iterable[tuple[str, object]]]) -> Iterator[Clash]:
    seen: dict[str, tuple[UseCase, object]] = {}
    for use_case in use_cases:
        for name, declared in named(use_case):
            is_first = name not in seen
            first = seen.setdefault(name, (use_case, declared))
            if first[1] != declared or (kind == "model" and not is_first):
                yield Clash(kind=kind, name=name, first=first, second=(use_case, declared))


def _contracts(use_case: UseCase) -> Iterator[tuple[str, object]]:
    yield from ((source.contract.name, source) for source in _sources(use_case))
    yield from ((stream.contract.name, stream) for stream in use_case.streams)


def _sources(use_case: UseCase) -> Iterator[Source]:
    """The sources of a use case, with those that its streams name as their histories, one as often as it is named."""
    yield from use_case.sources
    yield from (stream.history.source for stream in use_case.streams if stream.history is not None)


def _landing_tables(use_case: UseCase) -> Iterator[tuple[str, Source]]:
    """Where the changes of followed tables land, by the names that are made of theirs: signs become underscores."""
    for source in _sources(use_case):
        table = source.origin
        if source.load == "changes" and isinstance(table, PostgresTable):
            yield names.landed(names.changes_topic(table.database, table.schema, table.table))[1], source


def _views(use_case: UseCase) -> Iterator[FeatureView]:
    """The views of a use case, one as often as a model names it."""
    return (view for model in use_case.models for view in model.views)


def _origin(source: Source) -> str:
    match source.origin:
        case PostgresTable() as table:
            return f"{table.database}/{table.schema}.{table.table}"
        case RestEndpoint() as endpoint:
            return f"{endpoint.service}/{endpoint.path}"
        case Files() as files:
            return "/".join(names.files_asset(files.folder, files.pattern))
