"""Files of a stack's folder that are junk, or no files: each is made anew, or named in one sentence, and none is waited for."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline_assets.core.settings import ROOT, StackSettings, read_settings
from pipeline_assets.core.state_errors import FolderUnusable, StateFileDamaged, errors_of_folders
from pipeline_assets.local_stack import dagster, postgres, processes, settings
from pipeline_assets.local_stack.inventory import described
from pipeline_assets.local_stack.plan import POSTGRES, Plan
from pipeline_assets.local_stack.processes import Running
from pipeline_assets.local_stack.worlds import read_worlds
from pipeline_assets_tests.stack_services import FREE

DEEP = "[" * 100_000
PATIENCE_SECONDS = 60.0
ALIVE = {
    "name": "s3", "pid": 1, "created_at": 1.0, "port": None, "url": "", "folder": "/", "fingerprint": "", "log_start": 0,
}  # fmt: skip


def folder(path: Path) -> None:
    """A folder in the place of the file."""
    path.mkdir()


def fifo(path: Path) -> None:
    """A pipe in the place of the file, to which nobody writes."""
    os.mkfifo(path)


def no_text(path: Path) -> None:
    """Bytes that are no UTF-8."""
    path.write_bytes(b"PIPELINE_S3_BUCKET=\xff\xfe\n")


def planned(home: Path) -> Plan:
    """The plan that `up` makes in a folder, once it knows which of the environment's values are its own."""
    settings.remove_unreadable(home)
    services = described(read_worlds(ROOT))
    stack = settings.without_own(list(services.values()), StackSettings(ports=dict(FREE)), ROOT, home)
    return settings.make_plan(services.values(), stack, ROOT, home)


def command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command of the stack says on the folder `home`."""
    environment = {**os.environ, "PIPELINE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "pipeline_assets.local_stack", *words],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("damage", [no_text, fifo])
def test_a_stack_env_that_cannot_be_read_is_written_anew_as_its_error_says(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Regression: `pipeline up`, the remedy that the error names, ended with the same error."""
    settings.write_settings(planned(tmp_path))
    before = (tmp_path / "stack.env").read_bytes()
    (tmp_path / "stack.env").unlink()
    damage(tmp_path / "stack.env")
    with pytest.raises(StateFileDamaged, match=r"stack\.env cannot be read: it is no .*\. `pipeline up` writes it anew\."):
        read_settings(tmp_path)
    settings.write_settings(planned(tmp_path))

    assert (tmp_path / "stack.env").read_bytes() == before
    assert read_settings(tmp_path).s3_bucket == "pipeline"


@pytest.mark.parametrize("file", ["ports.json", "secrets.json"])
@pytest.mark.parametrize("damage", [fifo, folder])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    """A pipe would be read until somebody writes to it; the error has the path and what to do."""
    damage(tmp_path / file)
    with pytest.raises(StateFileDamaged, match=rf"{file} cannot be read: it is no file\. (Delete it|Restore it)"):
        planned(tmp_path)


@pytest.mark.parametrize("port", [0, -1, 65_536, 10**30])
def test_a_port_that_is_none_names_its_file(tmp_path: Path, port: int) -> None:
    """No service is started at it."""
    planned(tmp_path)
    (tmp_path / "ports.json").write_text(json.dumps({POSTGRES: port}))
    with pytest.raises(StateFileDamaged, match=rf"ports\.json cannot be read: the value of '{POSTGRES}'"):
        planned(tmp_path)


@pytest.mark.parametrize("secret", ["", "a\x00b", "a\nb"])
def test_a_secret_that_is_none_names_its_file_and_is_not_shown(tmp_path: Path, secret: str) -> None:
    """An empty password would let everybody in, and one with such characters breaks the files that it is put in."""
    planned(tmp_path)
    (tmp_path / "secrets.json").write_text(json.dumps({POSTGRES: secret}))
    with pytest.raises(StateFileDamaged, match=rf"secrets\.json cannot be read: the value of '{POSTGRES}' is none that it may have"):
        planned(tmp_path)


