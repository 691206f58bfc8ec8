"""Drift reports and lineage on the web server: for those alone who may see its pages; reports in a sandbox, no other object shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import httpx
import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import expect

from pipeline_assets.core.connections import object_store
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.monitoring import report
from pipeline_assets.serving.monitoring.drift import Drift
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets_tests.browsers import complaints_of, opened_browser
from pipeline_assets_tests.guarded_apps import add_key
from pipeline_assets_tests.stack_env import environment_of
from pipeline_assets_tests.web_servers import WebServer, web_server

DAY = date(2013, 5, 8)
MODEL = "late_trains"
PATH = f"/_reports/{MODEL}/{DAY}_v7.html"
# What is sent for a page: 2 MB at most.
MOST_BYTES = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A web server with a login, the key of a viewer, and the address of a report as the monitor has it."""

    server: WebServer
    key: str
    address: str


def kept_report(settings: Settings) -> str:
    """A report of as many columns as a large model has, whose values are foreign text; its address."""
    columns = [f"feature_{place:02d}" for place in range(64)]
    random = np.random.default_rng(1)
    rows = pa.table({**{column: random.random(500) for column in columns}, "text": ["</script><script>alert(1)</script>", "b"] * 250})
    found = [Drift(day=DAY, column=name, psi=0.5, limit=0.25, rows=500, null_share=0.0) for name in ("text", *columns)]
    verdict = f"{DAY} has drifted: 64 of 64 features drifted."
    sheet = report.Sheet(model=MODEL, version=7, day=DAY, verdict=verdict, found=found, weekly=frozenset(), as_of="2013-05-01")
    return report.keep(settings, sheet, report.drift_report(sheet, (rows, rows, rows), {"text": ()}, 500))


@pytest.fixture(scope="module")
def shown(stores: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The server, with a report and another object in the store."""
    folder = tmp_path_factory.mktemp("reports")
    key = add_key(folder / "keys.json", "vera", Role.VIEWER)
    address = kept_report(stores)
    object_store(stores).put_object(Bucket=stores.s3_bucket, Key=f"reports/{MODEL}/secret.txt", Body=b"secret")
    own = {**environment_of(stores), "PIPELINE_WEB_LOGIN": "true", "PIPELINE_SERVE_KEYS": str(folder / "keys.json")}
    with web_server(folder, **own) as server:
        yield Shown(server=server, key=key, address=address)


def ask(shown: Shown, path: str, *, packing: str = "gzip", key: str | None = None) -> httpx.Response:
    """The answer for the viewer, or with another key."""
    headers = {"authorization": f"Bearer {key if key is not None else shown.key}", "accept-encoding": packing}
    return httpx.get(f"{shown.server.url}{path}", headers=headers, timeout=60)


def test_a_report_is_for_those_who_may_see_the_pages(shown: Shown, stores: Settings) -> None:
    """At the address that the monitor names; nobody else sees it, also not with a link, and it is small as it is sent."""
    assert shown.address == f"{str(stores.dagster_url).rstrip('/')}{PATH}"

    packed, plain = ask(shown, PATH), ask(shown, PATH, packing="identity")
    stranger = httpx.get(f"{shown.server.url}{PATH}")
    person = httpx.get(f"{shown.server.url}{PATH}", headers={"accept": "text/html"})

    assert (packed.status_code, plain.status_code) == (200, 200)
    assert packed.text == plain.text
    assert f"<h1>Drift of {MODEL} version 7 on {DAY}</h1>" in plain.text
    assert (packed.headers["content-encoding"], int(packed.headers["content-length"]) < MOST_BYTES) == ("gzip", True)
    assert (stranger.status_code, ask(shown, PATH, key="pipe_wrong").status_code) == (401, 401)
    assert (person.status_code, person.headers["location"]) == (303, "/_access/login")


@pytest.mark.parametrize(
    "path",
    [
        f"/_reports/{MODEL}/2013-05-09_v7.html",
        f"/_reports/{MODEL}/secret.txt",
        f"/_reports/{MODEL}/..%2F..%2Fstaged%2Fx.html",
        f"/_reports/..%2F{MODEL}/{DAY}_v7.html",
        f"/_reports/%2E%2E/{DAY}_v7.html",
        f"/_reports/{MODEL}/{DAY}_v7.html%00",
        f"/_reports/{MODEL.upper()}/{DAY}_v7.html",
    ],
)
def test_no_other_object_is_shown(shown: Shown, path: str) -> None:
    """Neither one that is not there, nor one that is none of a report, nor one outside of the reports."""
    answer = ask(shown, path)

    assert (answer.status_code, "no such report" in answer.text) == (404, True)


def test_the_lineage_of_columns_is_looked_at_in_a_browser(shown: Shown) -> None:
    """By a link to a view, whose feature shows the way to its source and its models once it is opened; a stranger does not see it."""
    with opened_browser() as browser, browser.new_context(extra_http_headers={"authorization": f"Bearer {shown.key}"}) as context:
        page = context.new_page()
        complaints = complaints_of(page)
        page.goto(f"{shown.server.url}/_lineage")
        page.get_by_role("link", name="origin_weather", exact=True).click()
        feature = page.locator("#view-origin_weather details").filter(has_text="origin_weather__temperature_f").first
        expect(feature.get_by_text("computed from")).to_be_hidden()
        feature.locator("summary").click()
        expect(feature.get_by_text("endpoint /v1/observations")).to_be_visible()
        expect(feature.get_by_text("model flight_delay")).to_be_visible()
    assert complaints == []
    assert httpx.get(f"{shown.server.url}/_lineage").status_code == 401


def test_a_report_is_looked_at_in_a_browser(shown: Shown) -> None:
    """After a login it is drawn within the sandbox, nothing is refused or fetched from elsewhere, and its scripts have no session."""
    with opened_browser() as browser, browser.new_context(viewport={"width": 1300, "height": 900}) as context:
        login = context.new_page()
        login.goto(f"{shown.server.url}{PATH}")
        login.get_by_label("API key").fill(shown.key)
        login.get_by_role("button", name="Log in").click()
        login.wait_for_url(lambda url: "/_access/" not in url)
        page = context.new_page()
        complaints, asked = complaints_of(page), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{shown.server.url}{PATH}")

        expect(page.get_by_role("heading", name=f"Drift of {MODEL} version 7 on {DAY}")).to_be_visible()
        expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=60_000)
        assert page.evaluate("window.origin") == "null"
        assert "SecurityError" in page.evaluate("(() => { try { return document.cookie } catch (error) { return error.name } })()")
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} <= {
            f"{shown.server.url}{PATH}",
            f"{shown.server.url}/favicon.ico",
        }
    assert complaints == []
