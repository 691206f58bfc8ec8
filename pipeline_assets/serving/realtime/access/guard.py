"""The guard before all routes, as ASGI middleware: nobody passes whom the policy does not name.

For each request: which route is asked, who asks, whether not too often, and whether they have a role that it needs. Until all of this is
answered nothing of the body is read. A route that the policy does not name is refused to everybody, and `unguarded` names such routes to a
test. Refusals are problem documents. Every answer, and every refusal, gets the headers of `headers.py`, and is written to the audit log.
"""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline_assets.serving.realtime.access.audit import Asked, address_of, answer_audited, now, write_audit
from pipeline_assets.serving.realtime.access.buckets import Buckets, Failures, rate_of
from pipeline_assets.serving.realtime.access.callers import Caller, Role
from pipeline_assets.serving.realtime.access.credentials import Credentials
from pipeline_assets.serving.realtime.access.headers import with_headers
from pipeline_assets.serving.realtime.access.problems import Refusal, forbidden, send_refusal, too_many
from pipeline_assets.serving.realtime.access.sessions import Headers, headers_of
from pipeline_assets.serving.realtime.access.traces import trace_of


class _Public:
    """The type of PUBLIC, of which there is one."""


# Anybody may ask it: health, and what a browser needs to log in.
PUBLIC: Final = _Public()
# Of each route the role that it needs, several of which any is enough, or PUBLIC.
Policy = Mapping[str, Role | frozenset[Role] | _Public]
LOGIN = "/login"
# The name of a route, and the parameters of the path.
Matched = tuple[str | None, Mapping[str, object]]
LONGEST_KEPT, MOST_KEPT = 256, 1_024
CLOSED_BY_POLICY = 1008


class Guard:
    """The middleware. `policy` has the role of each route by its name; `routes` are those of the app behind it.

    It puts into the scope's state `caller` (not for public routes) and `trace`; and `asked` and `failures`, for the page that logs in.
    """

    def __init__(
        self, app: ASGIApp, *, routes: Sequence[BaseRoute], policy: Policy, credentials: Credentials, failures: Failures | None = None
    ) -> None:
        self._app, self._routes, self._policy, self._credentials = app, routes, policy, credentials
        self._known: dict[tuple[str, str, str], Matched] = {}
        self._rates, self._failures = Buckets(), failures if failures is not None else Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it by a refusal."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, with_headers(send))
        else:
            await send({"type": "websocket.close", "code": CLOSED_BY_POLICY})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        asked = self._asked(scope, headers)
        scope["state"] = {**scope.get("state", {}), "trace": asked.trace, "asked": asked, "failures": self._failures}
        if asked.route is not None and self._policy.get(asked.route) is PUBLIC:
            await self._app(scope, receive, send)
            return
        caller = await self._credentials.caller(scope, headers)
        if isinstance(caller, Refusal):
            await send_refusal(send, self._unknown(asked, caller, headers))
            return
        refusal = self._not_allowed(asked.route, caller)
        if refusal is not None:
            write_audit(asked, caller, refusal.status, refusal.detail)
            await send_refusal(send, refusal)
            return
        scope["state"]["caller"] = caller
        await answer_audited(self._app, (scope, receive, send), asked, caller)

    def _asked(self, scope: Scope, headers: Headers) -> Asked:
        route, params = self._matched(scope)
        address, trace = address_of(scope), trace_of(headers)
        return Asked(method=scope["method"], route=route, params=params, address=address, trace=trace, began_at=now())

    def _matched(self, scope: Scope) -> Matched:
        """As `matched`; what was found is kept, as callers ask few paths again and again."""
        asked = (scope["method"], scope.get("root_path", ""), scope["path"])
        found = self._known.get(asked)
        if found is None:
            found = matched(self._routes, scope)
            if found[0] is not None and len(scope["path"]) <= LONGEST_KEPT and len(self._known) < MOST_KEPT:
                self._known[asked] = found
        return found

    def _unknown(self, asked: Asked, refusal: Refusal, headers: Headers) -> Refusal:
        """The answer to somebody who is not known.

        A browser without a session is sent to the page that logs in. An address that has failed too often gets 429, and the audit log has
        no line for each of these, so that nobody can fill it.
        """
        if refusal.status == HTTPStatus.UNAUTHORIZED and _is_person(asked, headers):
            return Refusal(status=HTTPStatus.SEE_OTHER, detail=refusal.detail, headers={"location": LOGIN})
        wait = self._failures.count(asked.address) if refusal.status == HTTPStatus.UNAUTHORIZED else 0.0
        if wait:
            return too_many("Too many attempts have failed from this address. Wait, then send a valid credential.", wait)
        write_audit(asked, None, refusal.status, refusal.detail)
        return refusal

    def _not_allowed(self, route: str | None, caller: Caller) -> Refusal | None:
        """Why a known caller may not ask now; None where they may. A path that leads nowhere is the app's to answer."""
        rate = rate_of(caller.limits)
        wait = self._rates.take(caller.id, rate) if rate is not None else 0.0
        if rate is not None and wait:
            return too_many(f"'{caller.name}' has asked too often: {rate.per_second:g} per second, {rate.burst} at once.", wait)
        return None if route is None else _lacking(caller, self._policy.get(route))


def matched(routes: Sequence[BaseRoute], scope: Scope) -> Matched:
    """The name of the route that will answer a request, as the router chooses it, and the parameters of its path; None where none will.

    A route of another method counts where no other matches, as it answers by 405.
    """
    partial: Matched = (None, {})
    for route in routes:
        match, child = route.matches(scope)
        if match is Match.NONE:
            continue
        inner = getattr(route, "routes", None)
        if inner:
            found = matched(inner, {**scope, **child})
            if found[0] is not None or match is Match.FULL:
                return found
        elif match is Match.FULL:
            return _name(route), child.get("path_params", {})
        elif partial[0] is None:
            partial = _name(route), child.get("path_params", {})
    return partial


def unguarded(routes: Sequence[BaseRoute], policy: Policy) -> list[str]:
    """The routes that the policy does not name, by name and path; those of mounted apps among them."""
    return [f"{_name(route)} ({getattr(route, 'path', '')})" for route in _leaves(routes) if _name(route) not in policy]


def _leaves(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """All routes, with those of mounted apps in place of the mounts; a mount whose routes are not known stays, and nobody may ask it."""
    for route in routes:
        inner = getattr(route, "routes", None)
        if inner:
            yield from _leaves(inner)
        else:
            yield route


def _name(route: BaseRoute) -> str:
    return str(getattr(route, "name", ""))


def _lacking(caller: Caller, needed: Role | frozenset[Role] | _Public | None) -> Refusal | None:
    """The refusal of a caller who has none of the roles that a route needs."""
    if not isinstance(needed, Role | frozenset):
        return forbidden("Nobody may ask this route: it has no policy.")
    roles = frozenset({needed}) if isinstance(needed, Role) else needed
    if any(caller.may(role) for role in roles):
        return None
    lacks, has = (", ".join(sorted(one)) or "none" for one in (roles, caller.roles))
    return forbidden(f"'{caller.name}' has none of the roles {lacks}, one of which this needs. It has: {has}.")


def _is_person(asked: Asked, headers: Headers) -> bool:
    has_credential = b"authorization" in headers or b"x-api-key" in headers
    return asked.method == "GET" and not has_credential and b"text/html" in headers.get(b"accept", b"")
