"""The end of a step that was cancelled and does not hear it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import psutil
import pytest

from pipeline_assets.core.interrupts import end_when_interrupted

DEADLINE_SECONDS = 30
Step = Callable[["Connection[list[int], None]", float], None]


def _child() -> "subprocess.Popen[bytes]":
    """A process that SIGTERM does not end."""
    return subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])


def _deaf(pipe: "Connection[list[int], None]", grace: float) -> None:
    """A step that starts another process and then hears no signal in Python, as one that waits in C."""
    signal.signal(signal.SIGINT, lambda *_: None)
    end_when_interrupted(grace)
    end_when_interrupted(grace)
    child = _child()
    pipe.send([os.getpid(), child.pid])
    while True:
        child.wait()


def _last_words(pipe: "Connection[list[int], None]", grace: float) -> None:
    """A deaf step that does something before it is ended, and then hangs."""

    def last() -> None:
        pipe.send([0])
        threading.Event().wait()

    end_when_interrupted(grace, last)
    _deaf(pipe, grace)


def _lost(pipe: "Connection[list[int], None]", grace: float) -> None:
    """A step whose first interrupt goes where Python can only print it."""

    class Lost:
        def __del__(self) -> None:
            signal.pause()

    end_when_interrupted(grace)
    try:
        pipe.send([os.getpid(), _child().pid])
        lost = Lost()
        del lost
        signal.pause()
    except KeyboardInterrupt:
        sys.exit(7)


def _forbidden(pipe: "Connection[list[int], None]", grace: float) -> None:
    """A deaf step that may not look at its children."""

    def refuse(*_: object, **__: object) -> list[psutil.Process]:
        raise psutil.AccessDenied

    psutil.Process.children = refuse  # type: ignore[method-assign]
    _deaf(pipe, grace)


def _quick(pipe: "Connection[list[int], None]", grace: float) -> None:
    """A step that ends by itself when it is interrupted."""
    end_when_interrupted(grace)
    try:
        pipe.send([os.getpid(), _child().pid])
        signal.pause()
    except KeyboardInterrupt:
        sys.exit(7)


def begun(step_of: Step, grace: float) -> tuple[SpawnProcess, "Connection[None, list[int]]", psutil.Process]:
    """A step that was interrupted once its child ran, the end of its pipe, and that child."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    step = spawn.Process(target=step_of, args=(theirs, grace))
    step.start()
    assert mine.poll(DEADLINE_SECONDS)
    (own, child) = (psutil.Process(pid) for pid in mine.recv())
    own.send_signal(signal.SIGINT)
    return step, mine, child


def interrupted(step_of: Step, grace: float) -> tuple[int | None, psutil.Process]:
    """The exit code of such a step, and its child."""
    step, _, child = begun(step_of, grace)
    step.join(DEADLINE_SECONDS)
    return step.exitcode, child


def test_a_deaf_step_ends_with_its_children() -> None:
    """After the grace both are gone, though neither hears a signal."""
    exitcode, child = interrupted(_deaf, 0.2)

    assert exitcode == -signal.SIGKILL
    assert psutil.wait_procs([child], timeout=DEADLINE_SECONDS)[1] == []


def test_a_step_hears_what_was_lost_the_first_time() -> None:
    """Regression: an interrupt that came as a destructor ran was lost; the run went on, was killed, and tried again though cancelled."""
    exitcode, child = interrupted(_lost, 6.0)

    assert exitcode == 7
    assert psutil.wait_procs([child], timeout=DEADLINE_SECONDS)[1] == []


def test_what_is_to_be_done_before_a_step_is_ended_is_done_and_holds_nothing_up() -> None:
    """It is called once the grace is over, and the step ends though it never returns."""
    step, mine, _ = begun(_last_words, 0.2)
    assert mine.poll(DEADLINE_SECONDS)
    said = mine.recv()
    step.join(DEADLINE_SECONDS)

    assert said == [0]
    assert step.exitcode == -signal.SIGKILL


def test_a_deaf_step_ends_though_its_children_cannot() -> None:
    """Regression: an error on the way to the children of another user kept the step itself alive, without a word."""
    exitcode, child = interrupted(_forbidden, 0.2)
    child.kill()

    assert exitcode == -signal.SIGKILL


def test_a_step_that_hears_ends_as_it_would() -> None:
    """Its own end comes first, with its own exit code, and what it started ends with it."""
    exitcode, child = interrupted(_quick, 60.0)

    assert exitcode == 7
    assert psutil.wait_procs([child], timeout=DEADLINE_SECONDS)[1] == []


def test_a_process_that_is_no_step_is_left_alone() -> None:
    """Nothing hears the signals of a test or a shell."""
    if multiprocessing.parent_process() is not None:
        pytest.skip("the test itself runs in a process that was started for it")
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    end_when_interrupted(0.1)
    after = signal.set_wakeup_fd(before)

    assert after == before
