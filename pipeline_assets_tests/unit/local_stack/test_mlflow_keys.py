"""Keys of the web pages as passwords of MLflow, where their file cannot be used."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_assets.local_stack import mlflow_login
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets_tests.guarded_apps import add_key


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """The file of keys is read anew, and forgotten afterwards."""
    mlflow_login.keys.cache_clear()
    yield
    mlflow_login.keys.cache_clear()


def test_a_file_of_keys_that_cannot_be_used_stops_keys_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is none, aloud, until the file is mended; what has not the form of a key is never looked for in it."""
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    path = tmp_path / "serve-keys.json"
    text = add_key(path, "ann", Role.VIEWER)
    whole = path.read_bytes()
    path.write_bytes(b"junk")
    before = mlflow_login.caller_of("the password of the platform"), len(caplog.records), mlflow_login.caller_of(text)
    path.write_bytes(whole)
    found = mlflow_login.caller_of(text)

    assert before == (None, 0, None)
    assert "Nobody logs in with a key, as the file of keys cannot be used" in caplog.text
    assert found is not None
    assert found.roles == {Role.VIEWER}
