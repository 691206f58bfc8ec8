"""Days of a REST API, page after page: patient with a server that is busy or ill, quick to give up on one that refuses.

A busy server (429) is asked again when it says (`Retry-After`), one that fails (5xx), cuts the line or is too slow after a growing, random
pause, and only for so long. Every record keeps the bytes that it had in its page.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import TYPE_CHECKING

from pipeline_assets.core.errors import SettingsMissing, SourceRefused
from pipeline_assets.core.http_errors import http_errors, is_transient, shown
from pipeline_assets.core.settings import PREFIX, RestService, Settings
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import RestEndpoint

if TYPE_CHECKING:
    import httpx
    from stamina.instrumentation import RetryDetails

logger = logging.getLogger(__name__)

API_KEY = "X-Api-Key"
# Bytes that are not UTF-8 come back as they were, so that only the record they stand in is broken.
KEEP_BYTES = "surrogateescape"
DECODER = json.JSONDecoder()


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long one page is waited for: each request, all attempts together, and the pauses between them, in seconds."""

    request_seconds: float = 10.0
    page_seconds: float = 120.0
    attempts: int = 12
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 10.0
    jitter_seconds: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Page:
    """The records of one answer as the bytes they came in, and the cursor of the next page; None on the last."""

    records: list[bytes]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True)
class ApiReader:
    """Reads days of an endpoint; several threads may use one at a time."""

    contract: Contract
    origin: RestEndpoint
    client: "httpx.Client"
    patience: Patience

    def __call__(self, day: date | None) -> Iterator[Checked]:
        """The records of a day (None: all), checked, page after page.

        Raises SourceUnavailable when patience has run out, SourceRefused for any answer that asking again would not change.
        """
        position = 0
        for page in self.pages(day):
            yield check_json_rows(self.contract, page.records, first_position=position, day=day)
            position += len(page.records)

    def pages(self, day: date | None) -> Iterator[Page]:
        """The pages of a day (None: of all there is), in the order of their cursors."""
        asked: dict[str, str] = {"limit": str(self.origin.page_size)} | ({} if day is None else _span(day))
        seen: set[str] = set()
        while True:
            page = self._page(asked)
            yield page
            if page.next_cursor is None:
                return
            if page.next_cursor in seen:
                raise SourceRefused(self.contract.name, f"it gave the cursor '{page.next_cursor}' twice, so its pages would never end")
            seen.add(page.next_cursor)
            asked["cursor"] = page.next_cursor

    def _page(self, asked: dict[str, str]) -> Page:
        import stamina

        patience, deadline = self.patience, monotonic() + self.patience.page_seconds
        retrying = stamina.retry(
            on=lambda error: _pause(error, deadline - monotonic()),
            attempts=patience.attempts,
            timeout=patience.page_seconds,
            wait_initial=patience.first_pause_seconds,
            wait_max=patience.longest_pause_seconds,
            wait_jitter=patience.jitter_seconds,
        )
        with http_errors(self.contract.name):
            return retrying(self._ask)(asked)

    def _ask(self, asked: dict[str, str]) -> Page:
        answer = self.client.get(self.origin.path, params=asked)
        if not answer.is_success:
            answer.raise_for_status()
        return read_page(self.contract.name, answer.content, self.origin.records)


@contextmanager
def open_endpoint(settings: Settings, contract: Contract, origin: RestEndpoint, patience: Patience | None = None) -> Iterator[ApiReader]:
    """An endpoint with its connections, which are closed when the block ends; raises SettingsMissing without URL and key."""
    import httpx
    from stamina.instrumentation import set_on_retry_hooks

    set_on_retry_hooks([_log_retry])
    patience = patience or Patience()
    service = _service(settings, origin)
    headers = {API_KEY: service.api_key.get_secret_value(), "Accept": "application/json"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=patience.request_seconds) as client:
        yield ApiReader(contract=contract, origin=origin, client=client, patience=patience)


def read_page(source: str, content: bytes, records: str) -> Page:
    """The page that an answer holds; raises SourceRefused if it is not an object with a list of these records and a cursor."""
    text = content.decode(errors=KEEP_BYTES)
    try:
        found = _fields(text, records)
    except (ValueError, RecursionError) as error:
        raise SourceRefused(source, f"it answered no page of JSON ({error}): {shown(text)}") from error
    rows, cursor = found.get(records), found.get("next_cursor")
    if not isinstance(rows, list) or not (cursor is None or isinstance(cursor, str)):
        raise SourceRefused(source, f"its page has no list '{records}', or a next_cursor that is no text: {shown(text)}")
    return Page(records=rows, next_cursor=cursor)


def _fields(text: str, records: str) -> dict[str, object]:
    """The fields of a JSON object, with each element of the list `records` as the bytes it was written in."""
    found: dict[str, object] = {}
    place = _expect(text, 0, "{")
    while text[place : place + 1] != "}":
        name, place = DECODER.raw_decode(text, place)
        place = _expect(text, place, ":")
        is_list = name == records and text[place : place + 1] == "["
        found[name], place = _elements(text, place) if is_list else DECODER.raw_decode(text, place)
        place = _next(text, place, "}")
    if _blank(text, place + 1) != len(text):
        raise ValueError(f"more text at character {place + 1}")
    return found


def _elements(text: str, place: int) -> tuple[list[bytes], int]:
    """The elements of the list that starts at `place`, and the place after it."""
    elements: list[bytes] = []
    place = _expect(text, place, "[")
    while text[place : place + 1] != "]":
        _, end = DECODER.raw_decode(text, place)
        elements.append(text[place:end].encode(errors=KEEP_BYTES))
        place = _next(text, end, "]")
    return elements, place + 1


def _next(text: str, place: int, end: str) -> int:
    """The place of the next element, or of `end`."""
    place = _blank(text, place)
    return place if text[place : place + 1] == end else _expect(text, place, ",")


def _expect(text: str, place: int, character: str) -> int:
    place = _blank(text, place)
    if text[place : place + 1] != character:
        raise ValueError(f"no '{character}' at character {place}")
    return _blank(text, place + 1)


def _blank(text: str, place: int) -> int:
    while text[place : place + 1] in {" ", "\n", "\r", "\t"}:
        place += 1
    return place


def _span(day: date) -> dict[str, str]:
    since = datetime.combine(day, time(), UTC)
    return {"since": since.isoformat(), "until": (since + timedelta(days=1)).isoformat()}


def _service(settings: Settings, origin: RestEndpoint) -> RestService:
    if origin.service not in settings.services:
        name = f"{PREFIX}SERVICES__{origin.service.upper()}"
        raise SettingsMissing([f"{name}__URL", f"{name}__API_KEY"])
    return settings.services[origin.service]


def _pause(error: Exception, seconds_left: float) -> bool | float:
    """Whether to ask again: no, after a pause of the usual kind, or after the seconds that the server asked for if there are so many."""
    import httpx

    if not isinstance(error, httpx.HTTPStatusError) or not is_transient(error):
        return is_transient(error)
    asked = _retry_after(error.response.headers.get("Retry-After"))
    if asked is None:
        return True
    return asked if asked < seconds_left else False


def _log_retry(details: "RetryDetails") -> None:
    logger.info("Asking again in %.2f s, after attempt %s: %s", details.wait_for, details.retry_num, details.caused_by)


def _retry_after(header: str | None) -> float | None:
    """The seconds that a `Retry-After` header asks to wait; it holds seconds or an HTTP date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    try:
        seconds = float(header) if header[:1].isdigit() else (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return max(0.0, seconds)
