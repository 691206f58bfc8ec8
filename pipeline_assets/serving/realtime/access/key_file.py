"""The file of API keys: read with the care that a password file gets, and written whole or not at all.

A file and no database, so that callers are known while every database is down (docs/adr/0014-access-to-the-service.md). It is JSON:
`version`, and `keys` with what `keys.Key` has. By libpq's rule for key files it belongs to the user of the process and nobody else may
read or write it, or to root, and then its group may read it.
"""

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from pipeline_assets.serving.realtime.access.callers import NO_LIMITS, Limits, Role
from pipeline_assets.serving.realtime.access.errors import KeyFileRefused, KeyNameTaken, KeyNameUnfit
from pipeline_assets.serving.realtime.access.keys import Key, Secret, make_key, utc_now

VERSION = 1
MOST_BYTES, LONGEST_NAME, LIVES = 10_000_000, 100, timedelta(days=90)
OTHERS, OTHERS_OF_ROOT = stat.S_IRWXG | stat.S_IRWXO, stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
T = TypeVar("T")


class _Secret(BaseModel):
    model_config = STRICT
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    until: AwareDatetime


class _Limits(BaseModel):
    model_config = STRICT
    requests_per_second: float | None = Field(default=None, gt=0)
    burst: int | None = Field(default=None, ge=1)
    rows_per_request: int | None = Field(default=None, ge=1)


class _Key(BaseModel):
    model_config = STRICT
    id: str = Field(pattern="^[0-9a-f]{16}$")
    name: str = Field(min_length=1)
    roles: frozenset[Role]
    secrets: list[_Secret]
    created_at: AwareDatetime
    revoked_at: AwareDatetime | None = None
    limits: _Limits = _Limits()


class _File(BaseModel):
    model_config = STRICT
    version: int = Field(ge=VERSION, le=VERSION)
    keys: list[_Key]


def read_keys(path: Path) -> dict[str, Key]:
    """The keys of a file by their id; raises FileNotFoundError, or KeyFileRefused for one that others may read or that cannot be read."""
    with _opened(path) as file:
        refuse_exposed(path, os.fstat(file))
        found = os.read(file, MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise KeyFileRefused(path, f"has more than {MOST_BYTES:,} bytes", "Revoke keys that nobody uses.")
    try:
        kept = _File.model_validate_json(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"cannot be read: {where}: {first['msg']}" if where else f"cannot be read: {first['msg']}"
        raise KeyFileRefused(path, problem, "Restore it from a backup, or delete it and make new keys.") from None
    keys = {one.id: _key(one) for one in kept.keys}
    if len(keys) < len(kept.keys):
        raise KeyFileRefused(path, "has two keys with one id", "Remove one of them.")
    return keys


def change_keys(path: Path, change: Callable[[dict[str, Key]], tuple[Mapping[str, Key], T]]) -> T:
    """What `change` returns beside the keys that it makes of those in the file, which are written; one writer at a time.

    The file is made where there is none. Raises KeyFileRefused, and writes nothing, where the one that there is cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _one_writer(path):
        try:
            before = read_keys(path)
        except FileNotFoundError:
            before = {}
        after, result = change(before)
        _write(path, _json(after))
    return result


def create_key(path: Path, name: str, roles: Sequence[Role], *, lives: timedelta = LIVES, limits: Limits = NO_LIMITS) -> tuple[Key, str]:
    """Makes a key in the file; the key, and its text, which can be shown this once.

    Raises KeyNameUnfit, KeyNameTaken, and as `change_keys`.
    """
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise KeyNameUnfit(name, LONGEST_NAME)

    def added(keys: dict[str, Key]) -> tuple[Mapping[str, Key], tuple[Key, str]]:
        if any(key.name == name and key.revoked_at is None for key in keys.values()):
            raise KeyNameTaken(name)
        key, text = make_key(name, roles, now=utc_now(), lives=lives, limits=limits)
        return {**keys, key.id: key}, (key, text)

    return change_keys(path, added)


def refuse_exposed(path: Path, found: os.stat_result) -> None:
    """Raises KeyFileRefused where others than the user of this process, or root, may read or write the file."""
    if not stat.S_ISREG(found.st_mode):
        raise KeyFileRefused(path, "is no file", "Name a file by PIPELINE_SERVE_KEYS.")
    if found.st_uid not in {os.geteuid(), 0}:
        raise KeyFileRefused(path, "belongs to another user", f"Give it to the user of the service: chown <user> {path}")
    open_to = found.st_mode & (OTHERS if found.st_uid == os.geteuid() else OTHERS_OF_ROOT)
    if open_to:
        raise KeyFileRefused(path, f"may be read or written by others (mode {found.st_mode & 0o777:04o})", f"Run: chmod 600 {path}")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor, so that what is checked is what is read."""
    try:
        # A pipe would be waited for until somebody writes to it.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except PermissionError:
        raise KeyFileRefused(path, "may not be read by this user", f"Give it to the user of the service: chown <user> {path}") from None
    except OSError as error:
        raise KeyFileRefused(path, f"cannot be opened: {error.strerror}", "Name a file by PIPELINE_SERVE_KEYS.") from None
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    """Waits for other writers, by a lock of a file beside the keys, as that of the keys is replaced."""
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, text: str) -> None:
    """Whole or not at all: written beside the file, brought to disk, and then put in its place. It stays of the user it was of."""
    owner = path.stat() if path.exists() else None
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        if owner is not None and owner.st_uid != os.geteuid():
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _json(keys: Mapping[str, Key]) -> str:
    listed = [{**asdict(key), "roles": sorted(key.roles)} for key in keys.values()]
    return json.dumps({"version": VERSION, "keys": listed}, indent=2, default=_iso) + "\n"


def _iso(value: Any) -> str:
    if not isinstance(value, datetime):
        raise TypeError(type(value))
    return value.isoformat()


def _key(found: _Key) -> Key:
    secrets = tuple(Secret(sha256=one.sha256, until=one.until) for one in found.secrets)
    limits = Limits(**found.limits.model_dump())
    return Key(
        id=found.id,
        name=found.name,
        roles=found.roles,
        secrets=secrets,
        created_at=found.created_at,
        revoked_at=found.revoked_at,
        limits=limits,
    )
