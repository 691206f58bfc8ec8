"""Modules that were proposed: what they declare, and whether that is in order; shared by the tests of proposals."""

import subprocess
import sys
from datetime import date
from pathlib import Path

from pipeline_assets.core.rules import sources, types
from pipeline_assets.spec.sources import EventStream, Source
from pipeline_assets.spec.use_case import UseCase

ROOT = Path(__file__).resolve().parents[1]


def declared(module: str) -> Source | EventStream:
    """The one source or stream that a module declares."""
    names: dict[str, object] = {}
    exec(compile(module, "proposal", "exec"), names)  # noqa: S102 - what was proposed is what is tested
    (found,) = [value for value in names.values() if isinstance(value, Source | EventStream)]
    return found


def source(module: str) -> Source:
    """The one source that a module declares."""
    found = declared(module)
    assert isinstance(found, Source)
    return found


def problems_of(found: Source | EventStream) -> list[str]:
    """What the rules of declarations say is wrong with it, field by field."""
    sources_of, streams = ((found,), ()) if isinstance(found, Source) else ((), (found,))
    use_case = UseCase(
        name="proposed", owner="team:test", description="", first_day=date(2013, 1, 1), last_day=None, sources=sources_of, streams=streams,
        models=(),
    )  # fmt: skip
    return [f"{one.field} {one.problem}" for one in (*types.problems(use_case), *sources.problems(use_case, use_case.streams))]


def formatted(module: str) -> str:
    """The module as the project's formatter writes it."""
    return _ruff(module, "format", "-")


def lint(module: str) -> str:
    """What the project's linter says of the module, as a file of a use case."""
    return _ruff(module, "check", "--no-cache", "--output-format", "concise", "--exit-zero", "-")


def _ruff(module: str, command: str, *arguments: str) -> str:
    name = ("--stdin-filename", "pipeline_assets/use_cases/bundesliga/proposed.py")
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, command, *name, *arguments], input=module, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout
