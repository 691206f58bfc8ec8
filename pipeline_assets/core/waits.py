"""Waiting for Postgres: how long a statement may, whom it waits for, and that it ends at once where its process or its work is to end.

A library that waits in C sees no signal; so each statement is waited for in short steps (`Wait.step`), in which Python handles signals, an
order to stop is seen, and after a second a look is taken at the sessions whose locks are in the way. Who waits says so in the log.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread, local
from time import monotonic
from typing import TypeVar

from pipeline_assets.core.wait_errors import Blocker, DatabaseDamaged, DatabaseFull, LockTimedOut, StatementTimedOut

T = TypeVar("T")

logger = logging.getLogger(__name__)

STEP_SECONDS = 0.1
FIRST_LOOK_SECONDS, LONGEST_PAUSE_SECONDS, LOGGED_EVERY_SECONDS = 1.0, 10.0, 60.0
# How long a statement that was cancelled is waited for, before its connection is given up.
CANCEL_SECONDS = 5.0
LOOK_SECONDS = 3
CONNECT_SECONDS = 10
LOCK_NOT_AVAILABLE, QUERY_CANCELED, DATA_CORRUPTED = "55P03", "57014", "XX001"
BLOCKERS = """
    select pid, usename, application_name, query_start, query from pg_stat_activity
    where pid = any(pg_blocking_pids(%s)) order by xact_start
"""
# How a server says that no connection is left (53300), where the driver has no code for it.
FULL = ("too many connections", "too many clients", "remaining connection slots", "connection slots are reserved")
_OF_THREAD = local()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a statement may wait for a lock, and how long it may take in all, in seconds; 0 is without end."""

    lock_seconds: float
    statement_seconds: float

    @property
    def values(self) -> dict[str, str]:
        """The same as settings of a session."""
        return {"lock_timeout": f"{self.lock_seconds * 1000:.0f}ms", "statement_timeout": f"{self.statement_seconds * 1000:.0f}ms"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a session is: the setting that names its database, what connects there, and how long its statements may take."""

    setting: str
    conninfo: str
    limits: Limits


@contextmanager
def ending_at(stop: Event) -> Iterator[None]:
    """Statements, requests and pauses of this thread end with CancelledError once `stop` is set."""
    before: Event | None = getattr(_OF_THREAD, "stop", None)
    _OF_THREAD.stop = stop
    try:
        yield
    finally:
        _OF_THREAD.stop = before


def check_stop() -> None:
    """Raises CancelledError where this thread is to stop."""
    stop: Event | None = getattr(_OF_THREAD, "stop", None)
    if stop is not None and stop.is_set():
        raise CancelledError


def pause(seconds: float) -> None:
    """Waits so long, unless this thread is to stop: then raises CancelledError at once."""
    stop: Event = getattr(_OF_THREAD, "stop", None) or Event()
    stop.wait(seconds)
    check_stop()


class Wait:
    """One statement of a session that is waited for; `pid` is that of its server process."""

    def __init__(self, place: Place, pid: int) -> None:
        self._place, self._pid, self._began = place, pid, monotonic()
        self._look_at, self._log_at = self._began + FIRST_LOOK_SECONDS, self._began
        self._blockers: tuple[Blocker, ...] = ()
        self._is_blocked = False

    def step(self) -> None:
        """To be called about every STEP_SECONDS; raises CancelledError where this thread is to stop."""
        check_stop()
        now = monotonic()
        if now >= self._look_at:
            self._look_at = now + min(now - self._began, LONGEST_PAUSE_SECONDS)
            self._look(now)

    def error(self, code: str | None, problem: str) -> Exception | None:
        """The product's error for a statement that ended with this SQLSTATE and text; None where it has none for it."""
        if code == DATA_CORRUPTED:
            return DatabaseDamaged(self._place.setting, problem)
        limits, seconds = self._place.limits, monotonic() - self._began
        was_waiting = code == LOCK_NOT_AVAILABLE and _is_over(seconds, limits.lock_seconds)
        if was_waiting or (code == QUERY_CANCELED and self._is_blocked):
            return LockTimedOut(self._place.setting, seconds, self._blockers)
        if code == QUERY_CANCELED and _is_over(seconds, limits.statement_seconds):
            return StatementTimedOut(self._place.setting, limits.statement_seconds)
        return None

    def _look(self, now: float) -> None:
        blockers = blockers_of(self._place.conninfo, self._pid)
        # None in the way just now: those that were may have been there until the last moment.
        self._blockers, self._is_blocked = blockers or self._blockers, bool(blockers)
        if blockers and now >= self._log_at:
            self._log_at = now + LOGGED_EVERY_SECONDS
            logger.warning("%s waits for a lock since %.0f s: %s", self._place.setting, now - self._began, "; ".join(map(str, blockers)))


def _is_over(seconds: float, limit: float) -> bool:
    """Whether a statement took as long as its limit, which the server measures by itself."""
    return 0 < limit <= seconds + STEP_SECONDS


def blockers_of(conninfo: str, pid: int) -> tuple[Blocker, ...]:
    """The sessions whose locks a session waits for now; none where it waits for none, or where that cannot be seen."""
    import psycopg

    with suppress(psycopg.Error), psycopg.connect(conninfo, connect_timeout=LOOK_SECONDS, autocommit=True) as connection:
        connection.execute(f"set statement_timeout = '{LOOK_SECONDS}s'")
        return tuple(Blocker(*row) for row in connection.execute(BLOCKERS, [pid]).fetchall())
    return ()


def as_done(futures: "Iterable[Future[T]]") -> "Iterator[Future[T]]":
    """The futures as they are done; a signal is handled meanwhile.

    Polars has the kernel take up again a wait without end that SIGINT interrupted (SA_RESTART), so that Python never sees the signal; a
    wait in steps it sees.
    """
    pending = set(futures)
    while pending:
        done, pending = wait(pending, STEP_SECONDS, FIRST_COMPLETED)
        yield from done


class Worker:
    """A thread that does one thing after the other; the end of the process does not wait for it."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=self._go_on, daemon=True, name="postgres").start()

    def begin(self, work: Callable[[], T]) -> "Future[T]":
        """Has it do something, and returns what it will have made."""
        future: Future[T] = Future()
        self._work.put(partial(_run, future, work))
        return future

    def end(self) -> None:
        """Has it end, once all is done."""
        self._work.put(None)

    def _go_on(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def wait_for(future: "Future[T]", waited: Wait | None, cancel: Callable[[], object]) -> T:
    """What a worker has made, while this thread handles signals; an interrupt cancels the work, and is raised within CANCEL_SECONDS."""
    try:
        while True:
            with suppress(NotYet):
                return future.result(STEP_SECONDS)
            if future.done():
                return future.result()
            if waited is not None:
                waited.step()
    finally:
        if not future.done():
            _cancel(future, cancel)


def _run(future: "Future[T]", work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is raised where the work is waited for
        future.set_exception(error)


def _cancel(future: "Future[T]", cancel: Callable[[], object]) -> None:
    """Has a statement end, again and again: it may not have begun when it was cancelled first."""
    until = monotonic() + CANCEL_SECONDS
    while not future.done() and monotonic() < until:
        with suppress(Exception):
            cancel()
        with suppress(Exception, CancelledError):
            future.exception(STEP_SECONDS)


@contextmanager
def connecting(setting: str) -> Iterator[None]:
    """Raises DatabaseFull where a server has no connection left; all other errors as they are."""
    try:
        yield
    except Exception as error:
        if any(sign in str(error) for sign in FULL):
            raise DatabaseFull(setting, str(error)) from error
        raise
