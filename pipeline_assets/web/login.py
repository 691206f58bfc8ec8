"""Who asks for the web pages, where they have a login: the keys, tokens and sessions of the prediction service, with roles of the pages."""

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from pipeline_assets.serving.realtime.access.audit import Asked
from pipeline_assets.serving.realtime.access.buckets import Failures
from pipeline_assets.serving.realtime.access.callers import Caller, Role
from pipeline_assets.serving.realtime.access.credentials import Credentials
from pipeline_assets.serving.realtime.access.login import LoginPage, login_routes
from pipeline_assets.serving.realtime.access.opened import Access
from pipeline_assets.serving.realtime.access.problems import Refusal, forbidden, too_many
from pipeline_assets.serving.realtime.access.sessions import SAFE_METHODS, Headers
from pipeline_assets.web.refusals import Refusals

# Below no path of Dagster's own pages.
PREFIX = "/_access"
# The prediction service has one of its own on the same host: whoever logs in to one page stays logged in to the other.
COOKIE = "pipeline_web_session"
ROLES = frozenset({Role.VIEWER, Role.OPERATOR})
PAGE = LoginPage(
    title="Dagster",
    roles=ROLES,
    about="The key needs the role viewer, or operator to start runs and change anything. Make one:",
    command="pipeline serve-keys create me --role operator",
    prefix=PREFIX,
)
# Versions alone: what looks whether the server lives has no key.
PUBLIC = frozenset({"/server_info"})
NOBODY = Caller(id="", name="nobody", roles=frozenset(), by="session")


class Login:
    """Recognises callers, and has the page on which people log in; `refusals` has those of the guard, too."""

    def __init__(self, access: Access) -> None:
        self._credentials = Credentials(keys=access.keys, issuer=access.issuer, sessions=access.sessions)
        self._failures, self.refusals = Failures(), Refusals()
        self._pages = Starlette(routes=login_routes(PAGE, keys=access.keys, sessions=access.sessions))

    def has_page(self, path: str) -> bool:
        """Whether a path is of the login itself."""
        return path.startswith(f"{PREFIX}/")

    async def page(self, scope: Scope, receive: Receive, send: Send, asked: Asked) -> None:
        """A page of the login."""
        scope["state"] = {**scope.get("state", {}), "asked": asked, "failures": self._failures}
        await self._pages(scope, receive, send)

    async def caller(self, scope: Scope, headers: Headers, asked: Asked) -> Caller | Refusal:
        """Who asks, where they may see the pages; else the refusal, which is in the audit log, or counted there.

        A browser is sent to the login, also with a session whose key has lost the roles.
        """
        if scope["path"] in PUBLIC:
            return NOBODY
        found = await self._credentials.caller({"method": "GET", **scope}, headers)
        if isinstance(found, Caller):
            if any(map(found.may, ROLES)):
                return found
            lacking = forbidden(f"'{found.name}' has none of the roles {' and '.join(sorted(ROLES))}.")
            is_sent = found.by == "session" and _is_person(scope, headers)
            return _to_login(lacking) if is_sent else self._noted(asked, found, lacking)
        if found.status == HTTPStatus.UNAUTHORIZED and _is_person(scope, headers):
            return _to_login(found)
        wait = self._failures.count(asked.address) if found.status == HTTPStatus.UNAUTHORIZED else 0.0
        if wait:
            return too_many("Too many attempts have failed from this address. Wait, then send a valid credential.", wait)
        return self._noted(asked, None, found)

    def _noted(self, asked: Asked, caller: Caller | None, refusal: Refusal) -> Refusal:
        self.refusals.write(asked, caller, refusal)
        return refusal


def _to_login(refusal: Refusal) -> Refusal:
    return Refusal(status=HTTPStatus.SEE_OTHER, detail=refusal.detail, headers={"location": f"{PREFIX}/login"})


def _is_person(scope: Scope, headers: Headers) -> bool:
    is_page = scope["type"] == "http" and scope["method"] in SAFE_METHODS and b"text/html" in headers.get(b"accept", b"")
    return is_page and b"authorization" not in headers and b"x-api-key" not in headers
