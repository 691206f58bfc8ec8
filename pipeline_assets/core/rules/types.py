"""Whether the fields of declarations hold what their annotations say: asked before every other rule, which may then rely on it."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline_assets.core.rules.problems import Place, Problem
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.sources import EventStream, Source
from pipeline_assets.spec.use_case import UseCase

# What stands in a module under a name of its own; all else is a part of these.
SUBJECTS: Mapping[type, str] = {UseCase: "Use case", Source: "Source", EventStream: "Stream", FeatureView: "View", Model: "Model"}
LONGEST_VALUE = 60
# Python writes a union with a literal in it as the second.
UNIONS = (UnionType, Union)


def problems(use_case: UseCase) -> Iterator[Problem]:
    """Each field of the use case, and of all that it declares, that holds something else than its type; each object once."""
    yield from _of(use_case, Place(declared=use_case, subject=_subject(use_case)), "", set())


def _of(declared: object, place: Place, path: str, seen: set[int]) -> Iterator[Problem]:
    """The problems of an object and its parts; `path` leads to it from the object of `place`."""
    if type(declared) in SUBJECTS:
        if id(declared) in seen:
            return
        seen.add(id(declared))
        place, path = Place(declared=declared, subject=_subject(declared)), ""
    for name, kind in _hints(type(declared)).items():
        value, field = getattr(declared, name), f"{path}{name}"
        if not _fits(value, kind):
            yield place.problem(field, f"is {_shown(value)}", _worded(kind))
        for number, part in enumerate(value if isinstance(value, tuple) else ()):
            if _is_declared(part):
                yield from _of(part, place, f"{field}[{number}].", seen)
        if _is_declared(value):
            yield from _of(value, place, f"{field}.", seen)


def _is_declared(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _subject(declared: object) -> str:
    named = getattr(declared, "contract", declared)
    return f"{SUBJECTS[type(declared)]} '{getattr(named, 'name', '?')}'"


def _hints(kind: type) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {one.name: known[one.name] for one in fields(kind)}


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of a type. Of a literal the kind of value alone is asked, as a rule of its own names the allowed ones."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, type(arguments[0]))
    if origin in UNIONS:
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and _all_fit(value, arguments)
    if origin is not None:
        return isinstance(value, Mapping) and all(_fits(one, arguments[0]) and _fits(other, arguments[1]) for one, other in value.items())
    if kind in {int, float}:
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    # No rule knows a class derived from one of the declared; a time of day is no day.
    return type(value) is kind if is_dataclass(kind) or kind is date else isinstance(value, kind)


def _all_fit(values: tuple[object, ...], kinds: tuple[Any, ...]) -> bool:
    if kinds[-1] is Ellipsis:
        return all(_fits(value, kinds[0]) for value in values)
    return len(values) == len(kinds) and all(_fits(value, kind) for value, kind in zip(values, kinds, strict=True))


def _shown(value: object) -> str:
    text = type(value).__name__ if _is_declared(value) else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"a {type(value).__name__}"


def _worded(kind: Any) -> str:
    """A type in the words of its annotation."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in UNIONS:
        return " or ".join(_worded(one) for one in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a tuple of {_worded(arguments[0])}"
    if origin is not None:
        return f"{origin.__name__} of {', '.join(_worded(one) for one in arguments)}"
    return "None" if kind is NoneType else str(kind.__name__)