@pytest.mark.parametrize("file", ["ports.json", "secrets.json"])
def test_deeply_nested_state_is_no_trace(tmp_path: Path, file: str) -> None:
    """Regression: the parser's own limit ended in a RecursionError."""
    (tmp_path / file).write_text(DEEP)
    with pytest.raises(StateFileDamaged, match=rf"{file} cannot be read: it is no JSON"):
        planned(tmp_path)


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        DEEP,
        "[]",
        json.dumps({**ALIVE, "pid": "1"}),
        json.dumps({**ALIVE, "pid": -1}),
        json.dumps({**ALIVE, "pid": 10**30}),
        json.dumps({**ALIVE, "pid": None}),
        json.dumps({**ALIVE, "created_at": "then"}),
        json.dumps({**ALIVE, "log_start": -1}),
        json.dumps({**ALIVE, "log_start": 10**30}),
        json.dumps({**ALIVE, "name": 7}),
    ],
    ids=lambda text: text[:20] or "empty",
)
def test_a_damaged_note_of_a_process_counts_as_none(tmp_path: Path, damaged: str) -> None:
    """What the note says is looked up, signalled and read from: a wrong type or number is no such note."""
    processes.pid_file(tmp_path, "s3").parent.mkdir()
    processes.pid_file(tmp_path, "s3").write_text(json.dumps(ALIVE))
    whole = processes.remembered(tmp_path, "s3")
    processes.pid_file(tmp_path, "s3").write_text(damaged)

    assert isinstance(whole, Running)
    assert processes.remembered(tmp_path, "s3") is None


@pytest.mark.parametrize("damage", [folder, fifo])
def test_what_is_no_note_of_a_process_counts_as_none(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A folder, and a pipe that nobody writes to."""
    processes.pid_file(tmp_path, "s3").parent.mkdir()
    damage(processes.pid_file(tmp_path, "s3"))

    assert processes.remembered(tmp_path, "s3") is None


@pytest.mark.parametrize("damaged", ["", "{", DEEP, "[]", "{}", '{"folder": 7, "version": "1"}', '{"folder": "<kept>", "version": "1"}'])
def test_a_damaged_note_of_copied_programs_deletes_the_note_alone(tmp_path: Path, damaged: str) -> None:
    """The folder that it names is deleted if it is such a copy, and nothing else whatever the note says."""
    kept, note = tmp_path / "kept", tmp_path / POSTGRES / "programs.json"
    kept.mkdir()
    note.parent.mkdir()
    note.write_text(damaged.replace("<kept>", str(kept)))
    postgres.remove_copy(tmp_path)

    assert not note.exists()
    assert kept.is_dir()


def test_a_copy_of_programs_is_deleted_by_its_note(tmp_path: Path) -> None:
    """Both are gone afterwards."""
    copy, note = tmp_path / f"{postgres.COPY}x", tmp_path / POSTGRES / "programs.json"
    copy.mkdir()
    note.parent.mkdir()
    note.write_text(json.dumps({"folder": str(copy), "version": "1"}))
    postgres.remove_copy(tmp_path)

    assert (note.exists(), copy.exists()) == (False, False)


def test_an_environment_file_that_is_no_text_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    """It may have lines that somebody else wrote."""
    path = tmp_path / ".env"
    no_text(path)
    before = path.read_bytes()
    for change in (partial(dagster.write_dotenv, planned(tmp_path)), partial(dagster.remove_dotenv, path)):
        with pytest.raises(StateFileDamaged, match=r"\.env cannot be read: it is no text\. Save it as UTF-8, or delete it\."):
            change()

    assert path.read_bytes() == before


@pytest.mark.parametrize("words", [("down",), ("up", "--service", "postgres"), ("logs", "postgres"), ("logs", "postgres", "--follow")])
def test_a_pipe_in_the_place_of_a_lock_or_a_log_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Regression: commands waited for ever for somebody at its other end."""
    path = tmp_path / ("stack.lock" if words[0] != "logs" else "logs/postgres.log")
    path.parent.mkdir(exist_ok=True)
    fifo(path)
    done = command(tmp_path, *words)

    assert (done.returncode, done.stderr) == (2, f"{path} cannot be read: it is no file. Delete it.\n")


def test_what_the_system_says_of_a_file_is_one_sentence(tmp_path: Path) -> None:
    """With the path where there is one; a full disk that has none is of the output, the home or temporary files; bugs keep their trace."""
    (tmp_path / "file").write_text("")
    for path, said in (
        (tmp_path / "none" / "x.html", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "x", "Not a dir"),
    ):
        with pytest.raises(FolderUnusable, match=rf"^{path}: {said}.*PIPELINE_HOME"), errors_of_folders(tmp_path):
            path.write_text("x")
    with pytest.raises(FolderUnusable, match=rf"output, {tmp_path} or TMPDIR\): No space left"), errors_of_folders(tmp_path):
        Path("/dev/full").write_text("x")
    with pytest.raises(ConnectionRefusedError), errors_of_folders(tmp_path):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def test_a_home_that_cannot_be_one_is_named_in_one_sentence(tmp_path: Path) -> None:
    """A file, a folder below one, and a name that is too long; each with the setting, and without a trace."""
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        said = command(home, "up")
        assert (said.returncode, said.stdout, len(said.stderr.strip().splitlines())) == (2, "", 1), said.stderr
        assert str(home)[:200] in said.stderr
        assert "name another (the folder of the stack by PIPELINE_HOME)" in said.stderr
