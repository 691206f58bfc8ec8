"""The page without a browser: what it renders, what logging in answers, and which of its routes are open."""

import json
import logging
import re
from pathlib import Path

import pytest

from pipeline_assets.serving.realtime.access.audit import AUDIT
from pipeline_assets.serving.realtime.access.buckets import FAILURES_AT_ONCE
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.guard import PUBLIC, unguarded
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.page import ROUTES_POLICY, page_routes
from pipeline_assets.serving.realtime.access.rendering import address_of_asset, age, count, milliseconds, part, score, shown, spark
from pipeline_assets.serving.realtime.access.sessions import Sessions, session_secret
from pipeline_assets_tests.guarded_apps import add_key, ask
from pipeline_assets_tests.prediction_pages import HOSTILE, STATUS, Stand, page_app

FROM_PAGE = {"origin": "http://service.test", "content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of keys is."""
    return tmp_path / "serve-keys.json"


def test_every_route_of_the_page_has_a_policy(path: Path) -> None:
    """Only what a browser needs to log in is open to anybody."""
    keys = Keyring(path)
    routes = page_routes(lambda: STATUS, Stand().explain, keys=keys, sessions=Sessions(keys, session_secret(path.parent)))

    assert unguarded(routes, ROUTES_POLICY) == []
    assert {name for name, needed in ROUTES_POLICY.items() if needed is PUBLIC} == {"page_login", "page_asset"}
    assert {needed for needed in ROUTES_POLICY.values() if needed is not PUBLIC} == {Role.READ}


def test_every_value_is_escaped(path: Path) -> None:
    """Text of a problem and of an example, also within an attribute."""
    key = add_key(path, "a <b>job</b>", Role.READ, Role.PREDICT)
    text = ask(page_app(Stand(), path), "GET", "/", headers={"x-api-key": key}).text

    assert HOSTILE not in text
    assert "<b>" not in text
    assert text.count("&lt;img src=x onerror=&#34;") == 2


def test_the_page_has_a_policy_of_its_own(path: Path) -> None:
    """Own scripts and styles alone: no inline one, no foreign origin, no frame; and the page has none to need it."""
    key = add_key(path, "me", Role.READ)
    answer = ask(page_app(Stand(), path), "GET", "/", headers={"x-api-key": key})
    policy = answer.headers["content-security-policy"]

    assert "unsafe" not in policy
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
    assert "style=" not in answer.text
    assert re.findall(r"<[a-z]+[^>]*\son[a-z]+=", answer.text) == []
    assert (answer.headers["cache-control"], answer.headers["referrer-policy"]) == ("no-store", "same-origin")


@pytest.mark.parametrize(
    ("url", "origin", "is_secure"),
    [
        ("http://service.test", "http://service.test", False),
        ("https://service.test", "https://service.test", True),
        # A proxy that speaks TLS before a service that does not.
        ("http://service.test", "https://service.test", True),
    ],
)
def test_logging_in_exchanges_a_key_for_a_session(path: Path, url: str, origin: str, is_secure: bool) -> None:  # noqa: FBT001 - a case
    """The cookie is Secure where the browser speaks TLS; the page then knows who it is."""
    key = add_key(path, "ada", Role.READ)
    app = page_app(Stand(), path)
    answer = ask(app, "POST", "/login", url=url, headers={**FROM_PAGE, "origin": origin}, content=f"key=+{key}%0A")
    cookie = answer.headers["set-cookie"]
    page = ask(app, "GET", "/", url=url, headers={"cookie": cookie.partition(";")[0]})

    assert (answer.status_code, answer.headers["location"], "; Secure" in cookie) == (303, "/", is_secure)
    assert (page.status_code, "ada" in page.text, "Log out" in page.text) == (200, True, True)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (FROM_PAGE, "key=guess", 401),
        (FROM_PAGE, "", 401),
        (FROM_PAGE, "key=" + "A" * 10_000, 401),
        (FROM_PAGE, "&".join(["a=1"] * 500), 401),
        (FROM_PAGE, b"key=\xff\xfe\x00", 401),
        ({**FROM_PAGE, "origin": "http://evil.example"}, "key=KEY", 403),
        ({}, "key=KEY", 403),
        (FROM_PAGE, "key=PREDICT", 403),
    ],
)
def test_what_does_not_log_in(path: Path, headers: dict[str, str], body: str | bytes, status: int) -> None:
    """A wrong key, a broken or endless form, another origin, none, and a key that may not read; no cookie is set."""
    keys = {"KEY": add_key(path, "ada", Role.READ), "PREDICT": add_key(path, "a job", Role.PREDICT)}
    content = body if isinstance(body, bytes) else keys.get(body.removeprefix("key="), body).encode()
    content = b"key=" + content if isinstance(body, str) and body.removeprefix("key=") in keys else content
    answer = ask(page_app(Stand(), path), "POST", "/login", headers=headers, content=content)

    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert "alarm" in answer.text


