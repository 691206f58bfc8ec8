"""Services of the session's stack, ended by force and started again; shared by the tests of streams."""

import signal
from pathlib import Path

import psutil
import psycopg

from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.plan import CONNECT, KAFKA, POSTGRES, S3, load_secrets
from pipeline_assets.local_stack.postgres import bootstrap

# The weather service of the simulated world of nyc_flights.
WEATHER = "weather"
FREE = stack.free_ports()


def heal(settings: Settings) -> Settings:
    """Start what is dead of the session's stack."""
    wanted = (POSTGRES, S3, WEATHER, KAFKA, CONNECT)
    return stack.up(settings.home, only=wanted, with_history=False, stack=StackSettings(ports=FREE, given={}))


def kill(settings: Settings, name: str) -> int:
    """End a service by force; its process id."""
    known = processes.running(settings.home, name)
    assert known is not None
    process = known.find()
    assert process is not None
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=10)
    assert processes.running(settings.home, name) is None
    return process.pid


def pid_of(settings: Settings, name: str) -> int:
    """The process id of a service that runs."""
    known = processes.running(settings.home, name)
    assert known is not None
    return known.pid


def cluster_of(home: Path) -> psycopg.Connection:
    """A superuser's connection to the PostgreSQL of a stack, each statement its own transaction."""
    known = processes.running(home, POSTGRES)
    assert known is not None
    assert known.port is not None
    return bootstrap(known.port, load_secrets(home)[POSTGRES])
