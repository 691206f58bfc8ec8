"""One service from planned to ready, and back."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Event

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.local_stack import processes
from pipeline_assets.local_stack.plan import Ending, Service
from pipeline_assets.local_stack.ports import require_free

HUNG_SECONDS = 5.0
GENTLE = Ending()

Watch = Callable[[str, str], None]


def nobody_watches(name: str, state: str) -> None:
    """For callers that show no progress."""


def run_after(needs: Sequence[Future[None]], name: str, work: Callable[[], object], watch: Watch, *, done: str = "running") -> None:
    """Do the work once the needs are met, and report its states; a failed need is raised here again."""
    for need in needs:
        need.result()
    watch(name, "starting")
    try:
        work()
    except BaseException:
        watch(name, "failed")
        raise
    watch(name, done)


def ensure(home: Path, service: Service, halted: Event, ending: Ending = GENTLE) -> None:
    """Start the service as planned. One that is dead, hung or was started differently is replaced. `halted` ends the wait."""
    if not keep(home, service, halted):
        processes.stop(home, service.name, ending.signal, ending.seconds)
        if service.port is not None:
            require_free(service.name, service.port)
        service.prepare()
        processes.wait_until_ready(home, service, processes.start(home, service), service.start_seconds, halted)
    service.finish()


def keep(home: Path, service: Service, halted: Event) -> bool:
    """The service runs as planned and works. One that is still starting, because its starter was killed, gets the time it has left."""
    known = processes.running(home, service.name)
    if known is None or known.fingerprint != processes.fingerprint(service):
        return False
    left = service.start_seconds - (time.time() - known.created_at)
    try:
        processes.wait_until_ready(home, service, known, max(left, HUNG_SECONDS), halted)
    except ServiceFailed:
        if halted.is_set():
            raise
        return False
    return True


def is_outdated(home: Path, service: Service) -> bool:
    """Whether the service runs, and would be started differently today."""
    known = processes.running(home, service.name)
    return known is not None and known.fingerprint != processes.fingerprint(service)


def stop(home: Path, name: str, watch: Watch, ending: Ending = GENTLE) -> bool:
    """Stop one service; False if nothing of it was alive."""
    watch(name, "stopping")
    was_alive = processes.stop(home, name, ending.signal, ending.seconds)
    watch(name, "stopped")
    return was_alive
