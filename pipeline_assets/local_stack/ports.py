"""Ports on loopback: which are free, and who holds one that is not."""

import socket
import time

import psutil

from pipeline_assets.core.errors import PortTaken
from pipeline_assets.local_stack.plan import HOST

COMMAND_WIDTH = 120
LET_GO_SECONDS, POLL_SECONDS = 5.0, 0.05


def is_free(port: int) -> bool:
    """Nobody listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Somebody accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def require_free(service: str, port: int) -> None:
    """Raise PortTaken naming the holder of the port, unless it is free.

    Of a process that was killed a thread may still have it, when the process itself is gone already; such a holder is waited for.
    """
    deadline = time.monotonic() + LET_GO_SECONDS
    while not is_free(port):
        pid, command = holder(port)
        if pid is not None or time.monotonic() > deadline:
            raise PortTaken(service, port, pid, command)
        time.sleep(POLL_SECONDS)


def holder(port: int) -> tuple[int | None, str]:
    """Process id and command line of who has the port; None where the process belongs to another user."""
    found = [each for each in psutil.net_connections(kind="tcp") if each.laddr and each.laddr.port == port]
    for connection in sorted(found, key=lambda each: each.status != psutil.CONN_LISTEN):
        if connection.pid is not None:
            return connection.pid, command_of(connection.pid)
    return None, ""


def command_of(pid: int) -> str:
    """The start of a process's command line."""
    try:
        return " ".join(psutil.Process(pid).cmdline())[:COMMAND_WIDTH]
    except psutil.Error:
        return "ended meanwhile"
