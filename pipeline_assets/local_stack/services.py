"""One service from asked-for to working, and back."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from signal import SIGINT, SIGTERM
from threading import Event

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.local_stack import processes
from pipeline_assets.local_stack.plan import CONNECT, KAFKA, POSTGRES, Service
from pipeline_assets.local_stack.ports import require_free

HUNG_SECONDS = 5.0
PATIENCE = {POSTGRES: (SIGINT, 30.0), KAFKA: (SIGTERM, 20.0), CONNECT: (SIGTERM, 15.0)}

Watch = Callable[[str, str], None]


def nobody_watches(name: str, state: str) -> None:
    """For callers that show no progress."""


def run_after(needs: Sequence[Future[None]], name: str, work: Callable[[], object], watch: Watch, *, done: str = "running") -> None:
    """Do the work once the needs are met, and tell about it; a failed need is raised here again."""
    for need in needs:
        need.result()
    watch(name, "starting")
    try:
        work()
    except BaseException:
        watch(name, "failed")
        raise
    watch(name, done)


def ensure(home: Path, service: Service, halted: Event) -> None:
    """Have the service running as planned. One that is dead, hung or was started otherwise is replaced. `halted` ends the wait."""
    if not keep(home, service, halted):
        processes.stop(home, service.name, *stop_order(service.name))
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


def stop_order(name: str) -> tuple[int, float]:
    """What asks a service to end, and how many seconds it may take.

    On SIGTERM, PostgreSQL would wait for its clients; it has memory to write before it ends, the broker has segments to close, and Connect
    waits for its tasks. The others keep nothing.
    """
    return PATIENCE.get(name, (SIGTERM, 6.0))


def stop(home: Path, name: str, watch: Watch) -> bool:
    """Stop one service; False if nothing of it was alive."""
    watch(name, "stopping")
    was_alive = processes.stop(home, name, *stop_order(name))
    watch(name, "stopped")
    return was_alive
