"""Loads the use cases and holds their declarations against the rules, so that a malformed one fails at load and not in a run.

All problems of all use cases are reported together: one that is broken hides no other.
"""

import ast
import importlib
import pkgutil
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from pipeline_assets.core.columns import Tables, cleaned_models
from pipeline_assets.core.errors import SpecError, UnknownName
from pipeline_assets.core.prediction_streams import use_case as platform
from pipeline_assets.core.problems import DeclarationProblem
from pipeline_assets.core.project import Project
from pipeline_assets.core.rules import features, models, sources, types
from pipeline_assets.core.rules.problems import Place, Problem
from pipeline_assets.core.rules.sharing import Clash, clashes
from pipeline_assets.core.settings import CodeSettings, read_code_settings
from pipeline_assets.spec.sources import EventStream
from pipeline_assets.spec.use_case import UseCase

DECLARED = "use_case"


@cache
def load_project() -> Project:
    """The use cases that the settings choose (default: all), checked; read once a process.

    Raises UnknownName for a use case that there is not, and SpecError with everything that breaks a rule.
    """
    return read_project(read_code_settings())


def read_project(settings: CodeSettings) -> Project:
    """The use cases of a package that the settings name, checked; raises as `load_project`."""
    package = importlib.import_module(settings.use_cases_package)
    known = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg)
    chosen = known if settings.use_cases is None else sorted(settings.use_cases)
    for name in chosen:
        if name not in known:
            raise UnknownName("use case", name, known)
    loaded = [_import(f"{settings.use_cases_package}.{name}", name) for name in chosen]
    use_cases = tuple(one for one in loaded if isinstance(one, UseCase))
    broken = [one for one in loaded if isinstance(one, DeclarationProblem)]
    return check(use_cases, settings.dbt_project, broken)


def check(use_cases: Sequence[UseCase], dbt_project: Path, broken: Sequence[DeclarationProblem] = ()) -> Project:
    """The use cases as one project; raises SpecError with `broken` and every problem of theirs, in the order of the diagram.

    Where there is a model, the platform records what is predicted with it, in streams of its own.
    """
    tables = cleaned_models(dbt_project)
    found, typed = list(broken), list[UseCase]()
    for use_case in use_cases:
        mistyped = [_of(use_case, problem) for problem in types.problems(use_case)]
        found += mistyped
        typed += [] if mistyped else [use_case]
    own = platform if any(use_case.models for use_case in typed) else None
    declared = typed if own is None else [own, *typed]
    streams = [stream for one in declared for stream in one.streams]
    found += [problem for use_case in typed for problem in _problems(use_case, tables, streams)]
    found += [_clash(clash) for clash in clashes(declared)]
    if found:
        raise SpecError(found)
    return Project(use_cases=tuple(use_cases), tables=tables, platform=own)


def _problems(use_case: UseCase, tables: Tables, streams: Collection[EventStream]) -> Iterator[DeclarationProblem]:
    of_rooms = (sources.problems(use_case, streams), features.problems(use_case, tables), models.problems(use_case, tables))
    return (_of(use_case, problem) for problem in chain(_own(use_case), *of_rooms))


def _of(use_case: UseCase, problem: Problem) -> DeclarationProblem:
    return DeclarationProblem(
        use_case=use_case.name,
        file=file_of(problem.declared),
        subject=problem.subject,
        field=problem.field,
        problem=problem.problem,
        expected=problem.expected,
    )


def _own(use_case: UseCase) -> Iterator[Problem]:
    """The rules of the use case itself."""
    place = Place(declared=use_case, subject=f"Use case '{use_case.name}'")
    yield from place.names("Use case", [use_case.name])
    yield from place.owner(use_case.owner)
    if use_case.name == platform.name:
        yield place.problem("name", f"is '{platform.name}'", "another name: what the platform records of itself has this one")
    if use_case.last_day is not None and use_case.last_day < use_case.first_day:
        yield place.problem("last_day", f"is {use_case.last_day}", f"a day not before first_day, {use_case.first_day}")
    if not use_case.models:
        yield place.problem("models", "is empty", "at least one model")


def _clash(clash: Clash) -> DeclarationProblem:
    (theirs, first), (ours, second) = clash.first, clash.second
    return DeclarationProblem(
        use_case=ours.name,
        file=file_of(second),
        subject=f"{clash.kind.capitalize()} '{clash.name}'",
        field="name",
        problem=f"is also declared in {file_of(first)} (use case '{theirs.name}'), differently" if clash.kind != "model"
        else f"is also a model of use case '{theirs.name}' in {file_of(first)}",
        expected="one declaration that the other use case imports, or another name",
    )  # fmt: skip


def _import(module: str, name: str) -> UseCase | DeclarationProblem:
    """The use case that a package declares as `use_case`, or what is wrong with the package."""
    folder = module.replace(".", "/")
    try:
        found = getattr(importlib.import_module(module), DECLARED, None)
    except Exception as error:  # noqa: BLE001 - whatever a declaration raises is reported with those of the other use cases
        return _not_imported(name, folder, error)
    if not isinstance(found, UseCase):
        problem = "is missing" if found is None else f"is a {type(found).__name__}"
        return _package_problem(name, f"{folder}/__init__.py", DECLARED, problem, "a UseCase of this name")
    if found.name != name:
        return _package_problem(name, f"{folder}/__init__.py", "name", f"is {found.name!r}", f"the name of its folder, {name!r}")
    return found


def _not_imported(name: str, folder: str, error: Exception) -> DeclarationProblem:
    """The import that failed, with the line of the use case on which it did."""
    own = [frame for frame in extract_tb(error.__traceback__) if f"/{folder}/" in Path(frame.filename).as_posix()]
    file = f"{folder}/{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else f"{folder}/__init__.py"
    problem = f"cannot be imported: {type(error).__name__}: {error}"
    return _package_problem(name, file, "", problem, "declarations in the words of pipeline_assets/spec")


def _package_problem(name: str, file: str, field: str, problem: str, expected: str) -> DeclarationProblem:
    return DeclarationProblem(
        use_case=name, file=file, subject=f"Use case '{name}'", field=field, problem=problem, expected=expected
    )  # fmt: skip


def file_of(declared: object) -> str:
    """The file in which an object is declared, from the root package on; what is declared inside another object is found by that."""
    modules = [module for module in list(sys.modules.values()) if _holds(module, declared)]
    assigned = [module for module in modules if _assigns(module, declared)]
    module = next(iter(assigned or modules), None)
    if module is None or module.__file__ is None:
        return "the use case"
    parents = len(module.__name__.split(".")) + (Path(module.__file__).name == "__init__.py")
    return Path(*Path(module.__file__).parts[-parents:]).as_posix()


def _holds(module: ModuleType, declared: object) -> bool:
    named = ".use_cases." in f".{module.__name__}." or hasattr(module, DECLARED)
    return named and any(value is declared for value in vars(module).values())


def _assigns(module: ModuleType, declared: object) -> bool:
    """Whether the module itself gives the object its name, rather than importing it."""
    own = {name for name, value in vars(module).items() if value is declared}
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    targets = [node.targets for node in tree.body if isinstance(node, ast.Assign)]
    return any(isinstance(target, ast.Name) and target.id in own for several in targets for target in several)
