"""The page in a real browser: what a person sees and can do, and what a hostile page cannot."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets_tests.browsers import complaints_of, opened_browser
from pipeline_assets_tests.guarded_apps import add_key
from pipeline_assets_tests.prediction_pages import CONTRIBUTIONS, STATUS, Stand, page_app, served
from pipeline_assets_tests.stream_records import until


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium."""
    with opened_browser() as opened:
        yield opened


class Person:
    """Somebody with a browser before the page, and all that the browser complained of or asked for."""

    def __init__(self, page: Page, url: str, stand: Stand) -> None:
        self.page, self.url, self.stand = page, url, stand
        self.complaints = complaints_of(page)
        self.asked: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))

    def log_in(self, key: str) -> None:
        """Opens the page, which asks for a key, and gives it."""
        self.page.goto(self.url)
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Log in").click()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Where the file of keys is."""
    return tmp_path / "serve-keys.json"


@pytest.fixture
def person(browser: Browser, keys: Path) -> Iterator[Person]:
    """A browser without cookies before a service of its own."""
    stand = Stand()
    with served(page_app(stand, keys)) as url, browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        yield Person(context.new_page(), url, stand)


@pytest.fixture
def key(keys: Path) -> str:
    """A key that may read and predict; asked for before `person`, as the service reads its keys when it starts."""
    return add_key(keys, "ada", Role.READ, Role.PREDICT)


def test_a_person_sees_what_the_service_does(key: str, person: Person) -> None:
    """Versions, traffic, latency, shedding, freshness and recent predictions; without a word of the browser's console."""
    person.log_in(key)
    page = person.page

    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    expect(page.locator(".model[data-model=delay]")).to_contain_text("version 12")
    expect(page.locator(".model[data-model=delay] .numbers")).to_have_text(
        "requests 1.28 M errors 1 shed 1,204 p50 1.8 ms p95 4.2 ms p99 118 ms", use_inner_text=True
    )
    expect(page.locator(".model[data-model=delay] .freshness tbody tr").nth(1)).to_have_text(
        "weather stale 2 h 60 min", use_inner_text=True
    )
    expect(page.locator(".recent tbody tr")).to_have_count(2)
    expect(page.get_by_text("The file of keys cannot be used.")).to_be_visible()
    assert person.complaints == []
    assert {url.split("/", 3)[2] for url in person.asked} == {person.url.removeprefix("http://")}


def test_what_changes_is_seen_without_a_reload(key: str, person: Person) -> None:
    """A version that goes live, within seconds; what stands in the form stays."""
    person.log_in(key)
    person.page.get_by_label("origin").fill("JFK")
    delay = replace(STATUS.models[0], version=13, challenger=None)
    person.stand.status = replace(STATUS, models=(delay, STATUS.models[1]))

    expect(person.page.locator(".model[data-model=delay]")).to_contain_text("version 13")
    expect(person.page.get_by_label("origin")).to_have_value("JFK")
    assert person.complaints == []


def test_a_person_tries_a_prediction_and_sees_why(key: str, person: Person) -> None:
    """The instance has each field in its type, null for an empty one that is needed, and none for an empty one that is not."""
    person.log_in(key)
    person.page.get_by_role("button", name="Predict").click()
    answer = person.page.locator("#answer")

    expect(answer.locator(".big")).to_have_text("0.4377")
    expect(answer).to_contain_text("weather: stale")
    expect(answer.locator(".contributions tbody tr").first).to_have_text("departures__late_share_1h 0.5 +0.8123", use_inner_text=True)
    expect(answer.locator(".contributions tbody tr")).to_have_count(len(CONTRIBUTIONS))
    assert person.stand.asked == [{"origin": "EWR", "distance": 2565.5, "seats": 180, "is_charter": False, "gate": None}]
    assert person.complaints == []


def test_hostile_words_stay_words(key: str, person: Person) -> None:
    """Of a model, an example and an answer: none of them becomes an element, and the policy would not run it."""
    person.log_in(key)
    person.page.get_by_label("origin").fill("")
    person.page.get_by_role("button", name="Predict").click()

    expect(person.page.locator("#answer .alarm")).to_contain_text("<img src=x")
    expect(person.page.locator(".model[data-model=forecast]")).to_contain_text("<img src=x")
    expect(person.page.locator("img")).to_have_count(0)
    assert person.page.title() == "Prediction service"
    assert [line for line in person.complaints if "422" not in line] == []


def test_the_policy_of_the_page_lets_no_inline_script_run(key: str, person: Person) -> None:
    """Also one that got into the page in spite of everything."""
    person.log_in(key)
    person.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s); }"
    )

    until(lambda: person.complaints)
    assert "Content Security Policy" in person.complaints[0]
    assert person.page.title() == "Prediction service"


def test_a_prediction_is_explained_on_a_page_of_its_own(key: str, person: Person) -> None:
    """With value, status and contribution of each feature, the strongest first; also where its id is odd."""
    person.log_in(key)
    person.page.get_by_role("link", name="p/2?").click()
    rows = person.page.locator(".contributions tbody tr")

    expect(rows.nth(0)).to_have_text("departures__late_share_1h 0.5 +0.8123 fresh", use_inner_text=True)
    expect(rows.nth(1)).to_have_text("weather__wind 0.5 -0.4400 fresh", use_inner_text=True)
    expect(rows.nth(2)).to_have_text("request__hour null +0.2100 fresh", use_inner_text=True)
    assert person.complaints == []


