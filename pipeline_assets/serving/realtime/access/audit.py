"""The audit log: who asked for what, when, and what came of it; a JSON object per line, through the logger `pipeline.audit`.

Lines are written by a thread of their own, which gathers those of `PAUSE_SECONDS`: a kill (-9) loses these, and no answer waits for a disk.
Secrets and bodies never get here. Of a path only the route's name and the model are written, and a model only where it looks like the name
of one, so that a key that was pasted into a path stays out. Public routes are not written.
"""

import logging
import re
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from logging.handlers import WatchedFileHandler
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline_assets.serving.realtime.access.callers import Caller
from pipeline_assets.serving.realtime.access.traces import Trace

AUDIT = "pipeline.audit"
LOG, OWN = logging.getLogger(AUDIT), logging.getLogger(__name__)
# Shorter than a key, and without the dots of a token.
MODEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
HIDDEN = "(hidden)"
ENCODER = msgspec.json.Encoder()
PAUSE_SECONDS, REPORT_SECONDS, MOST_LINES = 0.05, 10.0, 50_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, as far as it is written down; `route` is None where the path leads nowhere, `changes` names what it changes."""

    method: str
    route: str | None
    params: Mapping[str, object]
    address: str
    trace: Trace
    began_at: datetime
    changes: tuple[str, ...] = ()


def write_audit(asked: Asked, caller: Caller | None, status: int | None, reason: str | None = None, *, times: int | None = None) -> None:
    """Writes one line; `reason` says why a request was refused, `times` for how many refusals the line stands (None: for itself).

    status: None where the answer is not seen.
    """
    if not LOG.isEnabledFor(logging.INFO):
        return
    model = asked.params.get("model")
    line: dict[str, str | int | None] = {
        "at": asked.began_at.isoformat(timespec="milliseconds"),
        "caller": None if caller is None else caller.name,
        "caller_id": None if caller is None else caller.id,
        "by": None if caller is None else caller.by,
        "method": asked.method,
        "route": asked.route,
        "model": shown_name(model),
        "status": status,
        "address": asked.address,
        "trace_id": asked.trace.trace_id,
    }
    if asked.changes:
        line["changes"] = ", ".join(asked.changes)
    if reason is not None:
        line["reason"] = reason
    if times is not None:
        line["times"] = times
    # As `LOG.info` does, but that it would walk the stack for the place of this call, which is a third of the cost.
    LOG.handle(logging.LogRecord(AUDIT, logging.INFO, __file__, 0, ENCODER.encode(line).decode(), None, None))


async def answer_audited(app: ASGIApp, to: tuple[Scope, Receive, Send], asked: Asked, caller: Caller | None) -> None:
    """The app's answer, and its status in the log; 500 where it fails before it answers."""
    scope, receive, send = to
    status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def noted(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, receive, noted)
    finally:
        write_audit(asked, caller, status)


def address_of(scope: Scope) -> str:
    """The address of the client's end of the connection; headers that anybody can send are not asked."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def shown_name(value: object) -> str | None:
    """A name of a path as it may be logged."""
    if value is None:
        return None
    return value if isinstance(value, str) and MODEL_NAME.fullmatch(value) else HIDDEN


def log_audit(file: Path | None) -> None:
    """Sends the lines to a file, which is opened anew where it was moved or deleted (as logrotate does), or to standard output.

    The file is for the user of the process alone; several processes may append to it.
    """
    target: logging.StreamHandler[Any]
    if file is None:
        target = logging.StreamHandler(sys.stdout)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600, exist_ok=True)
        target = WatchedFileHandler(file, encoding="utf-8")
    end_audit()
    LOG.addHandler(Gathered(target))
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def end_audit() -> None:
    """Writes what is left, and sends no more lines anywhere."""
    for former in [one for one in LOG.handlers if isinstance(one, Gathered)]:
        LOG.removeHandler(former)
        former.close()


class Gathered(logging.Handler):
    """Hands lines to another handler's stream, all of a moment at once, from a thread that ends with `close`."""

    def __init__(self, target: "logging.StreamHandler[Any]") -> None:
        super().__init__()
        self._target, self._lines, self._ending = target, deque[str](), Event()
        self._lost, self._report_at, self._problem = 0, 0.0, f"{MOST_LINES} wait to be written"
        self._thread = Thread(target=self._run, name="audit-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Leaves a line to be written."""
        if len(self._lines) < MOST_LINES:
            self._lines.append(f"{record.getMessage()}\n")
        else:
            self._lost += 1

    def close(self) -> None:
        """Writes what is left."""
        self._ending.set()
        self._thread.join()
        self._target.close()
        super().close()

    def _run(self) -> None:
        while not self._ending.wait(PAUSE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        try:
            if lines:
                self._append("".join(lines))
        except (OSError, ValueError) as error:
            self._problem, self._lost = str(error), self._lost + len(lines)
        if self._lost and monotonic() >= self._report_at:
            OWN.error("ALARM %d lines of the audit log are lost: %s", self._lost, self._problem)
            self._lost, self._report_at = 0, monotonic() + REPORT_SECONDS

    def _append(self, text: str) -> None:
        if isinstance(self._target, WatchedFileHandler):
            self._target.reopenIfNeeded()
        self._target.stream.write(text)
        self._target.flush()
