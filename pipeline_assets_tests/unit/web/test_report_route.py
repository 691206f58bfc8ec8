"""Drift reports on the web server, where the object store has one in another form, refuses, or is away."""

import asyncio
from collections.abc import Iterator
from gzip import compress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette

from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing
from pipeline_assets.core.problems import MalformedSetting
from pipeline_assets.core.settings import ObjectStoreSettings
from pipeline_assets.local_stack.ports import free_port
from pipeline_assets.web.reports import READ, report_route

PAGE = b"<h1>Drift of late_trains</h1>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
ANSWERS = {"2013-05-08_v7.html": (200, compress(PAGE)), "2013-05-07_v7.html": (200, PAGE), "2013-05-06_v7.html": (403, DENIED)}


class Store(BaseHTTPRequestHandler):
    """An object store that has, or refuses, what `ANSWERS` says."""

    def do_GET(self) -> None:
        """An object, whatever its folder."""
        status, body = ANSWERS[self.path.split("?")[0].rsplit("/", 1)[-1]]
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """The port of such a store."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def settings_at(port: int) -> ObjectStoreSettings:
    """Settings of a store on this machine."""
    return ObjectStoreSettings(
        s3_endpoint=f"http://127.0.0.1:{port}",
        s3_region="eu-1",
        s3_bucket="shop",
        s3_access_key=SecretStr("one"),
        s3_secret_key=SecretStr("two"),
    )


def ask(read: READ, day: str, accepted: str = "gzip") -> httpx.Response:
    """The answer of a server with the route alone."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=[report_route(read)]))
        async with httpx.AsyncClient(transport=transport, base_url="http://here", headers={"accept-encoding": accepted}) as client:
            return await client.get(f"/_reports/late_trains/{day}_v7.html")

    return asyncio.run(asked())


@pytest.mark.parametrize("day", ["2013-05-08", "2013-05-07"])
@pytest.mark.parametrize(("accepted", "takes"), [("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip ; q=0.00, br", False), ("", False)])
def test_a_report_is_sent_in_the_form_that_is_accepted(port: int, day: str, accepted: str, *, takes: bool) -> None:
    """Regression: one that another program put there unpacked was sent as packed, and a client that refuses gzip got it."""
    answer = ask(lambda: settings_at(port), day, accepted)

    assert (answer.status_code, answer.content) == (200, PAGE)
    assert (answer.headers.get("content-encoding") == "gzip") == (takes and ANSWERS[f"{day}_v7.html"][1] != PAGE)


def test_a_store_that_refuses_or_is_away_is_said_in_a_sentence(port: int) -> None:
    """Regression: the answer was an error of the server."""
    refused, away = ask(lambda: settings_at(port), "2013-05-06"), ask(lambda: settings_at(free_port()), "2013-05-08")

    assert [(one.status_code, one.headers["content-type"]) for one in (refused, away)] == [(503, "text/plain; charset=utf-8")] * 2
    assert refused.text.startswith("The object store with the reports cannot be read. An error occurred (AccessDenied)")
    assert away.text.startswith("The object store with the reports cannot be read. Could not connect to the endpoint URL")


@pytest.mark.parametrize(
    "error",
    [SettingsMissing(["PIPELINE_S3_BUCKET"]), SettingsMalformed([MalformedSetting("PIPELINE_S3_BUCKET", "is empty", "a bucket", "")])],
)
def test_settings_that_cannot_be_used_are_said(error: Exception) -> None:
    """By their names."""

    def read() -> ObjectStoreSettings:
        raise error

    answer = ask(read, "2013-05-08")

    assert (answer.status_code, "is not set up here" in answer.text, "PIPELINE_S3_BUCKET" in answer.text) == (503, True, True)
