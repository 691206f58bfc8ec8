"""Which code learned a model: its commit, also in a worktree, and whether files differ from it."""

import subprocess
from pathlib import Path

import pytest

from pipeline_assets.model_lifecycle.training.code_state import code_version, commit_of, edits_of


def _git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    _git(folder, "init", "--quiet", "--initial-branch", "main")
    (folder / "code.py").write_text("one = 1\n")
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "--message", "Begin")
    return folder


def test_the_commit_is_that_of_git(repository: Path) -> None:
    """On a branch, with its references packed, and on a commit without a branch."""
    expected = _git(repository, "rev-parse", "HEAD")

    assert commit_of(repository) == expected
    _git(repository, "pack-refs", "--all")
    assert commit_of(repository) == expected
    _git(repository, "checkout", "--quiet", "--detach")
    assert commit_of(repository) == expected


def test_a_worktree_has_its_own_commit(repository: Path, tmp_path: Path) -> None:
    """Regression: `.git` is a file there, and the contract named no commit."""
    _git(repository, "worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    (tmp_path / "side" / "code.py").write_text("one = 2\n")
    _git(tmp_path / "side", "commit", "--quiet", "--all", "--message", "Change")

    assert commit_of(tmp_path / "side") == _git(tmp_path / "side", "rev-parse", "HEAD")
    assert commit_of(tmp_path / "side") != commit_of(repository)
    assert edits_of(tmp_path / "side") == "no"


def test_local_edits_are_seen(repository: Path) -> None:
    """A changed file, and one that was added, both differ from the commit."""
    assert edits_of(repository) == "no"

    (repository / "new.py").write_text("two = 2\n")
    assert edits_of(repository) == "yes"
    (repository / "new.py").unlink()
    (repository / "code.py").write_text("one = 3\n")

    assert edits_of(repository) == "yes"


def test_what_cannot_be_known_is_unknown_and_never_a_failure(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a repository, before its first commit, and where git is not installed."""
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (commit_of(empty), edits_of(empty)) == (None, "unknown")
    _git(empty, "init", "--quiet")
    assert commit_of(empty) is None
    monkeypatch.setenv("PATH", str(empty))

    assert edits_of(repository) == "unknown"
    assert commit_of(repository) is not None


def test_the_version_names_the_commit() -> None:
    """The tests run from a repository."""
    version, _, commit = code_version().partition("+")

    assert version
    assert len(commit) == 12
