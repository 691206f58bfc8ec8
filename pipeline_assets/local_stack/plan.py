"""What one stack consists of on paper: its services, folders, ports, secrets and settings. Nothing here starts anything."""

import json
import os
import secrets
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import TypeVar

from pipeline_assets.core.settings import PREFIX, SHIPPED
from pipeline_assets.core.state_errors import StateFileDamaged, read_as_text

POSTGRES, S3, KAFKA, CONNECT, MLFLOW = "postgres", "s3", "kafka", "connect", "mlflow"
CODE, WEBSERVER, DAEMON = "dagster-code", "dagster", "dagster-daemon"
ONLINE_WORKER = "online-worker"
PREDICTIONS = "predictions"
# What all programs in Java need first: their jars.
JARS = "jars"
HOST = "127.0.0.1"
SECRET_BYTES = 24
# Whose data cannot be used with other secrets than it was made with.
DATA = (POSTGRES, S3, KAFKA)
FROM_BACKUP = (
    "Restore it from a backup, with mode 600; without one, `pipeline down --purge` deletes that data, and `pipeline up` begins anew"
)

T = TypeVar("T")


def setting(name: str) -> str:
    """The full name of a setting."""
    return f"{PREFIX}{name.upper()}"


HOME, AUTHORITY = setting("home"), setting("https_authority")
# Settings that are paths.
PATHS = (setting("dbt_project"), AUTHORITY, setting("kafka_authority"))
# For servers of the stack that have TLS by settings elsewhere: on loopback they have none, whatever the environment says.
WITHOUT_TLS = {setting(f"{server}_{part}"): "" for server in ("serve", "web") for part in ("certificate", "certificate_key")}
# Settings that concern no process of the product.
OF_THE_STACK = tuple(setting(name) for name in ("ports__", "maven_url", "run_wait_seconds", "dagster_key"))


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of the stack, and when it is ready.

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
    user: int | None = None
    prepare: Callable[[], None] = lambda: None
    finish: Callable[[], None] = lambda: None
    start_seconds: float = 180.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The facts that services are made from.

    root: the project; home: the folder of the stack; ports: by name; secrets: made once per home; given: settings that the environment
    already has; settings: all settings by their full names, those given and those of the services.
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
        """Where downloaded jars are kept: in a checkout for all stacks of it, in an installed product for each stack."""
        return (self.home if self.root == SHIPPED else self.root / ".pipeline") / "jars"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a service is stopped: those of a lower `turn` first; by its signal, and by force after so many seconds.

    at_once: the signal where its data is deleted, so that it has nothing to put in order for the others or for its next start.
    """

    turn: int = 1
    signal: Signals = SIGTERM
    seconds: float = 6.0
    at_once: Signals = SIGKILL

    def without_order(self) -> "Ending":
        """How it is stopped where its data is deleted: with all others."""
        return replace(self, turn=0, signal=self.at_once)


@dataclass(frozen=True, kw_only=True)
class Description:
    """All that the stack knows of one service: the only place in which it is described.

    build: the service, from a complete plan. ports: their defaults, by name. secrets: names of those made for it. settings: what it hands
    out, by full name, from a plan without such settings. is_elsewhere: whether the environment, given the names of its settings, points to
    a service that exists. together: groups of settings of which the first is of no use without the others. needs: services that start
    before it. jars: sets of jars. is_page: its address is for a browser.
    """

    name: str
    build: Callable[[Plan], Service]
    is_elsewhere: Callable[[Collection[str]], bool]
    ports: Mapping[str, int] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    settings: Callable[[Plan], Mapping[str, str]] = lambda _plan: {}
    together: tuple[tuple[str, ...], ...] = ()
    needs: tuple[str, ...] = ()
    jars: tuple[str, ...] = ()
    ending: Ending = Ending()
    is_page: bool = False


def product_settings(plan: Plan) -> dict[str, str]:
    """The settings of the product for a process of the stack; not those of the stack itself, which need no restart."""
    settings = {name: value for name, value in plan.settings.items() if not name.startswith(OF_THE_STACK)}
    # The process runs in another folder than the one that a relative path was written for.
    absolute = {name: str(Path(settings[name]).resolve()) for name in PATHS if name in settings}
    return {**settings, **absolute, HOME: str(plan.home)}


def trusted_by_aws(plan: Plan) -> dict[str, str]:
    """The variable by which AWS's clients in libraries of others find the authorities of the object store; none where none are given."""
    return {"AWS_CA_BUNDLE": product_settings(plan)[AUTHORITY]} if AUTHORITY in plan.settings else {}


def has(*names: str) -> Callable[[Collection[str]], bool]:
    """Whether the environment has all of these settings, as `Description.is_elsewhere` asks."""
    return lambda given: all(name in given for name in names)


def program(name: str) -> str:
    """A command of this Python environment, by path."""
    return str(Path(sys.executable).with_name(name))


def private_folder(path: Path) -> Path:
    """A folder that only its owner can enter, made if it is not there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, text: str, user: int | None = None) -> None:
    """Write a file that only its owner can read; it appears whole or not at all. user: the uid that is to own it, None: the own one."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        if user is not None:
            # By the open file: who may write the folder could put a link to another one in its place.
            os.fchown(file.fileno(), user, user)
    draft.rename(path)


def load_secrets(home: Path, names: tuple[str, ...] = ()) -> dict[str, str]:
    """The random secrets of the stack in `home`, by name; missing ones are made and kept.

    Raises StateFileDamaged where the file cannot be read, and where it, or the password of the cluster in it, is gone while there is data:
    with other passwords nobody could use that any more.
    """
    path = home / "secrets.json"
    known: dict[str, str] = read_state(path, FROM_BACKUP, str, lambda secret: bool(secret) and secret.isprintable())
    if POSTGRES not in known and (data := [name for name in DATA if (home / name / "data").exists()]):
        problem = "is missing" if not path.exists() else f"lacks the password of '{POSTGRES}'"
        raise StateFileDamaged(path, f"{problem}, but there is data of {', '.join(data)} that was made with it", FROM_BACKUP)
    missing = [name for name in names if name not in known]
    if missing:
        known |= {name: secrets.token_hex(SECRET_BYTES) for name in missing}
        write_private(path, json.dumps(known, indent=2))
    return known


def read_state(path: Path, remedy: str, kind: type[T], fits: Callable[[T], bool] = lambda _: True) -> dict[str, T]:
    """What a file of the stack maps names to; nothing where it is not there. Raises StateFileDamaged with the remedy for all else."""
    if not path.exists():
        return {}
    with read_as_text(path, remedy):
        text = path.read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateFileDamaged(path, "cannot be read: it is no JSON", remedy) from error
    if not isinstance(found, dict) or not all(type(value) is kind for value in found.values()):
        raise StateFileDamaged(path, f"cannot be read: expected is a JSON object of names and values of type {kind.__name__}", remedy)
    if unfit := sorted(name for name, value in found.items() if not fits(value)):
        raise StateFileDamaged(path, f"cannot be read: the value of '{unfit[0]}' is none that it may have", remedy)
    return found