def test_who_is_not_logged_in_sees_nothing_but_the_form(key: str, person: Person) -> None:
    """Every page leads there; a wrong key is named as such, and logging out ends what was begun."""
    page = person.page
    for path in ("/", "/predictions/p-1", "/status"):
        page.goto(person.url + path)
        expect(page).to_have_url(f"{person.url}/login")
    person.log_in("pipe_guess")
    expect(page.get_by_role("alert")).to_have_text("This key is not known, expired or revoked.")
    person.log_in(key)
    expect(page.locator("#live")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{person.url}/login")
    page.goto(person.url)
    expect(page).to_have_url(f"{person.url}/login")


def test_the_session_is_not_for_scripts(key: str, person: Person) -> None:
    """The cookie is HttpOnly and SameSite=Strict, and neither it nor the page has the key."""
    person.log_in(key)
    expect(person.page.locator("#live")).to_be_visible()
    [cookie] = person.page.context.cookies()

    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)
    assert person.page.evaluate("document.cookie") == ""
    assert key.split("_", 2)[2] not in person.page.content() + cookie["value"]


def test_a_key_that_may_only_read_cannot_try(keys: Path, browser: Browser) -> None:
    """The form says so in its place; a key that may not read cannot log in."""
    reader, other = add_key(keys, "reader", Role.READ), add_key(keys, "other", Role.PREDICT)
    with served(page_app(Stand(), keys)) as url, browser.new_context() as context:
        person = Person(context.new_page(), url, Stand())
        person.log_in(other)
        expect(person.page.get_by_role("alert")).to_contain_text("may not read")
        person.log_in(reader)

        expect(person.page.locator("#try")).to_contain_text("may read, not predict")
        expect(person.page.get_by_role("button", name="Predict")).to_have_count(0)


@pytest.fixture
def hostile(person: Person) -> Iterator[Callable[[str], None]]:
    """Opens a page of another port of the same host, which browsers take for the same site, with the visitor's cookie in reach."""
    markup: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await HTMLResponse(markup[-1])(scope, receive, send)

    with served(app) as url:

        def visit(body: str) -> None:
            markup.append(body.replace("SERVICE", person.url))
            person.page.goto(url)

        yield visit


def test_a_page_of_another_port_cannot_act_for_its_visitor(key: str, person: Person, hostile: Callable[[str], None]) -> None:
    """Neither by a form nor by a script nor in a frame, though the browser sends the cookie along."""
    person.log_in(key)
    expect(person.page.locator("#live")).to_be_visible()
    hostile('<form method="post" action="SERVICE/logout"></form><script>document.forms[0].submit()</script>')
    expect(person.page.locator("body")).to_contain_text("from the page alone")
    hostile(
        """<script>fetch("SERVICE/v1/models/delay:predict", {method: "POST", credentials: "include", mode: "no-cors",
        body: '{"instances": [{}]}'})
        .finally(() => { document.title = "asked" })</script>"""
    )
    expect(person.page).to_have_title("asked")
    hostile('<script>fetch("SERVICE/status", {credentials: "include"}).catch(() => { document.title = "unread" })</script>')
    expect(person.page).to_have_title("unread")
    hostile('<iframe src="SERVICE/" onload="document.title = \'framed\'"></iframe>')
    expect(person.page).to_have_title("framed")
    frame = person.page.frames[1]

    assert f"{person.url}/v1/models/delay:predict" in person.asked
    assert person.stand.asked == []
    assert "Prediction service" not in frame.content()
    person.page.goto(person.url)
    expect(person.page.locator("#live")).to_be_visible()


def test_a_page_of_another_port_cannot_log_its_visitor_in(key: str, person: Person, hostile: Callable[[str], None]) -> None:
    """Else somebody would work in another one's session without knowing it."""
    field = f'<input name="key" value="{key}">'
    hostile(f'<form method="post" action="SERVICE/login">{field}</form><script>document.forms[0].submit()</script>')

    expect(person.page.get_by_role("alert")).to_have_text("Log in from this page.")
    assert person.page.context.cookies() == []


@pytest.mark.parametrize("width", [1280, 700, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_follows_the_colours_of_the_system(
    browser: Browser, keys: Path, key: str, scheme: Literal["light", "dark"], width: int
) -> None:
    """On a laptop and narrower nothing is cut off or runs out at the side, and text has contrast in both."""
    with (
        served(page_app(Stand(), keys)) as url,
        browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}) as context,
    ):
        person = Person(context.new_page(), url, Stand())
        person.log_in(key)
        page = person.page
        expect(page.locator("#live")).to_be_visible()
        ground, text = (
            page.evaluate(f"() => getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3")
            for name in ("backgroundColor", "color")
        )
        clipped = "e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth"
        cut = f"() => [...document.querySelectorAll('dd, h2, button, .pill, .numbers')].filter({clipped}).length"

        assert (ground > text) == (scheme == "light")
        assert abs(ground - text) > 150
        for path in ("/", "/predictions/p-1", "/login"):
            page.goto(url + path)
            assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
            assert page.evaluate(cut) == 0
