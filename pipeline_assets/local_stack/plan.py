"""What one stack consists of on paper: its folders, ports, secrets and the settings it hands out. Nothing here starts anything."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

POSTGRES, S3, MLFLOW, WEATHER = "postgres", "s3", "mlflow", "weather"
KAFKA, CONNECT = "kafka", "connect"
CODE, WEBSERVER, DAEMON = "dagster-code", "dagster", "dagster-daemon"
# In the order in which they can start.
NAMES = (POSTGRES, S3, KAFKA, CONNECT, CODE, WEATHER, MLFLOW, WEBSERVER, DAEMON)
# What all programs in Java need first: their jars.
JARS = "jars"
# The port by which the broker talks to itself as controller.
KAFKA_CONTROLLER = "kafka-controller"
HOST = "127.0.0.1"
SECRET_BYTES = 24


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of the stack and how to tell that it works.

    `is_ready` gets the time at which the process started, in seconds since 1970. `prepare` runs before the process starts, `finish` once it
    is ready; both may run again at any time. `port` None: it listens nowhere. `environment` is added to the starter's. `user` is the uid to
    run as, None: the starter's.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    is_ready: Callable[[float], bool]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    port: int | None = None
    url: str = ""
    needs: tuple[str, ...] = ()
    user: int | None = None
    prepare: Callable[[], None] = lambda: None
    finish: Callable[[], None] = lambda: None
    start_seconds: float = 180.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The facts that services are made from.

    root: the project; home: the folder of the stack; ports: by name; secrets: made once per home; given: settings that the environment
    already has; settings: all settings by their full names, given and made.
    """

    root: Path
    home: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = field(repr=False)
    given: Mapping[str, str] = field(repr=False)
    settings: Mapping[str, str] = field(repr=False)
    maven_url: str

    @property
    def jars(self) -> Path:
        """Where downloaded jars are kept, for all stacks of the project."""
        return self.root / ".pipeline" / "jars"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; it appears whole or not at all."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.rename(path)


def load_secrets(home: Path, names: tuple[str, ...] = ()) -> dict[str, str]:
    """The random secrets of the stack in `home`, by name; missing ones are made and kept."""
    path = home / "secrets.json"
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [name for name in names if name not in known]
    if missing:
        known |= {name: secrets.token_hex(SECRET_BYTES) for name in missing}
        write_private(path, json.dumps(known, indent=2))
    return known
