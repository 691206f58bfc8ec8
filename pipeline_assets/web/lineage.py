"""The page of column lineage on the web server: made by the command, in a process of its own, from the project as it is then.

What reads SQL would stay in the memory of the server otherwise, and a project that was changed would be shown as it was.
"""

import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from time import monotonic

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline_assets.core import names

PROGRAM = Path(sys.executable).with_name("pipeline")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# However often it is asked for, so often it is made; and so long it may take.
KEPT_SECONDS, LONGEST_SECONDS = 60.0, 60.0
TAIL = 2_000


class LineagePage:
    """The page, kept for a while and made by one caller at a time."""

    def __init__(self, program: Path = PROGRAM) -> None:
        self._program, self._lock, self._made_at, self._page = program, Lock(), -KEPT_SECONDS, b""

    def route(self) -> Route:
        """Where the page is."""
        return Route(names.LINEAGE_PATH, self._show)

    def _show(self, _: Request) -> Response:
        """The page; the last words of the command where it failed."""
        with self._lock:
            if monotonic() - self._made_at >= KEPT_SECONDS:
                try:
                    self._page, self._made_at = self._make(), monotonic()
                except subprocess.TimeoutExpired:
                    return PlainTextResponse(
                        f"It was not made within {LONGEST_SECONDS:g} s. Ask again later.", HTTPStatus.SERVICE_UNAVAILABLE
                    )
                except subprocess.CalledProcessError as error:
                    words = error.stderr.decode("utf-8", "replace")[-TAIL:]
                    return PlainTextResponse(f"`pipeline features lineage` failed.\n{words}", HTTPStatus.SERVICE_UNAVAILABLE)
            return Response(
                self._page, media_type="text/html", headers={"content-security-policy": POLICY, "cache-control": "private, no-cache"}
            )

    def _make(self) -> bytes:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "lineage.html"
            command = [str(self._program), "features", "lineage", "--out", str(out)]
            subprocess.run(command, check=True, capture_output=True, timeout=LONGEST_SECONDS, stdin=subprocess.DEVNULL)  # noqa: S603 - our own
            return out.read_bytes()
