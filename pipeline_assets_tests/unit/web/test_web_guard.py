"""The guard before the web pages, over a small app: who gets there, and who is sent to the login."""

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.opened import Access
from pipeline_assets.serving.realtime.access.sessions import Sessions, session_secret
from pipeline_assets.web.guard import WebGuard
from pipeline_assets.web.login import COOKIE, Login
from pipeline_assets_tests.guarded_apps import add_key, ask

BROWSER = {"accept": "text/html"}


async def page(request: Request) -> Response:
    """Answers to whoever gets here."""
    return PlainTextResponse(request.method)


def guarded(login: Login | None = None) -> WebGuard:
    """The app behind the guard."""
    routes = [Route(path, page, methods=["GET", "POST"]) for path in ("/", "/graphql")]
    return WebGuard(Starlette(routes=routes), hosts=["service.test"], login=login)


def session_of(folder: Path, role: Role, cookie: str) -> tuple[Login, str]:
    """A login, and the cookie of somebody with a role in a page's session."""
    text = add_key(folder / "serve-keys.json", f"a {role}", role)
    keys, secret = Keyring(folder / "serve-keys.json"), session_secret(folder)
    caller = keys.caller(text)
    assert caller is not None
    begun = Sessions(keys, secret, cookie).cookie(caller, is_secure=False).partition(";")[0]
    return Login(Access(keys=keys, sessions=Sessions(keys, secret, COOKIE), issuer=None)), begun


@pytest.mark.parametrize("name", ["content-type", "origin", "sec-fetch-site", "authorization", "x-api-key"])
def test_a_header_that_may_come_once_comes_once(name: str) -> None:
    """Regression: of two types of content the guard read the last and Dagster the first, which took its query from the address."""
    values = {"origin": "http://service.test", "sec-fetch-site": "same-origin"}
    once = [("content-type", "application/json"), ("origin", values["origin"])]
    twice = [(name, "text/plain"), *[header for header in once if header[0] != name], (name, values.get(name, "application/json"))]
    asked: dict[str, Any] = {"params": {"query": "mutation { launchRun }"}, "content": b'{"query": "{ version }"}'}
    answers = [ask(guarded(), "POST", "/graphql", headers=headers, **asked) for headers in (once, twice)]

    assert [answer.status_code for answer in answers] == [200, 400]
    assert name in answers[1].json()["detail"]


def test_a_session_without_the_roles_goes_to_the_login(tmp_path: Path) -> None:
    """Regression: a person got 403 as JSON, and no way to log in with another key. A program still gets the status."""
    login, cookie = session_of(tmp_path, Role.READ, COOKIE)
    person, program = (ask(guarded(login), "GET", "/", headers={"cookie": cookie, **more}) for more in (BROWSER, {}))

    assert (person.status_code, person.headers["location"]) == (303, "/_access/login")
    assert program.status_code == 403


def test_a_session_of_the_prediction_service_is_none_here(tmp_path: Path) -> None:
    """Its cookie, which a browser sends to all ports of the host, is passed over; whoever has the own one is let in."""
    _, other = session_of(tmp_path, Role.ADMIN, "pipeline_session")
    login, own = session_of(tmp_path, Role.VIEWER, COOKIE)

    assert ask(guarded(login), "GET", "/", headers={"cookie": other}).status_code == 401
    assert ask(guarded(login), "GET", "/", headers={"cookie": f"{other}; {own}"}).status_code == 200
