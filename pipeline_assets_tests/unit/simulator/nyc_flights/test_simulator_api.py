"""The weather service gives every observation once, page by page, and refuses what a real service refuses."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from simulator.nyc_flights import api

KEY = "a key of the tests"
MIDNIGHT = datetime(2013, 1, 1, tzinfo=UTC)
SPAN = {"since": "2013-01-01T00:00:00Z", "until": "2013-01-02T00:00:00Z"}


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The seconds so far."""
        return self.now


def _app(moods: api.Moods = api.CALM, clock: Clock | None = None, rows: int = 48) -> Starlette:
    """The service over one observation each half hour, two days long if not told otherwise."""
    times = [MIDNIGHT + timedelta(minutes=30 * number) for number in range(rows * 2)]
    shown = [api.Observation(observed_at=at, record={"number": number}) for number, at in enumerate(times)]
    return api.build_app(KEY, shown, moods, clock or Clock())


def _ask(app: Starlette, path: str = "/v1/observations", key: str | None = KEY, **query: str) -> httpx.Response:
    """The answer to one request."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://weather") as client:
            return await client.get(path, params=query, headers={} if key is None else {api.KEY_HEADER: key})

    return asyncio.run(ask())


def _pages(app: Starlette, **query: str) -> list[dict[str, Any]]:
    """All pages of a span, by following the cursor."""
    pages = [_ask(app, **query).json()]
    while pages[-1]["next_cursor"] is not None:
        pages.append(_ask(app, **query, cursor=pages[-1]["next_cursor"]).json())
    return pages


def _numbers(pages: list[dict[str, Any]]) -> list[int]:
    return [row["number"] for page in pages for row in page["observations"]]


def test_health_needs_no_key() -> None:
    """Whether the service is up can be asked by anyone."""
    answer = _ask(_app(), "/health", key=None)

    assert (answer.status_code, answer.json()) == (200, {"status": "up"})


@pytest.mark.parametrize("key", [None, "", "another key"])
def test_observations_need_the_key(key: str | None) -> None:
    """Without the key, or with another one, the service says which header it wants."""
    answer = _ask(_app(), key=key, **SPAN)

    assert answer.status_code == 401
    assert "X-Api-Key" in answer.json()["error"]


@pytest.mark.parametrize("limit", [1, 7, 24, 48, 1000])
def test_pages_hold_every_observation_of_the_span_once(limit: int) -> None:
    """Whatever the page size, the span comes whole, in order, without its end, and the last page has no cursor."""
    pages = _pages(_app(), **SPAN, limit=str(limit))

    assert _numbers(pages) == list(range(48))
    assert [len(page["observations"]) for page in pages[:-1]] == [limit] * (len(pages) - 1)


def test_a_span_without_observations_is_one_empty_page() -> None:
    """Nothing to show is an answer, not an error."""
    answer = _ask(_app(), since="2012-01-01T00:00:00Z", until="2012-02-01T00:00:00Z")

    assert (answer.status_code, answer.json()) == (200, {"observations": [], "next_cursor": None})


def test_a_span_may_be_asked_in_any_zone() -> None:
    """Times carry their zone; the span is one of instants."""
    pages = _pages(_app(), since="2013-01-01T01:00:00+01:00", until="2012-12-31T20:00:00-05:00")

    assert _numbers(pages) == [0, 1]


def test_a_cursor_outlives_the_service() -> None:
    """Paging goes on where it stood after the service was started again."""
    first = _ask(_app(), **SPAN, limit="40").json()
    rest = _ask(_app(), **SPAN, limit="40", cursor=first["next_cursor"]).json()

    assert _numbers([first, rest]) == list(range(48))


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"until": SPAN["until"]}, "'since' is missing"),
        ({"since": SPAN["since"]}, "'until' is missing"),
        ({**SPAN, "since": "yesterday"}, "'since' is 'yesterday'"),
        ({**SPAN, "since": "2013-01-01T00:00:00"}, "without a zone"),
        ({**SPAN, "since": "2013-02-30T00:00:00Z"}, "'since' is '2013-02-30T00:00:00Z'"),
        ({"since": SPAN["until"], "until": SPAN["since"]}, "'since' must come before 'until'"),
        ({"since": SPAN["since"], "until": SPAN["since"]}, "'since' must come before 'until'"),
        ({**SPAN, "limit": "0"}, "from 1 to 1000"),
        ({**SPAN, "limit": "1001"}, "from 1 to 1000"),
        ({**SPAN, "limit": "ten"}, "'limit' is 'ten'"),
        ({**SPAN, "limit": "9" * 5000}, "from 1 to 1000"),
        ({**SPAN, "cursor": "after-60"}, "'cursor' is 'after-60'"),
        ({**SPAN, "cursor": "elsewhere"}, "next_cursor"),
        ({**SPAN, "cursor": ""}, "next_cursor"),
        ({**SPAN, "sicne": "x"}, "Unknown parameter 'sicne'"),
    ],
)
def test_a_wrong_parameter_is_named(query: dict[str, str], problem: str) -> None:
    """The service says which parameter is wrong, and what it expected."""
    answer = _ask(_app(), **query)

    assert answer.status_code == 400
    assert problem in answer.json()["error"]


def test_an_unknown_path_is_an_error_in_json() -> None:
    """Errors of the framework look like all others."""
    answer = _ask(_app(), "/v2/observations")

    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


def test_now_and_then_the_service_is_busy_and_says_for_how_long() -> None:
    """After a 429 it answers nobody until the seconds of Retry-After are over, then the same request succeeds."""
    clock = Clock()
    app = _app(api.Moods(first_busy=2, busy_every=100, retry_after_seconds=3, failure_every=0), clock)
    before, busy = _ask(app, **SPAN), _ask(app, **SPAN)
    clock.now = 2.9
    too_early = _ask(app, **SPAN)
    clock.now = 3.0
    after = _ask(app, **SPAN)

    assert [answer.status_code for answer in (before, busy, too_early, after)] == [200, 429, 429, 200]
    assert busy.headers["Retry-After"] == too_early.headers["Retry-After"] == "3"


def test_now_and_then_the_service_fails_and_then_answers() -> None:
    """Failures come at known requests, with each status in turn, and the next request succeeds."""
    app = _app(api.Moods(first_failure=2, failure_every=3, failures=(503, 500), busy_every=0))

    assert [_ask(app, **SPAN).status_code for _ in range(9)] == [200, 503, 200, 200, 500, 200, 200, 503, 200]


def test_requests_that_are_refused_anyway_do_not_count() -> None:
    """A missing key or a wrong parameter does not bring the next failure nearer."""
    app = _app(api.Moods(first_failure=2, failure_every=100, busy_every=0))
    statuses = [_ask(app, **SPAN).status_code, _ask(app, key=None).status_code, _ask(app).status_code, _ask(app, **SPAN).status_code]

    assert statuses == [200, 401, 400, 503]


def test_by_default_five_months_of_days_meet_a_handful_of_refusals() -> None:
    """151 requests, each asked again until it is answered, are refused five times, twice with a second to wait."""
    clock, statuses = Clock(), []
    app = _app(api.Moods(), clock)
    for _ in range(151):
        while (status := _ask(app, **SPAN, limit="1").status_code) != 200:
            statuses.append(status)
            clock.now += 1

    assert statuses == [429, 503, 500, 429, 502]
