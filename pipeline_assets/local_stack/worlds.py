"""The outside worlds of a project, as their files describe them: `simulator/<world>/world.toml`.

A world is what the sources of a use case are on a machine that has no real ones. It is read here and started as programs, never imported:
a user with real sources deletes its folder, and nothing of it is started.
"""

import tomllib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pipeline_assets.core.errors import UserInputError
from pipeline_assets.core.setting_values import Port

FOLDER, FILE = "simulator", "world.toml"
# Names of databases and services become those of roles, folders and settings.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
# A Python module and its arguments; `{…}` in an argument is replaced as the field's owner says.
Program = Annotated[tuple[str, ...], Field(min_length=1)]


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceDatabase(_Declared):
    """A database of the local PostgreSQL, owned by a role of its own.

    fill: the program that loads it, once; it reads the DSN of the owner from its setting (`PIPELINE_OWNERS__<NAME>`).
    """

    fill: Program | None = None


class SourceService(_Declared):
    """A REST service with an API key.

    run: its program, with `{host}`, `{port}` and `{api_key_file}`, the path of a file with the key. health: the path that is answered with
    status 200 once it works. port: where it listens by default.
    """

    run: Program
    port: Port
    health: str


class Events(_Declared):
    """The events that the world sends to topics.

    send: the program, with `{bootstrap}`, `{first}` and `{last}` (days, inclusive), and `{config}`, a file of client properties.
    """

    send: Program


class Days(_Declared):
    """UTC days, both inclusive."""

    first: date
    last: date


class Demo(_Declared):
    """What `pipeline demo` builds with the world: models of a use case.

    history: the days whose features are built first. as_of: the day at whose begin the model is trained. scored: the days that are scored.
    streamed: the days whose events are sent then.
    """

    use_case: Name
    models: tuple[Name, ...] = Field(min_length=1)
    history: Days
    as_of: date
    scored: Days
    streamed: Days


class World(_Declared):
    """One world: its databases and services by name, its events, and its demo, where it has such."""

    name: Name
    databases: Mapping[Name, SourceDatabase] = {}
    services: Mapping[Name, SourceService] = {}
    events: Events | None = None
    demo: Demo | None = None


class WorldMalformed(UserInputError):
    """A description of a world cannot be used."""

    def __init__(self, file: Path, field: str, problem: str) -> None:
        self.file, self.field, self.problem = file, field, problem
        super().__init__(
            f"World in {file}: {field} {problem}. Fix the file; its fields are those of pipeline_assets/local_stack/worlds.py."
        )


def read_worlds(root: Path) -> tuple[World, ...]:
    """The worlds of the project in `root`, by name; raises WorldMalformed for the first that cannot be used."""
    worlds = tuple(_read(file) for file in sorted((root / FOLDER).glob(f"*/{FILE}")))
    seen: dict[str, str] = {}
    for world in worlds:
        for name in (*world.databases, *world.services):
            if name in seen:
                file = root / FOLDER / world.name / FILE
                raise WorldMalformed(file, f"'{name}'", f"is also declared in world '{seen[name]}'; names are unique over all worlds")
            seen[name] = world.name
    return worlds


def _read(file: Path) -> World:
    try:
        return World(name=file.parent.name, **tomllib.loads(file.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise WorldMalformed(file, "the file", f"is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise WorldMalformed(file, ".".join(map(str, first["loc"])), f"is refused: {first['msg']}") from error
