"""Days of a REST API, page after page: patient with a server that is busy or ill, quick to give up on one that refuses.

A busy server (429) is asked again when it says (`Retry-After`), one that fails (5xx), cuts the line or is too slow after a growing, random
pause, and only for so long. Every record keeps the bytes that it had in its page. Pages without end come to one, and are refused.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from email.utils import mktime_tz, parsedate_tz
from time import monotonic
from typing import TYPE_CHECKING

from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.http_errors import http_errors, is_transient
from pipeline_assets.core.http_limits import ACCEPTED, TooLarge, bind, unpacked, until, whole
from pipeline_assets.core.settings import ServiceSettings
from pipeline_assets.core.waits import pause
from pipeline_assets.ingestion.batch.logins import Pace, login_of, service_of, verification
from pipeline_assets.ingestion.batch.pages import Page, read_page
from pipeline_assets.ingestion.batch.requests import Asked, Since, first_request, next_request
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.rest import CursorPages, LinkedPages, NumberedPages, OffsetPages
from pipeline_assets.spec.sources import RestEndpoint

if TYPE_CHECKING:
    import httpx
    from stamina.instrumentation import RetryDetails

logger = logging.getLogger(__name__)

# What makes a reader give up that would else read without end; generous, as APIs that filter may well give some empty pages.
IDLE_PAGES = 100
SECONDS = re.compile(r"\d{1,9}(?:\.\d+)?", re.ASCII)


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
class Answer:
    """The bytes of an answer, and the URL that its header `Link` names as the next one."""

    content: bytes
    link: str | None


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
        return self._checked(self.pages(day), 0, day)

    def since(self, since: Since | None, first_position: int) -> Iterator[Checked]:
        """The records from a cursor on (None: all), checked, page after page; errors as those of a day."""
        return self._checked(self.pages(since), first_position, None)

    def _checked(self, pages: Iterator[Page], position: int, day: date | None) -> Iterator[Checked]:
        for page in pages:
            yield check_json_rows(self.contract, page.records, first_position=position, day=day)
            position += len(page.records)

    def pages(self, wanted: date | Since | None) -> Iterator[Page]:
        """The pages of a day, or of what came since (None: of all there is), one after the other.

        Raises SourceRefused where they do not end: a page is named twice, too many in a row bring nothing new, or there are too many.
        """
        source, asked, seen = self.contract.name, first_request(self.origin, wanted), set[str]()
        before, idle = set[bytes](), 0
        for _ in range(self.origin.max_pages):
            page = self._page(asked)
            yield page
            following = next_request(source, self.origin, asked, str(self.client.base_url), page)
            if following is None:
                return
            if page.next_cursor in seen:
                named = page.next_cursor if following.query is not None else following.shown
                raise SourceRefused(source, f"it gave the cursor '{named}' twice, so its pages would never end")
            records = set(page.records)
            idle, before = (idle + 1 if records <= before else 0), records
            if idle == IDLE_PAGES:
                raise SourceRefused(source, f"{IDLE_PAGES} pages in a row had no record that the page before had not")
            if page.next_cursor is not None:
                seen.add(page.next_cursor)
            asked = following
        raise SourceRefused(source, f"it has more than {self.origin.max_pages} pages, the `max_pages` of its declaration")

    def first_answer(self, day: date | None) -> Answer | None:
        """What is answered to the request for the first page of a day (None: of all there is), as it is; None if that says `nothing`."""
        return self._answer(first_request(self.origin, day))

    def _page(self, asked: Asked) -> Page:
        source, origin, answer = self.contract.name, self.origin, self._answer(asked)
        if answer is None:
            return Page(records=[], next_cursor=None)
        field = origin.pages.field if isinstance(origin.pages, CursorPages | LinkedPages) else None
        page = read_page(source, answer.content, origin.records, field, origin.error)
        is_in_header = isinstance(origin.pages, LinkedPages) and field is None
        return replace(page, next_cursor=answer.link) if is_in_header else page

    def _answer(self, asked: Asked) -> Answer | None:
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
        limit = f"a page takes longer than {patience.page_seconds:g} s, the `page_seconds` of its declaration"
        with http_errors(self.contract.name), until(deadline, limit):
            return retrying(self._ask)(asked)

    def _ask(self, asked: Asked) -> Answer | None:
        origin = self.origin
        with self.client.stream("GET" if asked.body is None else "POST", asked.url, params=asked.query, json=asked.body) as answer:
            content = self._content(answer)
        # A cursor or a link promised more: what means nothing there would end the day in its middle.
        if answer.status_code in origin.nothing and (asked.is_first or isinstance(origin.pages, NumberedPages | OffsetPages)):
            return None
        if answer.has_redirect_location:
            raise SourceRefused(self.contract.name, f"it redirects to {_place(answer)}, and redirects are not followed")
        if not answer.is_success:
            whole(answer, content).raise_for_status()
        return Answer(content=content, link=_next_link(answer))

    def _content(self, answer: "httpx.Response") -> bytes:
        """The bytes of an answer, unpacked; raises SourceRefused for too many of them."""
        source, most = self.contract.name, self.origin.max_page_bytes
        try:
            return unpacked(answer, most)
        except TooLarge as error:
            problem = f"its page has more than {most:,} bytes unpacked, the `max_page_bytes` of its declaration; lower `page_size`"
            raise SourceRefused(source, problem) from error


@contextmanager
def open_endpoint(
    settings: ServiceSettings, contract: Contract, origin: RestEndpoint, patience: Patience | None = None
) -> Iterator[ApiReader]:
    """An endpoint with its connections, which are closed when the block ends; raises SettingsMissing without URL and credentials."""
    import httpx
    from stamina.instrumentation import set_on_retry_hooks

    set_on_retry_hooks([_log_retry])
    patience = patience or Patience(page_seconds=origin.page_seconds)
    service = service_of(settings, origin)
    paces = [] if origin.requests_per_second is None else [Pace(1 / origin.requests_per_second)]
    # httpx logs the URL of each request, which may have a key in its query.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with httpx.Client(
        base_url=service.url,
        headers={"Accept": "application/json", **ACCEPTED},
        event_hooks={"request": [*paces, login_of(origin.login, service)]},
        verify=verification(origin, service),
        timeout=patience.request_seconds,
    ) as client:
        bind(client)
        yield ApiReader(contract=contract, origin=origin, client=client, patience=patience)


def _pause(error: Exception, seconds_left: float) -> bool | float:
    """Whether to ask again: no, after a pause of the usual kind, or after the seconds that the server asked for if there are so many."""
    import httpx

    if not isinstance(error, httpx.HTTPStatusError) or not is_transient(error):
        return is_transient(error)
    asked = _retry_after(error.response.headers.get("Retry-After"))
    if asked is None:
        return True
    if asked >= seconds_left:
        return False
    # Waited for here, where an order to stop ends it.
    pause(asked)
    return 0.0


def _log_retry(details: "RetryDetails") -> None:
    logger.info("Asking again in %.2f s, after attempt %s: %s", details.wait_for, details.retry_num, details.caused_by)


def _next_link(answer: "httpx.Response") -> str | None:
    """The URL of the next page in the header `Link`, whose relations are words in any case (RFC 8288, 3.3)."""
    return next((link.get("url") for relations, link in answer.links.items() if "next" in str(relations).lower().split()), None)


def _place(answer: "httpx.Response") -> str:
    """Where an answer redirects to, without what may be secret."""
    target = answer.url.join(answer.headers["Location"])
    return f"{target.scheme}://{target.netloc.decode(errors='replace')}{target.path}"


def _retry_after(header: str | None) -> float | None:
    """The seconds that a `Retry-After` header asks to wait; None if it cannot be read.

    It holds seconds or a date in one of HTTP's three forms, all of them GMT (RFC 9110, 5.6.7 and 10.2.3).
    """
    if header is None:
        return None
    if SECONDS.fullmatch(header.strip()):
        return float(header)
    found = parsedate_tz(header)
    try:
        return None if found is None else max(0.0, mktime_tz(found) - datetime.now(UTC).timestamp())
    except (ValueError, OverflowError):
        return None
