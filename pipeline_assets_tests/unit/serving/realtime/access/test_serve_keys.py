"""The command `pipeline serve-keys`, as a person runs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.serving.realtime.access.callers import Limits, Role
from pipeline_assets.serving.realtime.access.errors import KeyNameTaken, KeyNameUnfit
from pipeline_assets.serving.realtime.access.keyring import Keyring

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command in a home of its own; it has no settings but that."""

    def command(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["serve-keys", *arguments], env={"PIPELINE_HOME": str(tmp_path)})

    return command


def test_a_key_that_is_made_works_and_is_shown_once(run: Run, tmp_path: Path) -> None:
    """It alone is on standard output; lists have its name, roles, limits and end."""
    limits = ("--requests-per-second", "50", "--rows-per-request", "100")
    made = run("create", "a job", "--role", "predict", "--role", "feedback", "--days", "30", *limits)
    text = made.stdout.strip()
    caller = Keyring(tmp_path / "serve-keys.json").caller(text)
    listed = run("list")
    [entry] = json.loads(run("list", "--json").stdout)

    assert made.exit_code == 0
    assert caller is not None
    assert (caller.name, caller.roles) == ("a job", frozenset({Role.PREDICT, Role.FEEDBACK}))
    assert caller.limits == Limits(requests_per_second=50, rows_per_request=100)
    assert (entry["state"], entry["roles"], entry["requests_per_second"]) == ("live", ["feedback", "predict"], 50)
    assert "a job: live; feedback, predict; 50.0 requests per second; 100 rows per request; until" in listed.stdout
    assert text.split("_", 2)[2] not in made.stderr + listed.stdout + json.dumps(entry)


def test_a_rotation_leaves_the_old_secret_its_time(run: Run, tmp_path: Path) -> None:
    """Both work; after the key is revoked, neither."""
    old = run("create", "a job", "--role", "read").stdout.strip()
    new = run("rotate", "a job", "--days", "10").stdout.strip()
    path = tmp_path / "serve-keys.json"
    both = [Keyring(path).caller(text) for text in (old, new)]
    revoked = run("revoke", "a job")

    assert both[0] == both[1] != None  # noqa: E711 - both are callers
    assert revoked.stdout.startswith("Revoked: a job")
    assert [Keyring(path).caller(text) for text in (old, new)] == [None, None]
    assert json.loads(run("list", "--json").stdout)[0]["state"] == "revoked"
    assert run("create", "a job", "--role", "read").exit_code == 0


def test_what_cannot_be_done_is_an_error_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    """A name that is taken, a role and a key that there are not, a rate of nothing, and no role at all."""
    run("create", "a job", "--role", "read")
    before = (tmp_path / "serve-keys.json").read_bytes()

    assert isinstance(run("create", "a job", "--role", "read").exception, KeyNameTaken)
    assert isinstance(run("create", "b", "--role", "emperor").exception, UnknownName)
    assert isinstance(run("rotate", "b").exception, UnknownName)
    assert isinstance(run("revoke", "b").exception, UnknownName)
    assert "--requests-per-second" in str(run("create", "b", "--role", "read", "--requests-per-second", "0").exception)
    assert run("create", "b").exit_code == 2
    assert (tmp_path / "serve-keys.json").read_bytes() == before


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31mred", "a" * 101], ids=["empty", "lines", "terminal", "long"])
def test_a_name_that_lists_cannot_show_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    """Regression: with an empty one the file could not be read any more, so that no key was let in; with lines it could forge others."""
    run("create", "a job", "--role", "read")
    before = (tmp_path / "serve-keys.json").read_bytes()

    assert isinstance(run("create", name, "--role", "read").exception, KeyNameUnfit)
    assert (tmp_path / "serve-keys.json").read_bytes() == before
    assert run("create", "a" * 100, "--role", "read").exit_code == 0


def test_without_keys_the_list_says_how_to_make_one(run: Run) -> None:
    """And makes no file."""
    assert "pipeline serve-keys create" in run("list").stdout
    assert json.loads(run("list", "--json").stdout) == []


def test_the_file_is_where_the_setting_says(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`PIPELINE_SERVE_KEYS` instead of the home."""
    monkeypatch.setenv("PIPELINE_SERVE_KEYS", str(tmp_path / "elsewhere" / "keys.json"))
    text = run("create", "a job", "--role", "read").stdout.strip()

    assert Keyring(tmp_path / "elsewhere" / "keys.json").caller(text) is not None
    assert not (tmp_path / "serve-keys.json").exists()
