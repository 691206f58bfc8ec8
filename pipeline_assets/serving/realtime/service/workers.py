"""The processes of one service know of each other: each leaves its report in a file, so that whichever is asked answers for all.

A process holds the lock of its place while it lives, so a report that a killed one left is not read, and its place is taken again.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from threading import Event, Thread

import msgspec

from pipeline_assets.serving.realtime.overview import LogOverview

LOG = logging.getLogger(__name__)
SECONDS = 1.0
REPORT, LOCK = ".json", ".lock"


class Followed(msgspec.Struct, kw_only=True):
    """How far a view was followed (µs of Unix' time; None: never), by the last answer that asked for it, and when that was (the same)."""

    known_to: int | None
    asked_at: int


class ModelReport(msgspec.Struct, kw_only=True):
    """A model in one process: what serves, and since when (ISO 8601); requests since the start, and the counts of its `Window`.

    traffic: requests by second of the monotonic clock, of the last minute.
    """

    version: int | None
    since: str | None
    problem: str | None
    requests: int
    counts: dict[str, int]
    traffic: dict[int, int]
    views: dict[str, Followed]


class Report(msgspec.Struct, kw_only=True):
    """What one process says of itself; `at` is by the monotonic clock, `metrics` the text that Prometheus reads."""

    at: float
    started_at: str
    is_ready: bool
    problems: list[str]
    models: dict[str, ModelReport]
    log: LogOverview
    metrics: str


DECODER = msgspec.json.Decoder(Report)


class Workers:
    """The processes that answer at one address. Their reports are in `folder`, where there are several; one alone writes nothing.

    report: makes the report of this process.
    """

    def __init__(self, folder: Path, report: Callable[[], Report], *, are_several: bool) -> None:
        self._folder, self._report, self._are_several = folder, report, are_several
        self._stopped, self._lock = Event(), -1
        self.place = 0

    def start(self) -> None:
        """Takes a place among the processes, and reports from then on."""
        if not self._are_several:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.place, self._lock = next(found for found in map(self._taken, count()) if found[1] >= 0)
        Thread(target=self._go_on, name="reports", daemon=True).start()

    def stop(self) -> None:
        """Leaves the place."""
        self._stopped.set()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def reports(self) -> dict[int, Report]:
        """The reports of all processes that live, by their place: of this one as it is now, of others of a second ago."""
        found = {self.place: self._report()}
        for file in self._folder.glob(f"*{REPORT}") if self._are_several else ():
            place = int(file.stem)
            if place != self.place and _is_locked(file.with_suffix(LOCK)):
                try:
                    found[place] = DECODER.decode(file.read_bytes())
                except (OSError, msgspec.DecodeError) as error:
                    LOG.warning("the report %s cannot be read: %s", file, error)
        return dict(sorted(found.items()))

    def _taken(self, place: int) -> tuple[int, int]:
        """A place, and its lock; -1 where another process has it."""
        lock = os.open(self._folder / f"{place}{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return place, -1
        return place, lock

    def _go_on(self) -> None:
        while not self._stopped.is_set():
            try:
                self._write(msgspec.json.encode(self._report()))
            except Exception:
                # Nothing may end the thread: others would show this process as it was.
                LOG.exception("reporting failed, and goes on")
            self._stopped.wait(SECONDS)

    def _write(self, report: bytes) -> None:
        draft = self._folder / f"{self.place}.draft"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(report)
        draft.replace(self._folder / f"{self.place}{REPORT}")


def _is_locked(lock: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def text_of(metrics: Mapping[int, str]) -> str:
    """The metrics of several processes as one text, each value with the label `worker`, so that sums over it are those of the service."""
    families: dict[str, list[str]] = {}
    for place, text in metrics.items():
        head = ""
        for line in text.splitlines():
            if line.startswith("# HELP"):
                head = line
                families.setdefault(head, [])
            elif line.startswith("#"):
                if not families[head]:
                    families[head].append(line)
            else:
                families[head].append(_labelled(line, place))
    return "".join(f"{line}\n" for head, lines in families.items() for line in (head, *lines))


def _labelled(line: str, place: int) -> str:
    """A value with one label more: `name{a="b"} 1` or `name 1`."""
    name, _, value = line.partition(" ") if "{" not in line else line.partition("{")
    return f'{name}{{worker="{place}"}} {value}' if "{" not in line else f'{name}{{worker="{place}",{value}'
