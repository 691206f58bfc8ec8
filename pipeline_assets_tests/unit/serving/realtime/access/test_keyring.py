"""The keys that a service knows follow their file, and outlive its faults."""

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline_assets.serving.realtime.access import keyring
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.errors import KeyFileRefused
from pipeline_assets.serving.realtime.access.key_file import change_keys, read_keys
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.keys import revoked, utc_now, with_new_secret
from pipeline_assets_tests.guarded_apps import add_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of keys is."""
    return tmp_path / "serve-keys.json"


@pytest.fixture(autouse=True)
def each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at with each question, not only every half a second."""
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.0)


def test_keys_are_taken_up_without_a_restart(path: Path) -> None:
    """One that is made later, a new secret of one, and that one is revoked."""
    keys = Keyring(path)
    text = add_key(path, "a job", Role.PREDICT)
    made = keys.caller(text)
    [key] = read_keys(path).values()
    rotated, newer = with_new_secret(key, now=utc_now(), lives=timedelta(days=1))
    change_keys(path, lambda _: ({key.id: rotated}, None))
    both = [keys.caller(one) for one in (text, newer)]
    change_keys(path, lambda _: ({key.id: revoked(rotated, now=utc_now())}, None))

    assert made is not None
    assert (made.name, made.by, both) == ("a job", "key", [made, made])
    assert [keys.caller(one) for one in (text, newer)] == [None, None]
    assert keys.live(key.id) is None


@pytest.mark.parametrize("fault", ["broken", "exposed", "gone"])
def test_known_keys_stay_while_their_file_cannot_be_used(path: Path, caplog: pytest.LogCaptureFixture, fault: str) -> None:
    """An alarm is logged once per change, and `problem` says it; what is mended is taken up."""
    text = add_key(path, "a job", Role.PREDICT)
    keys, good = Keyring(path), path.read_bytes()
    if fault == "broken":
        path.write_text("{")
    elif fault == "exposed":
        path.chmod(0o644)
    else:
        path.unlink()
    with caplog.at_level(logging.ERROR):
        found = [keys.caller(text) is not None for _ in range(3)]
    problem = keys.problem
    path.write_bytes(good)
    path.chmod(0o600)

    assert found == [True, True, True]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert problem in caplog.text
    assert problem != ""
    assert keys.caller(text) is not None
    assert keys.problem == ""


def test_known_keys_still_end_while_their_file_is_broken(path: Path) -> None:
    """Their ends are the service's to keep, not the file's."""
    text = add_key(path, "a job", Role.PREDICT)
    later = [utc_now()]
    keys = Keyring(path, now=lambda: later[0])
    path.write_text("{")
    before = keys.caller(text)
    later[0] += timedelta(days=2)

    assert before is not None
    assert keys.caller(text) is None


def test_a_service_does_not_start_with_a_broken_file(path: Path) -> None:
    """There are no keys known before that could stay."""
    path.write_text("{")
    path.chmod(0o600)

    with pytest.raises(KeyFileRefused):
        Keyring(path)


def test_without_a_file_nobody_may_ask(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The service starts, and says how to make a key."""
    keys = Keyring(path)

    assert "pipeline serve-keys create" in caplog.text
    assert keys.caller("pipe_" + "0" * 16 + "_" + "A" * 43) is None


def test_the_file_is_looked_at_twice_a_second_at_most(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests there are."""
    moments = [100.0]
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(keyring, "monotonic", lambda: moments[0])
    keys = Keyring(path)
    text = add_key(path, "a job", Role.PREDICT)
    moments[0] += 0.4
    early = keys.caller(text)
    moments[0] += 0.2

    assert early is None
    assert keys.caller(text) is not None
