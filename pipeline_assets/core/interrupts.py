"""A step of a run ends within seconds of being cancelled, whatever it waits for.

Dagster cancels a step by SIGINT, which Python hears when the main thread next runs Python: not while it waits for a lock of Postgres,
writes to a socket, or waits for a dbt that takes its time. And what Python raises then may be lost: in a destructor, or where a library
raises another error as it cleans up. So a thread hears the signal too, sends it again while the step goes on, and ends the process with all
that it started once it had some seconds to end by itself. What a step writes is visible by its last commit alone, so that nothing half
done is left.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.util import Finalize

GRACE_SECONDS, TRIES = 6.0, 3
# What is done before a process ends may take so long.
LAST_SECONDS = 3.0
ENDING = {signal.SIGINT, signal.SIGTERM}

_hearing = threading.Lock()


def end_when_interrupted(grace: float = GRACE_SECONDS, last: Callable[[], None] = lambda: None) -> None:
    """Has this process end so many seconds after SIGINT or SIGTERM, if it is there then; and its children with it, however it ends.

    Meanwhile it gets SIGINT twice more. last: what is done by another thread before it is ended like that, for three seconds at most.

    Only in a process that was started for one step, and once; call it from the main thread. Elsewhere, as in a test or a shell, it does
    nothing: there a second signal ends a process.
    """
    is_step = multiprocessing.parent_process() is not None
    if not is_step or threading.current_thread() is not threading.main_thread() or not _hearing.acquire(blocking=False):
        return
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    # What Python's handler in C writes, also while the main thread does not come to run the one in Python.
    signal.set_wakeup_fd(mouth.detach(), warn_on_full_buffer=False)
    # Called as such a process ends, where handlers of `atexit` are not.
    Finalize(None, _end_children, exitpriority=0)
    threading.Thread(target=_listen, args=(ear, grace, last), name="end-when-interrupted", daemon=True).start()


def _listen(ear: socket.socket, grace: float, last: Callable[[], None]) -> None:
    while ear.recv(1)[0] not in ENDING:
        continue
    for _ in range(TRIES - 1):
        threading.Event().wait(grace / TRIES)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(grace / TRIES)
    try:
        sys.stderr.write(f"The step was cancelled {grace:.0f} s ago and has not ended: its process ends now.\n")
        sys.stderr.flush()
        ending = threading.Thread(target=last, daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)
        _end_children()
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def _end_children() -> None:
    """Ends all processes below this one, at once, but for those that it may not end."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
