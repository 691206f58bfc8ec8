"""The one mapping of HTTP failures to the product's errors: which of them may pass, and what is reported of an answer.

A server that does not answer, is busy (429), timed out (408) or failed (5xx) may answer the same request later: SourceUnavailable. Any
other answer stays what it is however often the request is repeated: SourceRefused.
"""

from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.errors import SourceRefused, SourceUnavailable
from pipeline_assets.core.foreign import LONGEST_TEXT, masked, shown
from pipeline_assets.core.http_limits import OddlyPacked, TooLarge

if TYPE_CHECKING:
    import httpx

TRANSIENT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
PLAIN_HEADERS = frozenset({"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"})
LONG_VALUE = 40


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
    except (TooLarge, OddlyPacked) as error:
        raise SourceRefused(source, str(error)) from error
    except httpx.InvalidURL as error:
        raise SourceRefused(source, f"it names a page by what is no URL ({said(str(error))})") from error
    except httpx.HTTPError as error:
        raise SourceUnavailable(source, f"did not answer: {type(error).__name__} {said(str(error))}".strip()) from error


def json_fields(answer: "httpx.Response") -> dict[str, Any]:
    """The fields of an answer; none where it is no JSON object."""
    try:
        found = answer.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def said(text: str, secrets: Iterable[str] = ()) -> str:
    """The beginning of an answer, in one line, without secrets."""
    return shown(masked(" ".join(text.encode(errors="replace").decode().split()), secrets))


def beginning_of(answer: "httpx.Response") -> str:
    """The beginning of an answer as UTF-8, whatever it calls its characters: Python has codecs for text that fail, or take hours."""
    return answer.content[:LONGEST_TEXT].decode(errors="replace")


def secrets_of(request: "httpx.Request") -> set[str]:
    """What a request has that its answer may repeat and a log must not: credentials of headers, and parameters that look like some."""
    pairs = [(name.lower(), value) for name, value in request.headers.multi_items() if name.lower() not in PLAIN_HEADERS]
    found = {part for _, value in pairs for part in (value, *value.split()[-1:])}
    found |= {
        value
        for name, value in request.url.params.multi_items()
        if masked(f"{name}={value}") != f"{name}={value}" or len(value) > LONG_VALUE
    }
    for value in [value for name, value in pairs if name == "authorization" and value.startswith("Basic ")]:
        with suppress(ValueError):
            found.add(b64decode(value.removeprefix("Basic ")).decode("utf-8", "replace").partition(":")[2])
    return found


def _answered(answer: "httpx.Response") -> str:
    """Request, status and message: the one in its JSON where there is one, else its text."""
    request, message = answer.request, json_fields(answer).get("message")
    problem = said(str(message or beginning_of(answer)), secrets_of(request))
    return f"{request.method} {request.url.path} answered {answer.status_code}: {problem}"
