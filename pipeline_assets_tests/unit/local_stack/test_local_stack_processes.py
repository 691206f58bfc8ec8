"""Starting, finding and stopping processes, with small programs in the place of services."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import psutil
import pytest

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.local_stack import processes
from pipeline_assets.local_stack.plan import Service
from pipeline_assets.local_stack.services import ensure, stop

NAME = "toy"
SAY_AND_STAY = "import sys, time; print('hello from the toy', flush=True); time.sleep(600)"
SAY_AND_FAIL = "import sys; print('line one'); print('the disk is full', flush=True); sys.exit(3)"
STAY_WITH_CHILD = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
IGNORE_SIGNALS = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ignoring', flush=True); time.sleep(600)"
PATIENCE_SECONDS = 20.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The folder of a stack; what was started in it is ended."""
    for name in ("logs", "run"):
        (tmp_path / name).mkdir()
    yield tmp_path
    processes.end_all(processes.family(tmp_path, NAME))


def toy(home: Path, program: str, is_ready: Callable[[float], bool] | None = None) -> Service:
    """A service that runs a Python program; ready once it has written to its log, or by `is_ready`."""
    return Service(
        name=NAME,
        command=(sys.executable, "-c", program),
        folder=home,
        is_ready=is_ready or (lambda _since: bool(processes.tail(home, NAME))),
        start_seconds=PATIENCE_SECONDS,
    )


def leader(home: Path) -> psutil.Process:
    """The process of the toy."""
    known = processes.running(home, NAME)
    assert known is not None
    found = known.find()
    assert found is not None
    return found


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """The children of a process, once it has some."""
    until(lambda: bool(process.children()))
    return process.children()


