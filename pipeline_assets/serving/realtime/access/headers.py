"""Headers of every answer by which a browser does nothing with it that was not meant.

There are none of CORS, so that no page of a foreign origin reads an answer. Strict-Transport-Security is left to a proxy: it would hold
for all ports of the host, and whatever else listens there without TLS could no longer be opened.
"""

from starlette.types import Message, Send

# An answer of the API is no page: nothing in it loads, runs or may be framed.
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# Browsers name no origin for a form of a page that sends no referrer at all, and the page's forms must name it.
PAGE_HEADERS = {"content-security-policy": PAGE_POLICY, "referrer-policy": "same-origin"}
ALWAYS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# A route may have its own: the page its policies, and its script how long it may be kept.
UNLESS_GIVEN: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", API_POLICY.encode()),
)


ALL = (*ALWAYS, *UNLESS_GIVEN)


Pairs = tuple[tuple[bytes, bytes], ...]


def with_headers(send: Send, unless_given: Pairs = ALL, added: Pairs = ()) -> Send:
    """A `send` that adds headers to the beginning of an answer: those that it has not, and some that it may have twice."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            missing = (header for header in unless_given if header[0] not in names)
            message = {**message, "headers": [*given, *missing, *added]}
        await send(message)

    return sent
