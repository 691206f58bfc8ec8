"""Dagster's web server behind its guard, as a process of its own: what no foreign page can do, and what people and programs still can."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from pipeline_assets_tests.browsers import complaints_of, opened_browser
from pipeline_assets_tests.prediction_pages import served
from pipeline_assets_tests.stream_records import until
from pipeline_assets_tests.web_servers import LAUNCH, WebServer, web_server

FOREIGN = "http://foreign.example"
PROTOCOL = [Subprotocol("graphql-ws")]
HOSTILE = """<img src="{url}/graphql?query={launch}">
<form id="form" method="post" action="{url}/graphql?query={launch}" enctype="text/plain" target="frame"><input name="a" value="b"></form>
<iframe name="frame"></iframe>
<script>
document.getElementById("form").submit();
const body = JSON.stringify({{query: decodeURIComponent("{launch}")}});
const ask = type => fetch("{url}/graphql", {{method: "POST", mode: "no-cors", headers: {{"content-type": type}}, body}}).catch(() => null);
const socket = new Promise(done => {{
  const opened = new WebSocket("{url}/graphql".replace("http", "ws"), "graphql-ws");
  opened.onopen = () => done("open");
  opened.onerror = () => done("refused");
}});
Promise.all([ask("text/plain"), ask("text/plain; application/json"), ask("application/json"), socket])
  .then(found => {{ document.title = "done, " + found[3]; }});
</script>"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A server of this module."""
    with web_server(tmp_path_factory.mktemp("web")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium."""
    with opened_browser() as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "given", "status"),
    [
        ("GET", {"params": {"query": LAUNCH}}, 405),
        ("GET", {"params": {"query": LAUNCH}, "headers": {"origin": FOREIGN}}, 403),
        ("GET", {"params": [("query", LAUNCH), ("query", "{version}")]}, 405),
        ("GET", {"params": {"query": f"query Q {{version}} {LAUNCH}", "operationName": "Launch"}}, 405),
        ("POST", {"params": {"query": LAUNCH}, "headers": {"content-type": "text/plain"}}, 415),
        ("POST", {"params": {"query": LAUNCH}}, 415),
        ("POST", {"data": {"query": LAUNCH}}, 415),
        ("POST", {"content": LAUNCH, "headers": {"content-type": "application/graphql"}}, 415),
        ("POST", {"json": {"query": LAUNCH}, "headers": {"content-type": "text/plain; application/json"}}, 415),
        ("POST", {"json": {"query": LAUNCH}, "headers": {"origin": FOREIGN}}, 403),
        ("POST", {"json": {"query": LAUNCH}, "headers": {"origin": "null"}}, 403),
        ("POST", {"json": {"query": LAUNCH}, "headers": {"sec-fetch-site": "cross-site"}}, 403),
        ("POST", {"json": {"query": LAUNCH}, "headers": {"host": "rebound.example:3000"}}, 421),
        ("GET", {"headers": {"host": "127.0.0.1.rebound.example"}}, 421),
        ("POST", {"json": [{"query": LAUNCH}]}, 400),
        ("POST", {"json": {"query": "{" * 100_000}}, 400),
        ("POST", {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400),
    ],
)  # fmt: skip
def test_a_mutation_that_is_not_of_its_own_pages_or_a_program_starts_nothing(
    server: WebServer, method: str, given: dict[str, Any], status: int
) -> None:
    """By GET, from forms, from other origins, under another name: refused before Dagster sees it."""
    before = server.runs()

    answer = httpx.request(method, f"{server.url}/graphql", **given)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert server.runs() == before


def test_reports_of_assets_come_from_no_foreign_page(server: WebServer) -> None:
    """A materialization that a form of another origin reports is not recorded."""
    address = f"{server.url}/report_asset_materialization/forged"
    refused = [
        httpx.post(address, headers={"origin": FOREIGN}),
        httpx.post(address, data={"metadata": "{}"}),
    ]

    assert [answer.status_code for answer in refused] == [403, 415]
    assert httpx.post(f"{server.url}/report_asset_materialization/honest", json={}).status_code == 200
    assert server.audited(changes="report_asset_materialization", status=200)
    assert [node["id"] for node in server.ask("{assetsOrError {... on AssetConnection {nodes {id}}}}").json()["data"]["assetsOrError"]["nodes"]] == ['["honest"]']  # fmt: skip # noqa: E501


def test_a_program_starts_a_run_and_the_audit_log_says_so(server: WebServer) -> None:
    """By POST with JSON and without an origin; what is only read is in no log, and what is refused is."""
    server.launch()
    httpx.get(f"{server.url}/graphql", params={"query": LAUNCH}, headers={"origin": FOREIGN})

    [started, *_] = server.audited(changes="launchRun", status=200)
    assert (started["method"], started["address"], started["caller"]) == ("POST", "127.0.0.1", None)
    assert server.audited(method="GET", status=403)
    assert httpx.get(f"{server.url}/graphql", params={"query": "{version}"}).json()["data"]["version"]
    assert [line for line in server.audited() if "changes" not in line and line["status"] == 200] == []


def test_a_subscription_is_of_no_foreign_page(server: WebServer) -> None:
    """A websocket with a foreign origin, or to another name, is closed; one of a program is opened, and executes no mutation."""
    address, before = f"{server.url.replace('http', 'ws')}/graphql", server.runs()
    for given in ({"origin": Origin(FOREIGN)}, {"additional_headers": {"sec-fetch-site": "cross-site"}}):
        with pytest.raises(InvalidStatus, match="403"), connect(address, subprotocols=PROTOCOL, **given):
            pass
    with connect(address, subprotocols=PROTOCOL, origin=Origin(server.url)) as socket:
        socket.send('{"type": "connection_init"}')
        acknowledged = socket.recv(timeout=20)
        socket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": LAUNCH}}))
        answered = socket.recv(timeout=20)
    assert "connection_ack" in str(acknowledged)
    assert "is not defined" in str(answered)
    assert server.runs() == before


def test_a_hostile_page_starts_nothing_in_a_browser(server: WebServer, browser: Browser) -> None:
    """An image, a form, requests without CORS and a websocket, as a page of another port of this machine sends them."""
    before = server.runs()
    launch = str(httpx.QueryParams({"q": LAUNCH}))[2:].replace("+", "%20")
    page_of = HTMLResponse(HOSTILE.format(url=server.url, launch=launch))
    with served(Starlette(routes=[Route("/", lambda _: page_of)])) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        page.wait_for_function("document.title.startsWith('done')")
        page.wait_for_load_state("networkidle")

        assert page.title() == "done, refused"
    assert server.runs() == before


def test_the_pages_work_in_a_browser(server: WebServer, browser: Browser) -> None:
    """A person launches a job, and sees the messages of its run, which come by a subscription; no policy stops anything."""
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        page = context.new_page()
        complaints, frames = complaints_of(page), list[str]()
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
        page.goto(f"{server.url}/locations/greetings.py/jobs/greeting/playground")
        page.get_by_role("button", name="Launch run").click()
        expect(page.get_by_text("greetings to all who listen")).to_be_visible(timeout=60_000)

        until(lambda: [frame for frame in frames if "greetings to all who listen" in frame])
    assert [line for line in complaints if "policy" in line.lower() or "refused" in line.lower()] == []
