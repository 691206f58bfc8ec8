"""The rules between use cases: what has one name is one thing, and what lands in one place comes from one declaration."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline_assets.core.project import sources_of, views_of
from pipeline_assets.spec.features import CleanedTable
from pipeline_assets.spec.sources import PostgresTable, Source
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
    yield from _clashes("origin", use_cases, lambda one: {_origin(x): x for x in sources_of(one)})
    yield from _clashes("view", use_cases, lambda one: {view.name: view for view in views_of(one)})
    yield from _clashes("entity", use_cases, lambda one: {view.entity.name: view.entity for view in views_of(one)})
    yield from _clashes("cleaned table", use_cases, _tables)
    yield from _clashes("model", use_cases, lambda one: {model.name: model for model in one.models})


def _clashes(kind: str, use_cases: Sequence[UseCase], named: Callable[[UseCase], Mapping[str, object]]) -> Iterator[Clash]:
    seen: dict[str, tuple[UseCase, object]] = {}
    for use_case in use_cases:
        for name, declared in named(use_case).items():
            first = seen.setdefault(name, (use_case, declared))
            if first[1] != declared or (kind == "model" and first[0] is not use_case):
                yield Clash(kind=kind, name=name, first=first, second=(use_case, declared))


def _contracts(use_case: UseCase) -> dict[str, object]:
    sources: dict[str, object] = {source.contract.name: source for source in sources_of(use_case)}
    return sources | {stream.contract.name: stream for stream in use_case.streams}


def _origin(source: Source) -> str:
    origin = source.origin
    if isinstance(origin, PostgresTable):
        return f"{origin.database}/{origin.schema}.{origin.table}"
    return f"{origin.service}/{origin.path}"


def _tables(use_case: UseCase) -> dict[str, CleanedTable]:
    return {view.source.name: view.source for view in views_of(use_case)}
