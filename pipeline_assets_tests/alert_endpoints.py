"""Endpoints of alerts on loopback: an HTTP server that keeps what it gets and answers as it is asked to, and an SMTP server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from pipeline_assets.local_stack.ports import free_port


@dataclass(kw_only=True)
class Hook:
    """A webhook: what it got, and with which status it answers; `held` has it answer only once it is set.

    It refuses texts of more than `longest` characters, in whatever field.
    """

    port: int = 0
    status: int = 200
    longest: int | None = None
    got: list[dict[str, Any]] = field(default_factory=list)
    held: Event | None = None

    @property
    def url(self) -> str:
        """Its URL for Apprise, with a secret in it."""
        return f"json://someone:correct-horse-battery@127.0.0.1:{self.port}/hooks/T0PS3CRET"


@contextmanager
def webhook() -> Iterator[Hook]:
    """A webhook that runs until the block ends."""
    hook = Hook()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if hook.held is not None:
                hook.held.wait(60)
            got = json.loads(body)
            is_long = hook.longest is not None and any(len(text) > hook.longest for text in got.values() if isinstance(text, str))
            status = 400 if is_long else hook.status
            if status < 300:
                hook.got.append(got)
            self.send_response(status)
            # As Slack does.
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    hook.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hook
    finally:
        if hook.held is not None:
            hook.held.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(kw_only=True)
class Mailbox:
    """What an SMTP server got."""

    port: int
    got: list[EmailMessage] = field(default_factory=list)

    def url(self, to: str) -> str:
        """The URL for Apprise that sends there."""
        return f"mailto://127.0.0.1:{self.port}?from=pipeline@example.org&to={to}&mode=insecure"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - the name is the library's
        """Keeps a mail."""
        parsed: Message = BytesParser(policy=default).parsebytes(cast("bytes", envelope.content))
        self.got.append(cast("EmailMessage", parsed))
        return "250 OK"


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """An SMTP server that runs until the block ends."""
    box = Mailbox(port=free_port())
    controller = Controller(box, hostname="127.0.0.1", port=box.port)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()
