"""Failures of HTTP as the product's errors: which are worth another request, and what is reported of them."""

import httpx
import pytest

from pipeline_assets.core.errors import PipelineError, SourceRefused, SourceUnavailable
from pipeline_assets.core.foreign import LONGEST
from pipeline_assets.core.http_errors import http_errors, is_transient

REQUEST = httpx.Request("GET", "http://plant.example/v1/readings?cursor=secret")


def failure(status: int, content: bytes = b"") -> httpx.HTTPStatusError:
    """The error of an answer with this status."""
    return httpx.HTTPStatusError("", request=REQUEST, response=httpx.Response(status, content=content, request=REQUEST))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (failure(500), SourceUnavailable),
        (failure(503), SourceUnavailable),
        (failure(429), SourceUnavailable),
        (failure(408), SourceUnavailable),
        (failure(400), SourceRefused),
        (failure(401), SourceRefused),
        (failure(404), SourceRefused),
        (failure(409), SourceRefused),
        (httpx.ConnectError("refused"), SourceUnavailable),
        (httpx.ReadTimeout("slow"), SourceUnavailable),
    ],
    ids=str,
)
def test_a_failure_is_refused_or_unavailable(error: httpx.HTTPError, kind: type[PipelineError]) -> None:
    """A server that is busy, failing or away may answer later; what it refuses it will refuse again."""
    with pytest.raises(kind, match="'plant'"), http_errors("plant"):
        raise error

    assert is_transient(error) == (kind is SourceUnavailable)


def test_a_server_may_mean_later_by_a_status_of_its_own() -> None:
    """Such a status is transient for that server alone."""
    conflict = failure(409)

    assert is_transient(conflict, frozenset({409}))
    assert not is_transient(conflict)
    with pytest.raises(SourceUnavailable), http_errors("plant", frozenset({409})):
        raise conflict


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"error_code": 1, "message": "no such reading"}', "no such reading"),
        (b"no\n  such", "no such"),
        (b"[1]", "[1]"),
        (b"x" * 500, "x" * LONGEST + "… (500 characters)"),
    ],
    ids=["message", "text", "other JSON", "long"],
)
def test_the_error_shows_request_status_and_message(content: bytes, shown: str) -> None:
    """The path without its query, and the message of the server in one line of bounded length."""
    with pytest.raises(SourceRefused) as refused, http_errors("plant"):
        raise failure(400, content)

    assert refused.value.problem == f"GET /v1/readings answered 400: {shown}"


@pytest.mark.parametrize("charset", ["hex", "zlib", "idna", "utf-16", "no-such", "rot13", "unicode_escape"])
def test_an_answer_is_read_as_utf8_whatever_it_calls_its_characters(charset: str) -> None:
    """Regression: a charset of the server's choice had Python use codecs that fail, or are no text at all."""
    headers = {"content-type": f"text/plain; charset={charset}"}
    answer = httpx.Response(400, headers=headers, content="völlig kaputt \udcff".encode(errors="surrogateescape"), request=REQUEST)
    with pytest.raises(SourceRefused) as refused, http_errors("plant"):
        raise httpx.HTTPStatusError("", request=REQUEST, response=answer)

    assert refused.value.problem == "GET /v1/readings answered 400: völlig kaputt \ufffd"


def test_errors_of_other_kinds_pass() -> None:
    """Only HTTP is mapped."""
    with pytest.raises(KeyError), http_errors("plant"):
        raise KeyError("plant")

    assert not is_transient(KeyError("plant"))


def test_a_server_that_repeats_what_it_was_sent_gives_no_secret_away() -> None:
    """Credentials of headers, of a basic login and of the query are masked in the message, and what steers a terminal is escaped."""
    request = httpx.Request(
        "GET", "http://plant.example/v1?api_key=k-0123456789&day=2013-01-01",
        headers={"authorization": "Basic YWRhOmh1bnRlcjIh", "x-plant-key": "p-0123456789"},
    )  # fmt: skip
    echo = b"\x1b[2J k-0123456789 p-0123456789 YWRhOmh1bnRlcjIh hunter2! 2013-01-01\r\nERROR forged"
    error = httpx.HTTPStatusError("", request=request, response=httpx.Response(403, content=echo, request=request))

    with pytest.raises(SourceRefused) as raised, http_errors("plant"):
        raise error

    assert "\\x1b[2J *** *** *** *** 2013-01-01 ERROR forged" in str(raised.value)
