"""The `models` commands: bad input ends before any service is asked."""

from datetime import UTC, datetime

import pytest
import typer
from typer.testing import CliRunner

from pipeline_assets.core.errors import UnknownName, UserInputError
from pipeline_assets.model_lifecycle.registry import commands
from pipeline_assets.model_lifecycle.registry.commands import HISTORY, _entry_cells, _print
from pipeline_assets.model_lifecycle.registry.ledger import Entry


def _app() -> typer.Typer:
    app = typer.Typer()
    commands.register(app)
    return app


@pytest.mark.parametrize(
    "line",
    [
        ["models", "list", "no_such_model"],
        ["models", "history", "no_such_model"],
        ["models", "rollback", "no_such_model"],
        ["models", "promote", "no_such_model", "1", "--reason", "a test"],
        ["models", "shadow", "no_such_model", "1", "--reason", "a test"],
        ["models", "canary", "no_such_model", "1", "--reason", "a test"],
        ["models", "stop", "no_such_model"],
        ["models", "alias-drift", "no_such_model"],
        ["models", "alias-adopt", "no_such_model", "--reason", "a test"],
        ["models", "alias-undo", "no_such_model"],
        ["models", "training-set", "no_such_model", "--version", "1", "--out", "rows.csv"],
    ],
)
def test_an_unknown_model_is_named_with_those_that_are_known(line: list[str]) -> None:
    """The error is one that the command line turns into exit code 2."""
    result = CliRunner().invoke(_app(), line)

    assert isinstance(result.exception, UnknownName)
    assert "no_such_model" in str(result.exception)
    assert "flight_delay" in str(result.exception)


@pytest.mark.parametrize("version", ["latest", "0", "-1", "1.5"])
def test_a_version_is_a_positive_number(version: str) -> None:
    """Anything else is a usage error."""
    result = CliRunner().invoke(_app(), ["models", "promote", "--reason", "a test", "flight_delay", "--", version])

    assert result.exit_code == 2


@pytest.mark.parametrize("command", ["promote", "shadow", "canary"])
def test_what_is_to_be_live_or_tried_needs_a_reason(command: str) -> None:
    """The ledger says why, so the command asks why."""
    result = CliRunner().invoke(_app(), ["models", command, "flight_delay", "1"])

    assert result.exit_code == 2
    assert "--reason" in result.output


@pytest.mark.parametrize("instant", ["yesterday", "2013-05-01", "2013-05-01T00:00:00"])
def test_a_time_without_a_zone_is_refused(instant: str) -> None:
    """Live from when, in event time, must be an instant."""
    result = CliRunner().invoke(_app(), ["models", "rollback", "flight_delay", "--live-from", instant])

    assert isinstance(result.exception, UserInputError)
    assert "--live-from" in str(result.exception)


@pytest.mark.parametrize("command", ["history", "rollback", "stop"])
def test_one_of_several_models_has_to_be_named(command: str) -> None:
    """No model is taken by chance; the error lists those there are."""
    result = CliRunner().invoke(_app(), ["models", command])

    assert isinstance(result.exception, UserInputError)
    assert "flight_delay" in str(result.exception)
    assert "arrival_delay" in str(result.exception)


def test_a_reason_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Regression: whoever gave one could hide lines of the history, or write titles of windows."""
    at = datetime(2013, 5, 1, tzinfo=UTC)
    entry = Entry(
        sequence=1, version=1, previous_version=None, action="promote", actor="\x1b[8m", reason="good\x1b]0;mine\x07 [bold]", rules=(),
        run_id=None, live_from=at, recorded_at=at,
    )  # fmt: skip
    _print("a model", "none", HISTORY, [_entry_cells(entry)])
    printed = capsys.readouterr().out

    assert r"good\x1b]0;mine\x07 [bold]" in printed
    assert ("\x1b]" in printed, "\x07" in printed, "\x1b[8m" in printed) == (False, False, False)
