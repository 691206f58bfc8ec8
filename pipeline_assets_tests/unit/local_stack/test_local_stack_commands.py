"""The commands of the local stack, on a folder where nothing runs."""

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from pipeline_assets.core.errors import UnknownName, UserInputError
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.commands import register
from pipeline_assets.local_stack.display import Progress, watching

NAMES = stack.names()


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """An app with the commands, on a stack of its own."""
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    app = typer.Typer()
    register(app)
    return app


def test_status_of_a_stack_that_never_ran_is_stopped(app: typer.Typer) -> None:
    """Every service is listed, and the exit code says that not all run."""
    shown = CliRunner().invoke(app, ["status", "--json"])

    assert shown.exit_code == 1
    assert [(each["name"], each["state"], each["pid"]) for each in json.loads(shown.stdout)] == [(name, "stopped", None) for name in NAMES]


def test_status_is_a_table_for_people(app: typer.Typer) -> None:
    """Each service has a line."""
    shown = CliRunner().invoke(app, ["status"])

    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == list(NAMES)


def test_down_of_a_stack_that_never_ran_is_fine(app: typer.Typer) -> None:
    """There is nothing to stop, and that is no error."""
    assert CliRunner().invoke(app, ["down"]).exit_code == 0


@pytest.mark.parametrize("command", [["up", "--service", "kafak"], ["down", "--service", "kafak"], ["logs", "kafak"]])
def test_an_unknown_service_is_named_with_those_that_are_known(app: typer.Typer, command: list[str]) -> None:
    """A misspelt name starts and stops nothing."""
    shown = CliRunner().invoke(app, command)

    assert isinstance(shown.exception, UnknownName)
    assert "Unknown service 'kafak'. Known: connect, dagster, dagster-code" in str(shown.exception)


def test_purging_one_service_is_refused(app: typer.Typer) -> None:
    """The data of the stack is deleted as a whole or not at all."""
    shown = CliRunner().invoke(app, ["down", "--purge", "--service", "s3"])

    assert isinstance(shown.exception, UserInputError)


def test_logs_are_the_last_lines(app: typer.Typer, tmp_path: Path) -> None:
    """As many as asked for; nothing where the service never wrote."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "s3.log").write_text("one\ntwo\nthree\n")

    assert CliRunner().invoke(app, ["logs", "s3", "--lines", "2"]).stdout == "two\nthree\n"
    assert CliRunner().invoke(app, ["logs", "mlflow"]).stdout == "\n"


def test_without_a_terminal_progress_is_one_line_per_change(capsys: pytest.CaptureFixture[str]) -> None:
    """A log of a build server stays readable."""
    with watching("Starting services") as watch:
        watch("s3", "waiting")
        watch("s3", "starting")
        watch("s3", "running")

    assert capsys.readouterr().out == "s3: starting\ns3: running\n"


def test_on_a_terminal_progress_shows_states_and_seconds() -> None:
    """Waiting takes no time; a state that is final stops the clock."""
    progress = Progress("Starting services")
    for name, state in (("s3", "waiting"), ("s3", "starting"), ("s3", "running"), ("mlflow", "waiting"), ("postgres", "elsewhere")):
        progress.note(name, state)
    shown = io.StringIO()
    Console(file=shown, width=80).print(progress)
    lines = [line.split() for line in shown.getvalue().splitlines()]

    assert lines[0] == ["Starting", "services"]
    assert lines[1] == ["s3", "running", "0.0", "s"]
    assert lines[2][0] == "mlflow"
    assert lines[2][-1] == "waiting"
    assert lines[3] == ["postgres", "elsewhere"]
