"""A step of a run ends within seconds of being cancelled, whatever it waits for.

Dagster cancels a step by SIGINT, which Python hears when the main thread next runs Python: not while it waits for a lock of Postgres,
writes to a socket, or waits for a dbt that takes its time. So a thread hears the signal too, and ends the process with all that it started
once it had some seconds to end by itself. What a step writes is visible by its last commit alone, so that nothing half done is left.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from multiprocessing.util import Finalize

GRACE_SECONDS = 6.0
ENDING = {signal.SIGINT, signal.SIGTERM}

_hearing = threading.Lock()


def end_when_interrupted(grace: float = GRACE_SECONDS) -> None:
    """Has this process end so many seconds after SIGINT or SIGTERM, if it is there then; and its children with it, however it ends.

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
    threading.Thread(target=_listen, args=(ear, grace), name="end-when-interrupted", daemon=True).start()


def _listen(ear: socket.socket, grace: float) -> None:
    while ear.recv(1)[0] not in ENDING:
        continue
    threading.Event().wait(grace)
    try:
        sys.stderr.write(f"The step was cancelled {grace:.0f} s ago and has not ended: its process ends now.\n")
        sys.stderr.flush()
        _end_children()
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def _end_children() -> None:
    """Ends all processes below this one, at once, but for those that it may not end."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
