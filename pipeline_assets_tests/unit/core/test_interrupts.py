"""The end of a step that was cancelled and does not hear it."""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection

import psutil
import pytest

from pipeline_assets.core.interrupts import end_when_interrupted

DEADLINE_SECONDS = 30


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


def _forbidden(pipe: "Connection[list[int], None]", grace: float) -> None:
    """A deaf step that may not look at its children."""

    def refuse(*_: object, **__: object) -> list[psutil.Process]:
        raise psutil.AccessDenied

    psutil.Process.children = refuse  # type: ignore[method-assign]
    _deaf(pipe, grace)


def _quick(pipe: "Connection[list[int], None]", grace: float) -> None:
    """A step that ends by itself when it is interrupted."""
    end_when_interrupted(grace)
    pipe.send([os.getpid(), _child().pid])
    try:
        signal.pause()
    except KeyboardInterrupt:
        sys.exit(7)


def test_a_deaf_step_ends_with_its_children() -> None:
    """After the grace both are gone, though neither hears a signal."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    step = spawn.Process(target=_deaf, args=(theirs, 0.2))
    step.start()
    assert mine.poll(DEADLINE_SECONDS)
    (own, child) = (psutil.Process(pid) for pid in mine.recv())
    own.send_signal(signal.SIGINT)
    step.join(DEADLINE_SECONDS)

    assert step.exitcode == -signal.SIGKILL
    assert psutil.wait_procs([child], timeout=DEADLINE_SECONDS)[1] == []


def test_a_deaf_step_ends_though_its_children_cannot() -> None:
    """Regression: an error on the way to the children of another user kept the step itself alive, without a word."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    step = spawn.Process(target=_forbidden, args=(theirs, 0.2))
    step.start()
    assert mine.poll(DEADLINE_SECONDS)
    (own, child) = (psutil.Process(pid) for pid in mine.recv())
    own.send_signal(signal.SIGINT)
    step.join(DEADLINE_SECONDS)
    child.kill()

    assert step.exitcode == -signal.SIGKILL


def test_a_step_that_hears_ends_as_it_would() -> None:
    """Its own end comes first, with its own exit code, and what it started ends with it."""
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    step = spawn.Process(target=_quick, args=(theirs, 60.0))
    step.start()
    assert mine.poll(DEADLINE_SECONDS)
    (own, child) = (psutil.Process(pid) for pid in mine.recv())
    own.send_signal(signal.SIGINT)
    step.join(DEADLINE_SECONDS)

    assert step.exitcode == 7
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
