"""The settings of a test's services as a process or a resource reads them: from the file that the local stack leaves in its folder."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, SecretStr

from pipeline_assets.core.settings import PREFIX, STACK_ENV, Settings


def write_stack_env(settings: Settings, home: Path) -> None:
    """Leaves the settings in a folder, where the commands and the platform resource read them."""
    (home / STACK_ENV).write_text("".join(f"{name}={value}\n" for name, value in environment_of(settings).items()))


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give these settings, all but the home folder."""
    return {f"{PREFIX}{name.upper()}": _as_text(value) for name, value in settings if name != "home" and value is not None}


def _as_text(value: object) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel | Mapping):
        return {name: _plain(one) for name, one in dict(value).items()}
    return value
