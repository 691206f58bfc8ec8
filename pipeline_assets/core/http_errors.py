"""The one mapping of HTTP failures to the product's errors: which of them may pass, and what is reported of an answer.

A server that does not answer, is busy (429), timed out (408) or failed (5xx) may answer the same request later: SourceUnavailable. Any
other answer stays what it is however often the request is repeated: SourceRefused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.errors import SourceRefused, SourceUnavailable

if TYPE_CHECKING:
    import httpx

TRANSIENT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
SHOWN_CHARACTERS = 200


def is_transient(error: Exception, also: frozenset[int] = frozenset()) -> bool:
    """Whether the same request may succeed later; `also` are statuses that mean so with this server."""
    import httpx

    if not isinstance(error, httpx.HTTPStatusError):
        return isinstance(error, httpx.TransportError)
    status = error.response.status_code
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in TRANSIENT | also


@contextmanager
def http_errors(source: str, also: frozenset[int] = frozenset()) -> Iterator[None]:
    """Raises SourceUnavailable or SourceRefused for the HTTP errors of the block, with request, status and the server's message."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        kind = SourceUnavailable if is_transient(error, also) else SourceRefused
        raise kind(source, _answered(error.response)) from error
    except httpx.HTTPError as error:
        raise SourceUnavailable(source, f"did not answer: {type(error).__name__} {error}".strip()) from error


def json_fields(answer: "httpx.Response") -> dict[str, Any]:
    """The fields of an answer; none where it is no JSON object."""
    try:
        found = answer.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def shown(text: str) -> str:
    """The beginning of an answer, in one line."""
    line = " ".join(text.encode(errors="replace").decode().split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"


def _answered(answer: "httpx.Response") -> str:
    """Request, status and message: the one in its JSON where there is one, else its text."""
    request, message = answer.request, json_fields(answer).get("message")
    return f"{request.method} {request.url.path} answered {answer.status_code}: {shown(str(message or answer.text))}"
