"""The file of keys: who may read it, what it may hold, and that it is written whole or not at all."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline_assets.serving.realtime.access.callers import Limits, Role
from pipeline_assets.serving.realtime.access.errors import KeyFileRefused
from pipeline_assets.serving.realtime.access.key_file import change_keys, read_keys
from pipeline_assets.serving.realtime.access.keys import find_key, make_key, utc_now
from pipeline_assets_tests.guarded_apps import add_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file of keys may be made, in a folder that is not there yet."""
    return tmp_path / "home" / "serve-keys.json"


def test_what_is_written_is_read_again(path: Path) -> None:
    """All of a key: roles, secrets and limits; the file is for its owner alone."""
    limits = Limits(requests_per_second=2.5, burst=5, rows_per_request=100)
    key, text = make_key("a job", [Role.PREDICT, Role.READ], now=utc_now(), lives=timedelta(days=1), limits=limits)
    change_keys(path, lambda keys: ({**keys, key.id: key}, None))

    assert read_keys(path) == {key.id: key}
    assert find_key(read_keys(path), text, utc_now()) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert text.split("_", 2)[2] not in path.read_text()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o640, 0o620, 0o644, 0o666])
def test_a_file_that_others_may_read_or_write_is_refused(path: Path, mode: int) -> None:
    """The error says how to close it, and a command writes nothing to it."""
    add_key(path, "a job", Role.PREDICT)
    path.chmod(mode)
    before = path.read_bytes()

    with pytest.raises(KeyFileRefused, match=rf"mode {mode:04o}\)\. Run: chmod 600 {path}"):
        read_keys(path)
    with pytest.raises(KeyFileRefused):
        add_key(path, "another", Role.PREDICT)
    assert path.read_bytes() == before


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns it could write it."""
    add_key(path, "a job", Role.PREDICT)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        os.chown(path, 12_345, -1)

    with pytest.raises(KeyFileRefused, match="belongs to another user"):
        read_keys(path)


def fifo(path: Path) -> None:
    """A pipe to which nobody writes."""
    os.mkfifo(path, 0o600)


def loop(path: Path) -> None:
    """A link that leads to itself."""
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("put", "problem"), [(fifo, "is no file"), (loop, "cannot be opened: Too many levels"), (Path.mkdir, "is no file")]
)
def test_what_is_no_file_is_refused_and_not_waited_for(path: Path, put: Callable[[Path], None], problem: str) -> None:
    """A pipe would be read until somebody writes to it."""
    path.parent.mkdir()
    put(path)
    with pytest.raises(KeyFileRefused, match=rf"{problem}.*PIPELINE_SERVE_KEYS"):
        read_keys(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "cannot be read"),
        ('{"version": 1, "keys": [', "cannot be read"),
        ('{"version": 2, "keys": []}', "version"),
        ('{"version": 1}', "keys: Field required"),
        ('{"version": 1, "keys": [{"id": "x"}]}', "keys.0.id"),
    ],
)
def test_a_broken_file_is_refused_and_nothing_is_written_to_it(path: Path, text: str, problem: str) -> None:
    """The error says where it is broken; a command leaves it as it is."""
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(KeyFileRefused, match=problem):
        read_keys(path)
    with pytest.raises(KeyFileRefused):
        add_key(path, "a job", Role.PREDICT)
    assert path.read_text() == text


def test_an_unknown_role_or_field_is_no_key(path: Path) -> None:
    """What an older service does not know it must not pass over: it could be a limit."""
    add_key(path, "a job", Role.PREDICT)
    kept = json.loads(path.read_text())

    for change in ({"roles": ["emperor"]}, {"only_from": "10.0.0.0/8"}, {"created_at": "2026-11-30T00:00:00"}):
        path.write_text(json.dumps({**kept, "keys": [{**kept["keys"][0], **change}]}))
        with pytest.raises(KeyFileRefused, match=next(iter(change))):
            read_keys(path)


def test_an_error_shows_no_value_of_the_file(path: Path) -> None:
    """Not even a digest gets into a log by way of an error."""
    add_key(path, "a job", Role.PREDICT)
    kept = json.loads(path.read_text())
    kept["keys"][0]["secrets"][0]["sha256"] = "of another form: s3cret"
    path.write_text(json.dumps(kept))

    with pytest.raises(KeyFileRefused) as raised:
        read_keys(path)
    assert "s3cret" not in str(raised.value)


def test_writers_wait_for_each_other(path: Path) -> None:
    """Of thirty keys made at once by eight threads each is there."""
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda place: add_key(path, f"job {place}", Role.PREDICT), range(30)))

    keys = read_keys(path)
    assert len(keys) == 30
    assert all(find_key(keys, text, utc_now()) is not None for text in texts)


def test_a_write_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a kill in between: the old file stands, and the next write works."""
    add_key(path, "a job", Role.PREDICT)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            add_key(path, "another", Role.PREDICT)
    assert path.read_bytes() == before
    add_key(path, "another", Role.PREDICT)
    assert sorted(key.name for key in read_keys(path).values()) == ["a job", "another"]