def test_attempts_to_log_in_are_bounded_and_written_down(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the address, and without what was tried; the bound is the one of all routes. Beyond it there is no line for each.

    Regression: anybody could fill the log by forms, also from another page.
    """
    key = add_key(path, "ada", Role.READ)
    app = page_app(Stand(), path)
    with caplog.at_level(logging.DEBUG):
        found = [ask(app, "POST", "/login", headers=FROM_PAGE, content="key=s3cr3t-guess").status_code for _ in range(FAILURES_AT_ONCE + 1)]
        elsewhere = ask(app, "POST", "/login", headers={**FROM_PAGE, "origin": "http://foreign.test"}, content="key=s3cr3t-guess")
        entered = ask(app, "POST", "/login", headers=FROM_PAGE, content=f"key={key}")
    lines = [json.loads(record.message) for record in caplog.records if record.name == AUDIT]

    assert found == [401] * FAILURES_AT_ONCE + [429]
    assert elsewhere.status_code == 429
    assert len(lines) == FAILURES_AT_ONCE + 1
    assert entered.status_code == 303
    assert (lines[0]["route"], lines[0]["status"], lines[0]["address"], lines[0]["caller"]) == ("page_login", 401, "192.0.2.1", None)
    assert (lines[-1]["caller"], lines[-1]["status"]) == ("ada", 303)
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert [text for text in ("s3cr3t", key.split("_", 2)[2]) if text in logged] == []


def test_scripts_and_styles_are_kept_until_they_change(path: Path) -> None:
    """By an address that names their content; without it, and of any other file, nothing is kept."""
    app = page_app(Stand(), path)
    named, bare = ask(app, "GET", address_of_asset("page.js")), ask(app, "GET", "/assets/page.js")

    assert (named.headers["cache-control"], bare.headers["cache-control"]) == ("public, max-age=31536000, immutable", "no-store")
    assert named.headers["content-type"].startswith("text/javascript")
    assert named.content == bare.content != b""
    for other in ("page.py", "..%2Fpage.py", "../page.py", "%2e%2e/templates/page.html"):
        assert ask(app, "GET", f"/assets/{other}").status_code in {401, 404}


def test_an_unknown_prediction_is_named_with_where_to_ask(path: Path) -> None:
    """The service keeps the newest; the lake has all."""
    key = add_key(path, "me", Role.READ)
    answer = ask(page_app(Stand(), path), "GET", "/predictions/p-9", headers={"x-api-key": key})

    assert answer.status_code == 404
    assert "pipeline explain p-9" in answer.text


def test_numbers_are_written_for_people() -> None:
    """Counts, latencies, ages, scores, values and the points of a chart."""
    assert [count(one) for one in (0, 1204, 999_999, 1_284_533, 3.2e9)] == ["0", "1,204", "999,999", "1.28 M", "3.2 G"]
    assert [milliseconds(one) for one in (None, 0.04, 99.94, 1234.0)] == ["–", "0.0 ms", "99.9 ms", "1,234 ms"]
    assert [age(one) for one in (None, 0.2, 59, 119, 121, 8100, 200_000)] == ["never", "now", "59 s", "119 s", "2 min", "2 h", "2 d"]
    assert [score(one) for one in (0.86372, "home win")] == ["0.8637", "home win"]
    assert [shown(one) for one in (None, 2565.0, True, "EWR", 17)] == ["null", "2565", "True", "EWR", "17"]
    assert (spark([]), spark([0.0]), spark([0, 5, 10])) == ("", "0.0,39.0", "0.0,39.0 120.0,20.0 240.0,1.0")
    assert part("a/b?c#d é") == "a%2Fb%3Fc%23d%20%C3%A9"
