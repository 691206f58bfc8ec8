"""Processes of the stack: started detached, found again by pid file and mark, stopped with everything they started.

A pid file names the process together with its start time, so that a reused pid is never taken for a service. Every service also carries a
mark in its environment, which its children inherit: what a killed service leaves behind is found by it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Annotated

import psutil
from pydantic import Field, TypeAdapter

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.core.settings import environment_of_children
from pipeline_assets.core.state_errors import check_is_file
from pipeline_assets.local_stack.plan import Service

MARK = "PIPELINE_STACK_SERVICE"
LAUNCHER = Path(__file__).with_name("launch.py")
POLL_SECONDS = 0.05
FOLLOW_SECONDS = 0.5
KILL_SECONDS = 5.0
TAIL_LINES = 20
TAIL_BYTES = 64_000
LOG_BYTES = 20_000_000
START_TIME_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service that was started: its process, and what it was started with.

    folder: where it works. `fingerprint` changes when the same service would be started differently today. `log_start` is where in its log
    this start begins.
    """

    name: str
    pid: Annotated[int, Field(gt=0, lt=1 << 31)]
    created_at: float
    port: int | None
    url: str
    folder: str
    fingerprint: str
    log_start: Annotated[int, Field(ge=0, lt=1 << 62)]

    def find(self) -> psutil.Process | None:
        """The process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.created_at) < START_TIME_TOLERANCE
            return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


RUNNING = TypeAdapter(Running)


def log_file(home: Path, name: str) -> Path:
    """Where a service writes; raises StateFileDamaged where that is no file."""
    path = home / "logs" / f"{name}.log"
    check_is_file(path, "Delete it")
    return path


def pid_file(home: Path, name: str) -> Path:
    """Where the process of a service is written down."""
    return home / "run" / f"{name}.json"


def all_remembered(home: Path) -> set[str]:
    """The names of all services that were started and not stopped since."""
    return {path.stem for path in (home / "run").glob("*.json")}


def remembered(home: Path, name: str) -> Running | None:
    """What was written down when the service was last started; it may have ended since. None where nothing is, or nothing readable."""
    path = pid_file(home, name)
    try:
        return RUNNING.validate_json(path.read_bytes(), strict=True) if path.is_file() else None
    except (FileNotFoundError, ValueError):
        return None


def running(home: Path, name: str) -> Running | None:
    """The service, if its process is alive."""
    known = remembered(home, name)
    return known if known is not None and known.find() is not None else None


def fingerprint(service: Service) -> str:
    """A hash of how the service would be started."""
    facts = [service.command, sorted(service.environment.items()), str(service.folder), service.port, service.user]
    return sha256(json.dumps(facts).encode()).hexdigest()


def start(home: Path, service: Service) -> Running:
    """Start the service detached from this process, and return once its pid file is written."""
    log = log_file(home, service.name)
    turn_over(log)
    facts = {"name": service.name, "port": service.port, "url": service.url, "folder": str(service.folder)}
    record = {**facts, "fingerprint": fingerprint(service), "log_start": log.stat().st_size if log.exists() else 0}
    order = {
        "command": service.command,
        "folder": str(service.folder),
        "user": service.user,
        "log": str(log),
        "pid_file": str(pid_file(home, service.name)),
        "record": record,
    }
    pid_file(home, service.name).unlink(missing_ok=True)
    environment = {**marked_environment(home, service.name), **service.environment}
    command = [sys.executable, "-P", str(LAUNCHER)]
    subprocess.run(command, input=json.dumps(order), text=True, env=environment, check=True)  # noqa: S603 - the own launcher
    return _wait_for_pid_file(home, service.name)


def _wait_for_pid_file(home: Path, name: str) -> Running:
    deadline = time.monotonic() + KILL_SECONDS
    while (started := remembered(home, name)) is None:
        if time.monotonic() > deadline:
            raise ServiceFailed(name, "could not be started", tail(home, name))
        time.sleep(POLL_SECONDS)
    return started


def wait_until_ready(home: Path, service: Service, started: Running, seconds: float, halted: Event) -> None:
    """Return once the service works; raises ServiceFailed with its last log lines if it ends first, takes too long, or `halted` is set."""
    deadline = time.monotonic() + seconds
    while not service.is_ready(started.created_at):
        if started.find() is None:
            raise ServiceFailed(service.name, "ended while it started", tail(home, service.name, started.log_start))
        if time.monotonic() > deadline:
            raise ServiceFailed(service.name, f"did not answer within {seconds:.0f} s", tail(home, service.name, started.log_start))
        if halted.wait(POLL_SECONDS):
            raise ServiceFailed(service.name, "was still starting when the command was interrupted")


def marked_environment(home: Path, name: str) -> dict[str, str]:
    """The environment for a process that belongs to a service of the stack in `home`."""
    return environment_of_children({MARK: f"{home}:{name}"})


def family(home: Path, name: str) -> list[psutil.Process]:
    """Every living process of the service: the one written down, its descendants, and those that bear its mark."""
    found: dict[int, psutil.Process] = {}
    known = remembered(home, name)
    leader = known.find() if known is not None else None
    if leader is not None:
        found |= {process.pid: process for process in (leader, *descendants(leader))}
    folder = known.folder if known is not None else None
    for process in psutil.process_iter():
        if process.pid not in found and is_marked(process, f"{home}:{name}", folder):
            found[process.pid] = process
    return list(found.values())


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Children and their children; empty if the process has ended."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_marked(process: psutil.Process, mark: str, folder: str | None) -> bool:
    """The process bears the mark. One that wrote over its environment, as PostgreSQL's children do, is known by the folder it works in."""
    try:
        environment = process.environ()
        return environment[MARK] == mark if MARK in environment else not environment and folder is not None and process.cwd() == folder
    except (psutil.Error, OSError):
        return False


