"""The page of column lineage on the web server: made by the command, in a process of its own, from the project as it is then.

What reads SQL would stay in the memory of the server otherwise, and a project that was changed would be shown as it was.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, create_subprocess_exec
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline_assets.core import names

PROGRAM = Path(sys.executable).with_name("pipeline")
HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "private, no-cache"}
# However often it is asked for, so often it is made, also where that failed; and so long it may take.
KEPT_SECONDS, FAILED_SECONDS, LONGEST_SECONDS = 60.0, 5.0, 60.0
TAIL = 2_000


class LineagePage:
    """The page, kept for a while; those who ask while it is made wait for it together, and hold no thread."""

    def __init__(self, program: Path = PROGRAM) -> None:
        self._program, self._lock = program, asyncio.Lock()
        self._kept_until, self._status, self._text = 0.0, HTTPStatus.OK, b""

    def route(self) -> Route:
        """Where the page is."""
        return Route(names.LINEAGE_PATH, self._show)

    async def _show(self, _: Request) -> Response:
        """The page; the last words of the command where it failed."""
        async with self._lock:
            if monotonic() >= self._kept_until:
                self._status, self._text = await self._make()
                self._kept_until = monotonic() + (KEPT_SECONDS if self._status == HTTPStatus.OK else FAILED_SECONDS)
            status, text = self._status, self._text
        return Response(text, media_type="text/html", headers=HEADERS) if status == HTTPStatus.OK else PlainTextResponse(text, status)

    async def _make(self) -> tuple[HTTPStatus, bytes]:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "lineage.html"
            command = (str(self._program), "features", "lineage", "--out", str(out))
            try:
                made = await create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
            except OSError as error:
                return HTTPStatus.SERVICE_UNAVAILABLE, f"`pipeline features lineage` cannot be started: {error}\n".encode()
            try:
                _, words = await asyncio.wait_for(made.communicate(), LONGEST_SECONDS)
            except TimeoutError:
                made.kill()
                await made.wait()
                return HTTPStatus.SERVICE_UNAVAILABLE, f"It was not made within {LONGEST_SECONDS:g} s. Ask again later.\n".encode()
            if made.returncode != 0:
                return HTTPStatus.SERVICE_UNAVAILABLE, b"`pipeline features lineage` failed.\n" + words[-TAIL:]
            return HTTPStatus.OK, out.read_bytes()
