"""Which code learned a model: the version of the package, the commit that is checked out, and whether files differ from it."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

PACKAGE = "pipeline-assets"
LIBRARIES = ("xgboost", "numpy", "pyarrow", PACKAGE)
ROOT = Path(__file__).resolve().parents[3]
COMMIT_DIGITS = 12
GIT_SECONDS = 10

Edits = Literal["yes", "no", "unknown"]


@cache
def code_version() -> str:
    """The version of this package, and `+<commit>` where it runs from a repository or one of its worktrees."""
    commit = commit_of(ROOT)
    return version(PACKAGE) + (f"+{commit[:COMMIT_DIGITS]}" if commit is not None else "")


def local_edits() -> Edits:
    """Whether the code that runs differs from its commit."""
    return edits_of(ROOT)


def library_versions() -> dict[str, str]:
    """The versions of the libraries that a model's file and scores depend on."""
    return {name: version(name) for name in LIBRARIES}


def commit_of(root: Path) -> str | None:
    """The commit that is checked out in a folder, read without git; None outside of a repository, and before its first commit."""
    folder = _git_folder(root / ".git")
    head = folder / "HEAD"
    if not head.is_file():
        return None
    pointer = head.read_text().strip()
    reference = pointer.removeprefix("ref: ")
    if reference == pointer:
        return pointer
    shared = _shared(folder)
    loose = [each / reference for each in (folder, shared) if (each / reference).is_file()]
    return loose[0].read_text().strip() if loose else _packed(shared / "packed-refs", reference)


def edits_of(root: Path) -> Edits:
    """Whether a folder has files that were changed or added since its commit; unknown where git cannot say."""
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "--no-optional-locks", "-C", str(root), "status", "--porcelain"]
    try:
        status = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS)  # noqa: S603 - no part of the command comes from outside
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return "yes" if status.stdout.strip() else "no"


def _git_folder(place: Path) -> Path:
    """The folder of a repository; in a worktree `.git` is a file that names it."""
    if not place.is_file():
        return place
    named = Path(place.read_text().strip().removeprefix("gitdir: "))
    return named if named.is_absolute() else place.parent / named


def _shared(folder: Path) -> Path:
    """The folder that all worktrees of a repository share, where its branches are."""
    pointer = folder / "commondir"
    return (folder / pointer.read_text().strip()).resolve() if pointer.is_file() else folder


def _packed(listing: Path, reference: str) -> str | None:
    lines = listing.read_text().splitlines() if listing.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {reference}")), None)