def stop(home: Path, service: str, stop_signal: int, patience_seconds: float) -> bool:
    """End the service and everything it started, by its signal first, by force after that; False if nothing was alive.

    The signal goes to the process that was started, which ends its children; SIGKILL, after which it ends none, goes to all of them.
    """
    members = family(home, service)
    known = remembered(home, service)
    leaders = [member for member in members if known is not None and member.pid == known.pid]
    signal_all(members if stop_signal == signal.SIGKILL else leaders, stop_signal)
    _wait_gone(leaders, patience_seconds)
    end_all(members)
    pid_file(home, service).unlink(missing_ok=True)
    return bool(members)


def end_all(processes: Sequence[psutil.Process], patience_seconds: float = KILL_SECONDS) -> None:
    """Ask the processes to end, then make them."""
    alive = _wait_gone(processes, 0)
    signal_all(alive, signal.SIGTERM)
    alive = _wait_gone(alive, patience_seconds)
    signal_all(alive, signal.SIGKILL)
    _wait_gone(alive, KILL_SECONDS)


def signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _wait_gone(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    alive = [process for process in processes if is_alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        alive = [process for process in alive if is_alive(process)]
    return alive


def is_alive(process: psutil.Process) -> bool:
    """The process runs; one that ended but was not collected by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tail(home: Path, name: str, start_at: int = 0, lines: int = TAIL_LINES) -> str:
    """The last lines of a service's log, not before position `start_at`; empty where there is none."""
    path = log_file(home, name)
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start_at, size - TAIL_BYTES, 0))
        return "\n".join(file.read().decode("utf-8", errors="replace").splitlines()[-lines:])


def followed(home: Path, name: str) -> Iterator[str]:
    """What is written to a service's log from now on, as it comes; never ends by itself."""
    path = log_file(home, name)
    position = path.stat().st_size if path.exists() else 0
    while True:
        if path.exists():
            with path.open("rb") as file:
                file.seek(position if position <= path.stat().st_size else 0)
                text = file.read()
                position = file.tell()
            yield text.decode("utf-8", errors="replace")
        time.sleep(FOLLOW_SECONDS)


def resident_mb(members: Sequence[psutil.Process]) -> float:
    """Resident memory of the processes, in MB; memory that they share counts once for each."""
    total = 0
    for process in members:
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return round(total / 1e6, 1)


def turn_over(log: Path) -> None:
    """Set a log that grew large aside as `.1`, in the place of an earlier one."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.rename(log.with_suffix(".log.1"))
