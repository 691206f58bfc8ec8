"""Bodies of requests: read within limits of size and time, of the declared type, not packed."""

import asyncio

from starlette.requests import Request

from pipeline_assets.serving.realtime.access.callers import caller_of
from pipeline_assets.serving.realtime.access.problems import too_many_rows
from pipeline_assets.serving.realtime.service.problems import Problem, shown

LARGEST_BYTES, LONGEST_SECONDS, LONGEST_KEY = 1_000_000, 10.0, 200
JSON = "application/json"


async def read_body(request: Request, kind: str = JSON, *, is_optional: bool = False) -> bytes:
    """The body of a request; with `is_optional` its type may be left out, as some clients of V2 do.

    Raises Problem: 415 for another type or a packed body, 413 for more than LARGEST_BYTES, 408 for one that takes too long.
    """
    headers = request.headers
    found = headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != kind and not (is_optional and not found):
        raise Problem(415, "UnknownType", f"The body has the type '{shown(found)}', expected {kind}.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "Packed", "The body is packed. Send it as it is.")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > LARGEST_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            return await _received(request)
    except TimeoutError:
        raise Problem(408, "TooSlow", f"The body took more than {LONGEST_SECONDS:g} s.") from None


def check_rows(request: Request, rows: int) -> None:
    """Raises Problem (413) for more rows than the caller's key may send at once."""
    refusal = too_many_rows(caller_of(request.scope), rows)
    if refusal is not None:
        raise Problem(int(refusal.status), "TooManyInstances", refusal.detail)


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key` of a request, if it has one; raises Problem (422) for one that is empty or too long."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise Problem(422, "KeyUnfit", f"`Idempotency-Key` has {len(key)} characters, expected 1 to {LONGEST_KEY}.")
    return key


async def _received(request: Request) -> bytes:
    """As `request.stream` does, without a generator for what mostly comes in one piece."""
    parts, size, is_whole = list[bytes](), 0, False
    while not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "Broken", "The body ended before it was whole.")
        part = message.get("body", b"")
        size += len(part)
        if size > LARGEST_BYTES:
            raise _too_large()
        parts.append(part)
        is_whole = not message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large() -> Problem:
    return Problem(413, "TooLarge", f"The body has more than {LARGEST_BYTES:,} bytes. Ask in parts.")
