"""What an endpoint is asked: for the first page of a day, and after each page for the next one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from string import Formatter
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.ingestion.batch.pages import Page
from pipeline_assets.spec.rest import CursorPages, LinkedPages, NumberedPages, OffsetPages, OnePage
from pipeline_assets.spec.sources import RestEndpoint

V = TypeVar("V", str, str | int)
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Since:
    """Where a cursor is: records from it on are asked for."""

    value: datetime | int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request: its path, and its query; or the URL of a page that an answer named, which has a query of its own (None).

    fields: what a body has, by place; None where there is no body, and the request is a GET.
    """

    url: str
    query: Mapping[str, str] | None
    fields: Mapping[str, str | int] | None = None
    is_first: bool = True

    @property
    def shown(self) -> str:
        """What is reported of it: of a URL the path alone, as keys may stand in its query."""
        return urlsplit(self.url).path

    @property
    def body(self) -> dict[str, Any] | None:
        """The body as JSON has it."""
        if self.fields is None:
            return None
        body: dict[str, Any] = {}
        for place, value in self.fields.items():
            *outer, name = place.split(".")
            inner = body
            for each in outer:
                inner = inner.setdefault(each, {})
            inner[name] = value
        return body


class _Times(Formatter):
    """Fills times into a template, in the formats of `strftime` and as seconds (`epoch`) or milliseconds (`epoch_ms`) since 1970.

    Of a cursor that is a whole number, that number.
    """

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, int):
            return str(value)
        if format_spec in {"epoch", "epoch_ms"}:
            return str(int(value.timestamp()) * (1000 if format_spec == "epoch_ms" else 1))
        return str(value.strftime(format_spec) if format_spec else value.isoformat())


def first_request(origin: RestEndpoint, asked: date | Since | None) -> Asked:
    """The request for the first page of a day, or of what came since (None: of all there is, without the parameters that name a time)."""
    times = _times(asked)
    url, query = _Times().vformat(origin.path, (), times), _filled(origin.query, times)
    paging = {**_size(origin), **_start(origin)}
    if origin.body is None:
        return Asked(url=url, query={**query, **{name: str(value) for name, value in paging.items()}})
    return Asked(url=url, query=query, fields={**_filled(origin.body, times), **paging})


def _times(asked: date | Since | None) -> Mapping[str, datetime | int]:
    if asked is None:
        return {}
    if isinstance(asked, Since):
        return {"since": asked.value}
    since = datetime.combine(asked, time(), UTC)
    return {"since": since, "until": since + timedelta(days=1)}


def _filled(templates: Iterable[tuple[str, V]], times: Mapping[str, datetime | int]) -> dict[str, V]:
    """Each value with its times, or as it is where it is no text; without times those that take none."""
    fixed = [(name, value) for name, value in templates if times or not isinstance(value, str) or not names_in(value)]
    return {name: _Times().vformat(value, (), times) if isinstance(value, str) else value for name, value in fixed}


def names_in(template: str) -> set[str]:
    """The names of the values that a template takes."""
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def _size(origin: RestEndpoint) -> dict[str, int]:
    size = None if isinstance(origin.pages, OnePage) else origin.pages.size
    return {} if size is None else {size: origin.page_size}


def _start(origin: RestEndpoint) -> dict[str, int]:
    match origin.pages:
        case NumberedPages(parameter=parameter, first=first):
            return {parameter: first}
        case OffsetPages(parameter=parameter):
            return {parameter: 0}
    return {}


def next_request(source: str, origin: RestEndpoint, asked: Asked, base_url: str, page: Page) -> Asked | None:
    """The request for the page after this one; None where it was the last. Raises SourceRefused for a link to another server."""
    match origin.pages:
        case CursorPages(parameter=parameter):
            return None if page.next_cursor is None else _with(asked, parameter, page.next_cursor)
        case NumberedPages(parameter=parameter):
            return _with(asked, parameter, _number(asked, parameter) + 1) if page.records else None
        case OffsetPages(parameter=parameter):
            return _with(asked, parameter, _number(asked, parameter) + len(page.records)) if page.records else None
        case LinkedPages():
            return None if page.next_cursor is None else _linked(source, asked, base_url, page.next_cursor)
        case OnePage():
            return None


def _with(asked: Asked, parameter: str, value: str | int) -> Asked:
    """The same with another value of a parameter of the body, if there is one, else of the query."""
    if asked.fields is not None:
        return replace(asked, fields={**asked.fields, parameter: value}, is_first=False)
    return replace(asked, query={**(asked.query or {}), parameter: str(value)}, is_first=False)


def _number(asked: Asked, parameter: str) -> int:
    return int(((asked.query if asked.fields is None else asked.fields) or {})[parameter])


def _linked(source: str, asked: Asked, base_url: str, link: str) -> Asked:
    """The request of a link, which may be relative to the page that has it; the credentials go to the declared server alone."""
    before = base_url.rstrip("/") + "/" + asked.url.lstrip("/") if asked.query is not None else asked.url
    try:
        url = urljoin(before, link)
    except ValueError:
        url = link
    place, declared = _server(url), _server(base_url)
    if place != declared:
        raise SourceRefused(source, f"its next page is at {place}, and the declared server is {declared}")
    return replace(asked, url=url, query=None, is_first=False)


def _server(url: str) -> str:
    """Scheme, host and port of a URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "no URL"
    return f"{parts.scheme}://{parts.hostname}:{port or DEFAULT_PORTS.get(parts.scheme)}"
