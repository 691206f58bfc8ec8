"""Dagster's web server with a login: who sees it, who changes something there, and what the audit log says of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets_tests.browsers import complaints_of, opened_browser
from pipeline_assets_tests.guarded_apps import add_key
from pipeline_assets_tests.web_servers import LAUNCH, RUNS, WebServer, web_server

PROTOCOL = [Subprotocol("graphql-ws")]
LOOK = "{ permissions { permission value } canBulkTerminate }"


def with_key(key: str) -> dict[str, str]:
    """The header of a key."""
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server and its keys are."""
    return tmp_path_factory.mktemp("login")


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    """A key of each kind, by the name of who has it."""
    file = folder / "keys.json"
    roles = {"vera": Role.VIEWER, "otto": Role.OPERATOR, "ada": Role.ADMIN, "paul": Role.PREDICT}
    return {name: add_key(file, name, role) for name, role in roles.items()}


@pytest.fixture(scope="module")
def server(folder: Path, keys: dict[str, str]) -> Iterator[WebServer]:
    """A server with a login."""
    assert keys
    with web_server(folder, PIPELINE_WEB_LOGIN="true", PIPELINE_SERVE_KEYS=str(folder / "keys.json")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium."""
    with opened_browser() as opened:
        yield opened


def test_nobody_without_a_key_sees_anything(server: WebServer, keys: dict[str, str]) -> None:
    """Neither pages, scripts, GraphQL nor subscriptions; a key without a role of the pages is none. Versions are for everybody."""
    address = f"{server.url.replace('http', 'ws')}/graphql"
    stranger = [server.ask(RUNS), server.ask(RUNS, with_key("pipe_0123456789abcdef_" + "a" * 43)), httpx.get(f"{server.url}/logs/x.out")]
    page = httpx.get(server.url, headers={"accept": "text/html"})
    with pytest.raises(InvalidStatus, match="403"), connect(address, subprotocols=PROTOCOL):
        pass

    assert [answer.status_code for answer in stranger] == [401, 401, 401]
    assert (page.status_code, page.headers["location"]) == (303, "/_access/login")
    assert server.ask(RUNS, with_key(keys["paul"])).status_code == 403
    assert httpx.get(f"{server.url}/server_info").status_code == 200


def test_viewers_look_and_change_nothing(server: WebServer, keys: dict[str, str]) -> None:
    """A mutation of a viewer is refused and named in the audit log; Dagster itself gives viewers no permission either."""
    mine = with_key(keys["vera"])
    before = server.runs(mine)
    refused = server.ask(LAUNCH, mine)
    reported = httpx.post(f"{server.url}/report_asset_materialization/forged", json={}, headers=mine)
    permissions: Any = server.ask(LOOK, mine).json()["data"]

    assert (refused.status_code, reported.status_code) == (403, 403)
    assert server.runs(mine) == before
    assert {one["value"] for one in permissions["permissions"]} == {False}
    assert server.audited(caller="vera", changes="launchRun", status=403)


@pytest.mark.parametrize("name", ["otto", "ada"])
def test_operators_start_runs_and_are_named(server: WebServer, keys: dict[str, str], name: str) -> None:
    """With a key in a header, as programs do; so do admins."""
    server.launch(with_key(keys[name]))

    [line, *_] = server.audited(caller=name, changes="launchRun", status=200)
    assert (line["by"], line["address"]) == ("key", "127.0.0.1")
    assert keys[name] not in json.dumps(line)


def test_a_person_logs_in_and_out_in_a_browser(server: WebServer, keys: dict[str, str], browser: Browser) -> None:
    """A wrong key is said so; with the right one a run is launched and seen by a subscription; after the logout the login is back."""
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        page = context.new_page()
        complaints = complaints_of(page)
        page.goto(f"{server.url}/locations")
        page.get_by_label("API key").fill("pipe_wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("not known")
        page.get_by_label("API key").fill(keys["otto"])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{server.url}/**")
        page.goto(f"{server.url}/locations/greetings.py/jobs/greeting/playground")
        page.get_by_role("button", name="Launch run").click()
        expect(page.get_by_text("greetings to all who listen")).to_be_visible(timeout=60_000)
        page.goto(f"{server.url}/_access/login")
        page.get_by_role("button", name="Log out").click()
        page.goto(f"{server.url}/runs")

        expect(page.get_by_role("button", name="Log in")).to_be_visible()
    assert [line for line in server.audited(caller="otto", by="session", status=200) if "launch" in line["changes"]]
    assert [line for line in complaints if "policy" in line.lower()] == []


def test_a_viewer_cannot_press_the_button(server: WebServer, keys: dict[str, str], browser: Browser) -> None:
    """The page itself has the launchpad disabled."""
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        page = context.new_page()
        page.goto(server.url)
        page.get_by_label("API key").fill(keys["vera"])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{server.url}/**")
        page.goto(f"{server.url}/locations/greetings.py/jobs/greeting")

        expect(page.get_by_role("tab", name="Launchpad")).to_be_disabled(timeout=30_000)
