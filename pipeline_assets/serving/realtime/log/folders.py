"""The folders of workers below the folder of the spool: each has one that it holds a lock on while it lives, and takes over what is left.

The lock is the kernel's, and goes with the process however that ends.
"""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

LOCK = "lock"
PRIVATE = 0o700
# What is being made is not taken for the folder of a dead worker.
UNMADE = "."


@dataclass(frozen=True, kw_only=True)
class OwnFolder:
    """The folder of a process that lives, with the file whose lock says so."""

    path: Path
    lock: int

    def leave(self) -> None:
        """Gives up the lock; the folder goes where nothing but the lock is in it."""
        _remove(self.path)
        os.close(self.lock)


def own_folder(parent: Path) -> OwnFolder:
    """A new folder for this process; raises the OSError of the disk."""
    parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    name = f"{os.getpid()}-{token_hex(4)}"
    unmade = parent / f"{UNMADE}{name}"
    unmade.mkdir(mode=PRIVATE)
    lock = os.open(unmade / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return OwnFolder(path=unmade.rename(parent / name), lock=lock)


def left_folders(parent: Path) -> Iterator[Path]:
    """The folders of processes that are no more, each locked until the next is asked for, and removed then if it is empty."""
    for path in sorted(parent.iterdir()):
        if path.name.startswith(UNMADE) or not path.is_dir():
            continue
        lock = _locked(path)
        if lock is None:
            continue
        try:
            yield path
        finally:
            _remove(path)
            os.close(lock)


def _locked(path: Path) -> int | None:
    """The lock of a folder; None where another process has it, or has just removed the folder."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), (path / LOCK).stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _remove(path: Path) -> None:
    """Removes a folder that has nothing but the lock; another stays as it is."""
    if {one.name for one in path.iterdir()} == {LOCK}:
        (path / LOCK).unlink()
        path.rmdir()
