"""Problem documents (RFC 9457), as an ASGI response that needs no framework before it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil

from starlette.types import Send

from pipeline_assets.serving.realtime.access.callers import Caller

PROBLEM = b"application/problem+json"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request goes no further: the status of HTTP, a sentence with what to do, and headers that belong to the status."""

    status: HTTPStatus
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, object]:
        """The members of the problem document."""
        return {"type": "about:blank", "title": self.status.phrase, "status": int(self.status), "detail": self.detail}


def unauthorized(detail: str) -> Refusal:
    """401: the caller is not known."""
    return Refusal(status=HTTPStatus.UNAUTHORIZED, detail=detail, headers={"www-authenticate": 'Bearer realm="pipeline"'})


def forbidden(detail: str) -> Refusal:
    """403: the caller is known, and may not."""
    return Refusal(status=HTTPStatus.FORBIDDEN, detail=detail)


def too_many(detail: str, seconds: float) -> Refusal:
    """429: may be asked again after some seconds."""
    return Refusal(status=HTTPStatus.TOO_MANY_REQUESTS, detail=detail, headers={"retry-after": str(max(1, ceil(seconds)))})


def not_now(detail: str, seconds: float) -> Refusal:
    """503: who asks cannot be found out at present."""
    return Refusal(status=HTTPStatus.SERVICE_UNAVAILABLE, detail=detail, headers={"retry-after": str(max(1, ceil(seconds)))})


def too_many_rows(caller: Caller, rows: int) -> Refusal | None:
    """413 for a request with more rows than the caller's key may send at once; for the route, which has counted them."""
    most = caller.limits.rows_per_request
    if most is None or rows <= most:
        return None
    detail = f"The request has {rows:,} rows; the key '{caller.name}' may send {most:,} at once. Split it."
    return Refusal(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail=detail)


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """The whole answer, of which nothing of the request's body is read before."""
    body = json.dumps(refusal.document).encode()
    headers: Sequence[tuple[bytes, bytes]] = [
        (b"content-type", PROBLEM),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode("latin-1")) for name, value in refusal.headers.items()),
    ]
    await send({"type": "http.response.start", "status": int(refusal.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
