"""The page that exchanges an API key for a session, for whichever page is behind it."""

from asyncio import timeout
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from pipeline_assets.serving.realtime.access.audit import write_audit
from pipeline_assets.serving.realtime.access.callers import Caller, Role
from pipeline_assets.serving.realtime.access.headers import PAGE_HEADERS
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.rendering import ASSETS, HERE, address_of_asset, rendered
from pipeline_assets.serving.realtime.access.sessions import Sessions, headers_of, is_same_origin, is_under_tls

LONGEST_FORM, FORM_SECONDS = 4096, 10.0
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, kw_only=True)
class LoginPage:
    """What the page says, and where it is: below `prefix`. Any of `roles` is enough to log in."""

    title: str
    roles: frozenset[Role]
    about: str
    command: str
    prefix: str = ""

    def answer(self, code: HTTPStatus = HTTPStatus.OK, problem: str | None = None, caller: Caller | None = None) -> Response:
        """The page, with what was wrong, or who has logged in already."""
        own = {"title": self.title, "about": self.about, "command": self.command, "prefix": self.prefix}
        asset = partial(address_of_asset, prefix=self.prefix)
        return HTMLResponse(rendered("login.html", problem=problem, caller=caller, asset=asset, **own), code, PAGE_HEADERS)


def login_routes(page: LoginPage, *, keys: Keyring, sessions: Sessions) -> list[Route]:
    """The routes that anybody may ask: the page, its style; and the end of a session."""

    async def login(request: Request) -> Response:
        if request.method != "POST":
            return page.answer(caller=sessions.caller(headers_of(request.scope)))
        return await _logged_in(request, page, keys, sessions)

    async def logout(request: Request) -> Response:
        cookie = sessions.ended_cookie(is_secure=is_under_tls(request.scope, headers_of(request.scope)))
        return RedirectResponse(f"{page.prefix}/login", HTTPStatus.SEE_OTHER, {"set-cookie": cookie})

    return [
        Route(f"{page.prefix}/login", login, methods=["GET", "POST"], name="page_login"),
        Route(f"{page.prefix}/logout", logout, methods=["POST"], name="page_logout"),
        Route(f"{page.prefix}/assets/{{file}}", _asset, name="page_asset"),
    ]


async def _logged_in(request: Request, page: LoginPage, keys: Keyring, sessions: Sessions) -> Response:
    """Exchanges a key for a session. Only the page's own form can: another page would log its visitors in as somebody else."""
    headers = headers_of(request.scope)
    if not is_same_origin(request.scope, headers):
        return _unknown(page, request, HTTPStatus.FORBIDDEN, "Log in from this page.")
    caller = keys.caller(await _key_of(request))
    if caller is None:
        return _unknown(page, request, HTTPStatus.UNAUTHORIZED, "This key is not known, expired or revoked.")
    if not any(map(caller.may, page.roles)):
        needed = " or ".join(sorted(page.roles))
        return _refused(
            page, request, caller, HTTPStatus.FORBIDDEN, f"The key '{caller.name}' may not read this page, which needs the role {needed}."
        )
    write_audit(request.state.asked, caller, HTTPStatus.SEE_OTHER)
    cookie = sessions.cookie(caller, is_secure=is_under_tls(request.scope, headers))
    return RedirectResponse("/", HTTPStatus.SEE_OTHER, {"set-cookie": cookie})


async def _key_of(request: Request) -> str:
    """The key in the form; none of a body that is larger than a form with one, or takes longer to come."""
    received = bytearray()
    try:
        async with timeout(FORM_SECONDS):
            async for part in request.stream():
                received += part
                if len(received) > LONGEST_FORM:
                    return ""
    except TimeoutError:
        return ""
    return parse_qs(received.decode("latin-1")).get("key", [""])[0].strip()


def _unknown(page: LoginPage, request: Request, code: HTTPStatus, problem: str) -> Response:
    """The answer to nobody who is known; without a line in the audit log once an address has failed too often, as anybody could fill it."""
    wait = request.state.failures.count(request.state.asked.address)
    if wait:
        return page.answer(HTTPStatus.TOO_MANY_REQUESTS, f"Too many attempts have failed. Wait {wait:.0f} s.")
    return _refused(page, request, None, code, problem)


def _refused(page: LoginPage, request: Request, caller: Caller | None, code: HTTPStatus, problem: str) -> Response:
    write_audit(request.state.asked, caller, code, problem)
    return page.answer(code, problem)


async def _asset(request: Request) -> Response:
    """The script or the style; kept by browsers for good, as their addresses change with their content."""
    name = request.path_params["file"]
    if name not in ASSETS:
        return Response(status_code=HTTPStatus.NOT_FOUND)
    is_current = request.url.query == address_of_asset(name).partition("?")[2]
    headers = {"cache-control": FOREVER if is_current else "no-store", "content-type": ASSETS[name]}
    return Response((HERE / "assets" / name).read_bytes(), headers=headers)
