"""The weather service: hourly observations in pages, behind an API key, with the moods of a real service.

    python -m simulator.nyc_flights.api --host 127.0.0.1 --port 8099 --api-key-file FILE

`GET /health` answers when it is up. `GET /v1/observations?since=&until=&limit=&cursor=` gives the observations of a half-open span of
`observed_at`, oldest first, as `{"observations": [...], "next_cursor": ...}`; the cursor is null on the last page, and stays good when
the service is started again. Errors are `{"error": "<sentence>"}`.
"""

import argparse
import hmac
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from simulator.nyc_flights import breakage, data

KEY_HEADER = "X-Api-Key"
PARAMETERS = ("since", "until", "limit", "cursor")
DEFAULT_LIMIT, MAX_LIMIT = 500, 1000
CURSOR = "after-"
MAX_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One record as the service shows it, and the time by which it is found (a broken record may not show one)."""

    observed_at: datetime
    record: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Moods:
    """When the service refuses a request that is in order, by the number of such requests since its start (the first is 1).

    Each list begins at `first_…` and goes on every `…_every` requests; asked once more, the service answers. After a 429 it answers nobody
    until `retry_after_seconds` are over.
    """

    first_busy: int = 5
    busy_every: int = 100
    retry_after_seconds: int = 1
    first_failure: int = 9
    failure_every: int = 50
    failures: tuple[int, ...] = (503, 500, 502)


CALM = Moods(first_busy=0, busy_every=0, first_failure=0, failure_every=0)


class Temper:
    """Counts requests and says which of them to refuse; `clock` gives seconds that never go back."""

    def __init__(self, moods: Moods, clock: Callable[[], float]) -> None:
        self._moods, self._clock = moods, clock
        self._requests = 0
        self._busy_until = clock()

    def refuse(self) -> None:
        """Raises HTTPException with 429 or a 5xx where this request is one to refuse."""
        moods = self._moods
        if self._clock() < self._busy_until:
            raise self._busy()
        self._requests += 1
        if _is_due(self._requests, moods.first_busy, moods.busy_every):
            self._busy_until = self._clock() + moods.retry_after_seconds
            raise self._busy()
        if _is_due(self._requests, moods.first_failure, moods.failure_every):
            turn = (self._requests - moods.first_failure) // moods.failure_every
            raise HTTPException(moods.failures[turn % len(moods.failures)], "The service has failed. Ask again.")

    def _busy(self) -> HTTPException:
        seconds = str(self._moods.retry_after_seconds)
        return HTTPException(429, f"Too many requests. Ask again in {seconds} s.", headers={"Retry-After": seconds})


def _is_due(number: int, first: int, every: int) -> bool:
    return every > 0 and number >= first and (number - first) % every == 0


def observations(*, broken: bool = True) -> list[Observation]:
    """All records of the year, oldest first: the real ones, and with `broken` those that break the contract."""
    real = [Observation(observed_at=row["observed_at"], record=_shown(row)) for row in data.weather().to_dicts()]
    days = breakage.days(data.FIRST_DAY, data.LAST_DAY) if broken else ()
    added = [_broken_observation(row) for day in days for row in breakage.broken_rows("weather", day)]
    return sorted(real + added, key=lambda observation: observation.observed_at)


def _broken_observation(row: breakage.BrokenRow) -> Observation:
    at = row.values["observed_at"]
    found_at = at if isinstance(at, datetime) else datetime.fromisoformat(str(at)).replace(tzinfo=UTC)
    return Observation(observed_at=found_at, record=_shown(row.values))


def _shown(row: Mapping[str, object]) -> dict[str, object]:
    """A row as JSON has it: times as text ending in Z."""
    return {name: f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else value for name, value in row.items()}


def build_app(
    api_key: str, shown: Sequence[Observation], moods: Moods | None = None, clock: Callable[[], float] = time.monotonic
) -> Starlette:
    """The service over these observations (oldest first), which refuses now and then as `moods` says."""
    temper = Temper(moods if moods is not None else Moods(), clock)
    times = [observation.observed_at for observation in shown]

    async def list_observations(request: Request) -> JSONResponse:
        _check_key(request, api_key)
        _check_names(request)
        since, until, limit = _instant(request, "since"), _instant(request, "until"), _limit(request)
        if since >= until:
            raise HTTPException(400, f"'since' must come before 'until', got {since.isoformat()} and {until.isoformat()}.")
        begin, end = bisect_left(times, since), bisect_left(times, until)
        start = _position(request, begin, end)
        temper.refuse()
        stop = min(start + limit, end)
        records = [dict(observation.record) for observation in shown[start:stop]]
        return JSONResponse({"observations": records, "next_cursor": f"{CURSOR}{stop}" if stop < end else None})

    routes = [Route("/health", _health), Route("/v1/observations", list_observations)]
    return Starlette(routes=routes, exception_handlers={HTTPException: _explain})


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "up"})


async def _explain(_: Request, error: Exception) -> JSONResponse:
    """An error as JSON. Starlette hands every HTTPException here, its own 404 and 405 too."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _check_key(request: Request, api_key: str) -> None:
    given = request.headers.get(KEY_HEADER, "")
    if not hmac.compare_digest(given.encode(), api_key.encode()):
        raise HTTPException(401, f"Header '{KEY_HEADER}' is missing or is not the key of this service.")


def _check_names(request: Request) -> None:
    unknown = sorted(set(request.query_params) - set(PARAMETERS))
    if unknown:
        raise HTTPException(400, f"Unknown parameter '{unknown[0]}'. Known: {', '.join(PARAMETERS)}.")


def _instant(request: Request, name: str) -> datetime:
    text = request.query_params.get(name)
    expected = "Expected an ISO 8601 time with a zone, like 2013-01-01T00:00:00Z (in a URL, '+' is written %2B)."
    if text is None:
        raise HTTPException(400, f"Parameter '{name}' is missing. {expected}")
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise HTTPException(400, f"Parameter '{name}' is '{text}'. {expected}") from error
    if instant.tzinfo is None:
        raise HTTPException(400, f"Parameter '{name}' is '{text}', without a zone. {expected}")
    return instant


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    limit = _whole_number(text)
    if limit is None or not 1 <= limit <= MAX_LIMIT:
        raise HTTPException(400, f"Parameter 'limit' is '{text}'. Expected a whole number from 1 to {MAX_LIMIT}.")
    return limit


def _position(request: Request, begin: int, end: int) -> int:
    """Where the page starts: at the cursor, which must lie in the span asked for, or else at the span's begin."""
    text = request.query_params.get("cursor")
    if text is None:
        return begin
    position = _whole_number(text.removeprefix(CURSOR)) if text.startswith(CURSOR) else None
    if position is None or not begin <= position < end:
        raise HTTPException(400, f"Parameter 'cursor' is '{text}'. Expected the 'next_cursor' of an answer for the same span.")
    return position


def _whole_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def main() -> None:
    """Serve until stopped; port 0 takes a free one, which the log names."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m simulator.nyc_flights.api", description="Serve the weather of 2013.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key-file", type=Path, required=True, help="file whose text is the key that requests must carry")
    asked = parser.parse_args()
    if not asked.api_key_file.is_file():
        parser.error(f"no file '{asked.api_key_file}' to read the API key from")
    api_key = asked.api_key_file.read_text().strip()
    if not api_key:
        parser.error(f"file '{asked.api_key_file}' holds no API key")
    uvicorn.run(build_app(api_key, observations()), host=asked.host, port=asked.port, access_log=False)


if __name__ == "__main__":
    main()
