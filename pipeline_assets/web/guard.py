"""The guard before Dagster's web server, as ASGI middleware: from foreign pages nothing passes, and a change only as JSON by POST.

Refusals are problem documents. What is changed goes to the audit log, and so does what is refused, counted where it is much; what is only
read does not, as an open page asks every second.
"""

from collections.abc import Iterable
from dataclasses import replace

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline_assets.core.foreign import shown
from pipeline_assets.serving.realtime.access.audit import Asked, address_of, answer_audited, now
from pipeline_assets.serving.realtime.access.callers import Caller, Role
from pipeline_assets.serving.realtime.access.headers import with_headers
from pipeline_assets.serving.realtime.access.problems import Refusal, forbidden, send_refusal
from pipeline_assets.serving.realtime.access.sessions import SAFE_METHODS, Headers, headers_of
from pipeline_assets.serving.realtime.access.traces import trace_of
from pipeline_assets.web import operations
from pipeline_assets.web.login import Login
from pipeline_assets.web.operations import GRAPHQL, LONGEST_BODY, Operation
from pipeline_assets.web.origins import foreign_origin, form_body, host_names, repeated_header, unknown_host
from pipeline_assets.web.refusals import Refusals

CLOSED_BY_POLICY = 1008
UNLESS_GIVEN = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"x-frame-options", b"DENY"),
)
# Beside Dagster's own policy, which does not say who may frame its pages: browsers keep both.
ADDED = ((b"content-security-policy", b"frame-ancestors 'none'; form-action 'self'; object-src 'none'; base-uri 'none'"),)


class WebGuard:
    """The middleware; `hosts` are the names that the server answers for, beside those of this machine. Without `login` anybody may ask.

    With it the scope's state has the `caller`.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str] = (), login: Login | None = None) -> None:
        self._app, self._hosts, self._login = app, host_names(hosts), login
        self._refusals = Refusals() if login is None else login.refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it by a refusal."""
        if scope["type"] == "http":
            await self._http(scope, receive, with_headers(send, UNLESS_GIVEN, ADDED))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            try:
                await self._app(scope, receive, send)
            finally:
                self._refusals.end()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        asked = _asked(scope, headers, scope["method"])
        refusal = self._unfit(scope, headers)
        if refusal is None and self._login is not None and self._login.has_page(scope["path"]):
            await self._login.page(scope, receive, send, asked)
            return
        refusal = refusal or form_body(scope, headers)
        caller = None if refusal is not None or self._login is None else await self._login.caller(scope, headers, asked)
        if isinstance(caller, Refusal):
            await send_refusal(send, caller)
        elif refusal is not None:
            await self._refuse(send, asked, None, refusal)
        else:
            await self._let_in(scope, receive, send, asked, caller)

    def _unfit(self, scope: Scope, headers: Headers) -> Refusal | None:
        """Why nobody may ask so, whoever they are."""
        return repeated_header(scope) or unknown_host(scope, self._hosts) or foreign_origin(scope, headers)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, asked: Asked, caller: Caller | None) -> None:
        """The answer to somebody who may ask."""
        scope["state"] = {**scope.get("state", {}), "caller": caller}
        operation, receive = await _operation(scope, headers_of(scope), receive)
        if isinstance(operation, Refusal):
            await self._refuse(send, asked, caller, operation)
        elif not operation.changes:
            await self._app(scope, receive, send)
        elif caller is not None and not caller.may(Role.OPERATOR):
            refusal = forbidden(f"'{caller.name}' may look, and change nothing.")
            await self._refuse(send, replace(asked, changes=operation.changes), caller, refusal)
        else:
            await answer_audited(self._app, (scope, receive, send), replace(asked, changes=operation.changes), caller)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Subscriptions; a mutation is none, and Dagster finds no field of its name."""
        headers = headers_of(scope)
        refusal = self._unfit(scope, headers)
        asked = _asked(scope, headers, "WEBSOCKET")
        caller = None if refusal is not None or self._login is None else await self._login.caller(scope, headers, asked)
        if refusal is None and not isinstance(caller, Refusal):
            scope["state"] = {**scope.get("state", {}), "caller": caller}
            await self._app(scope, receive, send)
            return
        if refusal is not None:
            self._refusals.write(asked, None, refusal)
        await send({"type": "websocket.close", "code": CLOSED_BY_POLICY})

    async def _refuse(self, send: Send, asked: Asked, caller: Caller | None, refusal: Refusal) -> None:
        self._refusals.write(asked, caller, refusal)
        await send_refusal(send, refusal)


async def _operation(scope: Scope, headers: Headers, receive: Receive) -> tuple[Operation | Refusal, Receive]:
    """What a request would change, and how its body, which may have been read for that, is received again."""
    if scope["path"].rstrip("/") != GRAPHQL:
        return operations.change_of(scope), receive
    if scope["method"] in SAFE_METHODS:
        return operations.by_get(scope), receive
    unfit = operations.unfit_post(headers)
    if unfit is not None:
        return unfit, receive
    body = await _body(receive)
    if body is None:
        return operations.too_long(), receive
    # Of a thread: meanwhile others are answered.
    return await run_in_threadpool(operations.by_post, body), _again(body, receive)


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None for one that is too long, or whose sender is gone."""
    received = bytearray()
    while True:
        message = await receive()
        received += message.get("body", b"")
        if message["type"] != "http.request" or len(received) > LONGEST_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(received)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that has the body once more, and then what comes."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received


def _asked(scope: Scope, headers: Headers, method: str) -> Asked:
    trace = trace_of(headers)
    return Asked(method=method, route=shown(scope["path"]), params={}, address=address_of(scope), trace=trace, began_at=now())
