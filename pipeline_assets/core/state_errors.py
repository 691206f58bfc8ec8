"""Errors of the files in which the platform keeps its state on a machine."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline_assets.core.errors import UserInputError


class StateFileDamaged(UserInputError):
    """A file of the local stack is missing or cannot be read, and what it said cannot be made up."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"{path} {problem}. {remedy}.")


def check_is_file(path: Path, remedy: str) -> None:
    """Raises StateFileDamaged where there is something else than a file: a pipe or a device would be read, or waited for, for ever."""
    if path.exists() and not path.is_file():
        raise StateFileDamaged(path, "cannot be read: it is no file", remedy)


@contextmanager
def read_as_text(path: Path, remedy: str) -> Iterator[None]:
    """Raises StateFileDamaged where the file that is read is no text in UTF-8, and before it is read where there is something else."""
    check_is_file(path, remedy)
    try:
        yield
    except UnicodeDecodeError as error:
        raise StateFileDamaged(path, "cannot be read: it is no text", remedy) from error


# What is wrong with a folder or a disk, and no bug of the platform.
OF_THE_MACHINE = frozenset({
    errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
})  # fmt: skip


class FolderUnusable(UserInputError):
    """A file or folder of this machine cannot be read or written by this user, or its disk is full."""

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(
            f"{path}: {problem}. Let this user read and write it, free space, or name another (the folder of the stack by PIPELINE_HOME)."
        )


@contextmanager
def errors_of_folders(home: Path) -> Iterator[None]:
    """Raises FolderUnusable for what the system says of files and disks; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        path = f"Where this was written (its output, {home} or TMPDIR)" if error.filename is None else str(error.filename)
        raise FolderUnusable(path, str(error.strerror)) from error