def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; fail after a while."""
    pause = Event()
    for _ in range(int(PATIENCE_SECONDS * 20)):
        if condition():
            return
        pause.wait(0.05)
    pytest.fail("The condition never came true.")


def test_a_started_service_outlives_its_starter_and_is_found_again(home: Path) -> None:
    """The service is no child of this process, and its pid file leads to it."""
    ensure(home, toy(home, SAY_AND_STAY), Event())

    found = leader(home)
    assert found.ppid() != os.getpid()
    assert os.getsid(found.pid) == found.pid
    assert processes.tail(home, NAME) == "hello from the toy"


def test_a_running_service_is_left_alone(home: Path) -> None:
    """Asked for again, the same process goes on."""
    service = toy(home, SAY_AND_STAY)
    ensure(home, service, Event())
    before = leader(home).pid
    ensure(home, service, Event())

    assert leader(home).pid == before


def test_a_service_that_would_be_started_otherwise_is_replaced(home: Path) -> None:
    """A changed command ends the old process and starts a new one."""
    ensure(home, toy(home, SAY_AND_STAY), Event())
    before = leader(home)
    ensure(home, toy(home, STAY_WITH_CHILD), Event())

    assert leader(home).pid != before.pid
    assert not processes.is_alive(before)


def test_a_killed_service_is_started_again_and_its_orphans_are_ended(home: Path) -> None:
    """What a service leaves behind when it is killed (-9) does not live beside its successor."""
    service = toy(home, STAY_WITH_CHILD, is_ready=lambda _since: True)
    ensure(home, service, Event())
    before = leader(home)
    orphans = children_of(before)
    before.send_signal(signal.SIGKILL)
    until(lambda: not processes.is_alive(before))
    ensure(home, service, Event())

    assert leader(home).pid != before.pid
    assert [orphan for orphan in orphans if processes.is_alive(orphan)] == []


def test_a_service_that_ends_while_it_starts_shows_its_last_lines(home: Path) -> None:
    """The error carries what the service said, of this start only."""
    processes.log_file(home, NAME).write_text("an old line\n")
    with pytest.raises(ServiceFailed, match="the disk is full") as failure:
        ensure(home, toy(home, SAY_AND_FAIL, is_ready=lambda _since: False), Event())

    assert failure.value.service == NAME
    assert failure.value.log_tail.splitlines() == ["line one", "the disk is full"]


def test_a_service_that_never_answers_is_given_up(home: Path) -> None:
    """The wait has an end, and the error says how long it was."""
    service = toy(home, SAY_AND_STAY)
    started = processes.start(home, service)
    until(lambda: bool(processes.tail(home, NAME)))
    with pytest.raises(ServiceFailed, match=r"did not answer within 0 s[\s\S]*hello from the toy"):
        processes.wait_until_ready(home, toy(home, SAY_AND_STAY, is_ready=lambda _since: False), started, 0.2, Event())

    assert leader(home).pid == started.pid


def test_an_interrupted_wait_ends_at_once(home: Path) -> None:
    """Ctrl-C does not wait for services that are still starting."""
    halted = Event()
    halted.set()
    with pytest.raises(ServiceFailed, match="interrupted"):
        ensure(home, toy(home, SAY_AND_STAY, is_ready=lambda _since: False), halted)

    assert processes.running(home, NAME) is not None


def test_stopping_ends_the_service_and_everything_it_started(home: Path) -> None:
    """No process and no pid file remain, and stopping again says that nothing was there."""
    ensure(home, toy(home, STAY_WITH_CHILD, is_ready=lambda _since: True), Event())
    members = [leader(home), *children_of(leader(home))]

    assert stop(home, NAME, lambda _name, _state: None)
    assert [member for member in members if processes.is_alive(member)] == []
    assert not processes.pid_file(home, NAME).exists()
    assert not stop(home, NAME, lambda _name, _state: None)


def test_a_service_that_ignores_signals_is_killed(home: Path) -> None:
    """Processes that do not end when asked are made to."""
    ensure(home, toy(home, IGNORE_SIGNALS), Event())
    member = leader(home)
    processes.end_all([member], patience_seconds=0.2)

    assert not processes.is_alive(member)


def test_a_reused_pid_is_not_taken_for_the_service(home: Path) -> None:
    """A pid file that names a living process with another start time counts as ended."""
    ensure(home, toy(home, SAY_AND_STAY), Event())
    file = processes.pid_file(home, NAME)
    text = file.read_text()
    created_at = leader(home).create_time()
    file.write_text(text.replace(str(created_at), str(created_at - 100)))

    assert processes.running(home, NAME) is None
    assert [member.pid for member in processes.family(home, NAME)] != []


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]"])
def test_an_unreadable_pid_file_counts_as_none(home: Path, content: str) -> None:
    """A pid file that was damaged does not stand in the way of the next start."""
    processes.pid_file(home, NAME).write_text(content)

    assert processes.running(home, NAME) is None
    ensure(home, toy(home, SAY_AND_STAY), Event())
    assert processes.running(home, NAME) is not None


def test_pid_files_and_logs_are_for_their_owner_only(home: Path) -> None:
    """Neither can be read by other users."""
    ensure(home, toy(home, SAY_AND_STAY), Event())

    assert processes.pid_file(home, NAME).stat().st_mode & 0o777 == 0o600
    assert processes.log_file(home, NAME).stat().st_mode & 0o777 == 0o600


def test_a_large_log_is_set_aside_at_the_next_start(home: Path) -> None:
    """A log does not grow for ever: one earlier file is kept."""
    log = processes.log_file(home, NAME)
    with log.open("wb") as file:
        file.truncate(processes.LOG_BYTES + 1)
    ensure(home, toy(home, SAY_AND_STAY), Event())

    assert log.with_suffix(".log.1").stat().st_size == processes.LOG_BYTES + 1
    assert processes.tail(home, NAME) == "hello from the toy"


def test_following_a_log_gives_what_is_written_from_now_on(home: Path) -> None:
    """Old lines are not repeated, and a log that begins anew is read from its start."""
    log = processes.log_file(home, NAME)
    log.write_text("old\n" * 10)
    lines = processes.followed(home, NAME)
    assert next(lines) == ""
    with log.open("a") as file:
        file.write("new\n")
    assert next(lines) == "new\n"
    log.write_text("again\n")

    assert next(lines) == "again\n"


def test_memory_is_counted_over_all_processes(home: Path) -> None:
    """The memory of a service is that of its process and of the processes it started."""
    ensure(home, toy(home, STAY_WITH_CHILD, is_ready=lambda _since: True), Event())
    children_of(leader(home))
    members = processes.family(home, NAME)

    assert len(members) > 1
    assert processes.resident_mb(members) > processes.resident_mb(members[:1]) > 1
