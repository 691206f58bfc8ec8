"""Errors cross the border of a process with all that they know."""

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from pipeline_assets.core.errors import PipelineError

ROOT = Path(__file__).parents[3]
OF_AN_ERROR = re.compile(r"^class \w+\(\w+\):\n    \"\"\"", re.MULTILINE)
PLAIN: Mapping[Any, object] = {
    str: "orders", int: 7, float: 0.25, bool: True, object: ("UTF8", "C"), Any: 7, type(None): None, Path: Path("dbt_project"),
    date: date(2013, 1, 2), datetime: datetime(2013, 1, 2, 3, tzinfo=UTC),
}  # fmt: skip


def modules() -> Iterator[str]:
    """The modules of the product that may declare an error."""
    for file in sorted((ROOT / "pipeline_assets").rglob("*.py")):
        if OF_AN_ERROR.search(file.read_text(encoding="utf-8")):
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts)


def kinds(root: type[PipelineError]) -> Iterator[type[PipelineError]]:
    """An error and all that are made from it, as far as their modules are loaded."""
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


def every_kind() -> list[type[PipelineError]]:
    """All errors of the product, each once."""
    for module in modules():
        import_module(module)
    return [kind for kind in dict.fromkeys(kinds(PipelineError)) if kind.__module__.startswith("pipeline_assets.")]


def fact(hint: Any) -> object:
    """Something of a type."""
    if hint in PLAIN:
        return PLAIN[hint]
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{one.name: fact(hints[one.name]) for one in fields(hint)})
    if is_typeddict(hint):
        return {name: fact(own) for name, own in get_type_hints(hint).items()}
    inner = [fact(one) for one in get_args(hint)]
    match get_origin(hint):
        case kind if kind is Mapping:
            return {inner[0]: inner[1]}
        case kind if kind is Sequence:
            return (inner[0],)
    return inner[0]


def made(kind: type[PipelineError]) -> PipelineError:
    """An error with a fact for each parameter of its constructor; with a sentence where it takes no others."""
    constructor = next((one.__init__ for one in kind.__mro__ if "__init__" in vars(one) and issubclass(one, PipelineError)), None)
    if constructor is None:
        return kind("It does not work.")
    hints, parameters = get_type_hints(constructor), list(signature(constructor).parameters.values())[1:]
    given = {one: fact(hints[one.name]) for one in parameters}
    named = {one.name: value for one, value in given.items() if one.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)}
    return kind(*(value for one, value in given.items() if one.name not in named), **named)


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: kind.__name__)
def test_an_error_comes_out_of_a_pool_of_processes_as_it_was(kind: type[PipelineError]) -> None:
    """Pickled and read again it has the same type, sentence, facts and notes.

    Regression: constructors take facts and the sentence alone was pickled, so that a question behind the stream ended a pool of processes.
    """
    error = made(kind)
    error.add_note("In partition 3.")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - of this test

    assert type(again) is kind
    assert str(again) == str(error) != ""
    assert vars(again) == vars(error)
