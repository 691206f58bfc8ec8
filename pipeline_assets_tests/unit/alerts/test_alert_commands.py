"""Who is alerted by settings, and the command that tries whether it reaches them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.core.errors import SettingsMalformed, UserInputError
from pipeline_assets.core.settings import AlertSettings, read_part
from pipeline_assets_tests.alert_endpoints import webhook


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the address of Dagster alone."""
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("PIPELINE_DAGSTER_URL", "http://127.0.0.1:3000")
    return tmp_path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", {}),
        ("json://a/b", {"*": ["json://a/b"]}),
        ("  json://a/b\n mailto://c?to=d,e ", {"*": ["json://a/b", "mailto://c?to=d,e"]}),
        (
            json.dumps({"me@x.example": ["json://a"], "*": "json://b json://c"}),
            {"me@x.example": ["json://a"], "*": ["json://b", "json://c"]},
        ),
    ],
)
def test_urls_are_read_for_all_or_by_owner(home: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: dict[str, list[str]]) -> None:
    """One text for everyone, or a JSON object."""
    monkeypatch.setenv("PIPELINE_ALERT_URLS", value)
    found = read_part(AlertSettings, home).alert_urls

    assert {owner: [url.get_secret_value() for url in urls] for owner, urls in found.items()} == expected


@pytest.mark.parametrize("value", ["S3CRET", "json://a S3CRET", '{"a": ["S3CRET"]}', '{"a": 7}', '{"a": S3CRET', '{"a": null}'])
def test_what_is_no_url_is_refused_without_being_shown(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The error names the variable and what it should be."""
    monkeypatch.setenv("PIPELINE_ALERT_URLS", value)

    with pytest.raises(SettingsMalformed, match="PIPELINE_ALERT_URLS has what is no URL") as refused:
        read_part(AlertSettings, home)
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize("value", ['{"a": "json://b"}', '{"a": ["json://b"], "*": []}', "{}"])
def test_urls_by_owner_alone_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Regression: alerts without an owner, as of a job as a whole, went nowhere without a word."""
    monkeypatch.setenv("PIPELINE_ALERT_URLS", value)

    with pytest.raises(SettingsMalformed, match=r"PIPELINE_ALERT_URLS names nobody under \*") as refused:
        read_part(AlertSettings, home)
    assert "json://b" not in str(refused.value)


def test_the_command_shows_which_endpoint_took_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 where one did not; neither URL nor secret is printed."""
    with webhook() as well, webhook() as dead:
        dead.status = 500
        monkeypatch.setenv("PIPELINE_ALERT_URLS", json.dumps({"*": [well.url], "me@x.example": [dead.url]}))
        result = CliRunner().invoke(app, ["alerts", "test"])

    assert result.exit_code == 1
    assert [each["title"] for each in well.got] == ["Alerts reach you"]
    assert ": delivered" in result.output
    assert "error=500" in result.output
    assert "T0PS3CRET" not in result.output
    assert "correct-horse-battery" not in result.output


def test_the_command_says_that_nobody_is_named() -> None:
    """Without the setting there is nothing to try."""
    result = CliRunner().invoke(app, ["alerts", "test"])

    assert isinstance(result.exception, UserInputError)
