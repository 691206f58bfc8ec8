"""The declaration of an endpoint of a REST API, from the first answer that it gives: where its rows are, and how its pages may go on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any
from urllib.parse import unquote_plus

from pipeline_assets.core.errors import ProposalRefused, SettingsMissing
from pipeline_assets.core.setting_values import RestService
from pipeline_assets.core.settings import PREFIX, ServiceSettings
from pipeline_assets.ingestion.batch.pages import KEEP_BYTES, read_page
from pipeline_assets.ingestion.batch.requests import names_in
from pipeline_assets.ingestion.batch.rest import Answer, open_endpoint
from pipeline_assets.ingestion.sources.proposals.code import Noted, call_of, text
from pipeline_assets.ingestion.sources.proposals.module import module_text
from pipeline_assets.ingestion.sources.proposals.proposal import Proposal, are_within, name_of, proposed
from pipeline_assets.ingestion.sources.proposals.samples import Sample, json_columns, nameless
from pipeline_assets.spec.rest import (
    ApiKey,
    BasicLogin,
    BearerToken,
    ClientCertificate,
    ClientCredentials,
    CursorPages,
    LinkedPages,
    Login,
    NoLogin,
    NumberedPages,
    OffsetPages,
    OnePage,
    Pages,
)
from pipeline_assets.spec.sources import RestEndpoint

# What APIs call the parameters and members by which their pages are asked for; those of cursors with the parameter that takes one.
SIZES = ("limit", "per_page", "page_size", "pageSize", "perPage", "count", "size", "first")
NUMBERS, OFFSETS = ("page", "page_number", "pageNumber"), ("offset", "skip", "start")
CURSORS = {
    "next_cursor": "cursor", "nextCursor": "cursor", "next_page_token": "page_token", "nextPageToken": "pageToken", "cursor": "cursor",
    "after": "after", "end_cursor": "after", "endCursor": "after", "next_token": "next_token", "nextToken": "nextToken",
    "continuation_token": "continuation_token", "scroll_id": "scroll_id",
}  # fmt: skip
LINKS = ("next", "next_url", "nextUrl", "next_page", "next_link", "nextLink", "href")
DEPTH = 4
TIMES = {"since", "until"}


def propose_endpoint(
    settings: ServiceSettings, service: str, path: str, name: str | None, *, records: str | None, day: date | None, rows: int
) -> tuple[Proposal, str]:
    """The proposal of an endpoint, and its module; at most so many rows of its first answer are read.

    path: below the URL of the service, with its query, as a declaration has them; where they take times, those of `day`. records: where in
    the answer the rows are (None: in its only list of objects). Raises SettingsMissing without URL and credentials, ProposalRefused where
    there are no rows, and what a reader of the endpoint raises.
    """
    place, _, query = path.partition("?")
    wanted = name or name_of(next((part for part in reversed(place.split("/")) if part and "{" not in part), service))
    if service not in settings.services:
        raise SettingsMissing([f"{PREFIX}SERVICES__{service}__URL".upper()])
    asked = RestEndpoint(
        service=service, path=place, records="", query=_pairs(query), pages=OnePage(), login=_login(settings.services[service])
    )
    is_daily = _takes_times(wanted, [place, *(value for _, value in asked.query)])
    answer = _answer(settings, wanted, asked, day if is_daily else None)
    found = _decoded(wanted, answer.content)
    at = records if records is not None else _records(wanted, found)
    origin = _paged(replace(asked, records=at), found, answer)
    sample = _sample(wanted, origin, answer, rows, [day] if is_daily and day is not None else [])
    return _declared(proposed(wanted, sample), origin, is_daily=is_daily, is_named=records is not None)


def _takes_times(name: str, templates: Sequence[str]) -> bool:
    """Whether what is asked for depends on the day; raises ProposalRefused for what is no path with templates."""
    try:
        taken = set().union(*map(names_in, templates))
    except ValueError as error:
        raise ProposalRefused(name, f"its path or query is no template ({error}); double the braces that begin none") from error
    if not templates[0].startswith("/") or taken - TIMES:
        raise ProposalRefused(name, "its path must begin with / and may take {since} and {until} alone, such as /v1/orders?from={since}")
    return bool(taken)


def _answer(settings: ServiceSettings, name: str, asked: RestEndpoint, day: date | None) -> Answer:
    with open_endpoint(settings, replace(nameless(), name=name), asked) as reader:
        answer = reader.first_answer(day)
    if answer is None:
        raise ProposalRefused(name, "its answer says that there are no rows")
    return answer


def _sample(name: str, origin: RestEndpoint, answer: Answer, rows: int, days: Sequence[date]) -> Sample:
    page = read_page(name, answer.content, origin.records)
    if not page.records:
        raise ProposalRefused(name, f"its answer has no row at {text(origin.records)}; ask for another day or page")
    read = json_columns(page.records[:rows])
    looked = min(rows, len(page.records))
    return Sample(
        columns=read.columns,
        rows=len(read.kept),
        unreadable=looked - len(read.kept),
        looked_at=f"{looked:,} of {len(page.records):,} rows of one answer of {text(origin.path)} of service {text(origin.service)}",
        days=[*days] * len(read.kept),
        remarks=read.remarks,
    )


def _declared(proposal: Proposal, origin: RestEndpoint, *, is_daily: bool, is_named: bool) -> tuple[Proposal, str]:
    comments = {"pages": [_why(origin.pages)], "login": ["guess: the settings have what it needs"]}
    if not is_named:
        comments["records"] = ["guess: the only list of objects in the answer"]
    load = Noted(value="snapshot", comments=["guess: path and query take no times ({since}, {until})"])
    if is_daily and (not proposal.sample.days or are_within(proposal, proposal.sample.days)):
        load = Noted(value="daily", comments=[f"each row happened on the day that was asked for, by {proposal.contract.event_at}"])
    elif is_daily:
        load = Noted(value="daily", comments=["edit: rows of other days than the one that was asked for were seen, which would break"])
    return proposal, module_text(proposal, "Source", [("origin", call_of(origin, comments)), ("load", load)])


def _pairs(query: str) -> tuple[tuple[str, str], ...]:
    """The parameters of a query; a value that takes a time is a template, and stands as it is."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    return tuple((unquote_plus(name), value if "{" in value else _escaped(unquote_plus(value))) for name, _, value in pairs)


def _escaped(value: str) -> str:
    """A value as a template that takes nothing."""
    return value.replace("{", "{{").replace("}", "}}")


def _login(service: RestService) -> Login:
    """The login that the settings of a service have all credentials for."""
    if service.client_id is not None and service.client_secret is not None:
        return ClientCredentials()
    if service.token is not None:
        return BearerToken()
    if service.user is not None and service.password is not None:
        return BasicLogin()
    if service.api_key is not None:
        return ApiKey()
    return ClientCertificate() if service.certificate is not None else NoLogin()


def _decoded(name: str, content: bytes) -> object:
    try:
        return json.loads(content.decode(errors=KEEP_BYTES).removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ProposalRefused(name, f"it answered no JSON ({error})") from error


def _records(name: str, found: object) -> str:
    """Where the rows are: in the answer itself, or in the only list of objects in it."""
    if isinstance(found, list):
        return ""
    lists = [place for place, value in _members(found) if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) != 1:
        shown = ", ".join(lists) or "none"
        raise ProposalRefused(name, f"its answer has not one list of objects (it has: {shown}); say with --records where its rows are")
    return lists[0]


def _members(found: object, path: str = "", depth: int = DEPTH) -> Iterator[tuple[str, object]]:
    """What stands in an object, and in those in it, by its place; of a name with a dot nobody could say the place."""
    if isinstance(found, dict) and depth:
        for name, value in found.items():
            if name and "." not in name:
                yield f"{path}{name}", value
                yield from _members(value, f"{path}{name}.", depth - 1)


def _paged(asked: RestEndpoint, found: object, answer: Answer) -> RestEndpoint:
    """The endpoint with the way that its pages go on, by what was asked and what was answered; what asks for a page is no parameter."""
    given = dict(asked.query)
    size = next((name for name in SIZES if given.get(name, "").isdecimal() and int(given[name])), None)
    pages = _pages(given, dict(_members(found)), answer, size)
    own = {size, pages.parameter} if isinstance(pages, NumberedPages | OffsetPages | CursorPages) else {size}
    if isinstance(pages, OnePage):
        return asked
    query = tuple((name, value) for name, value in asked.query if name not in own)
    return replace(asked, query=query, pages=pages, page_size=int(given[size]) if size is not None else asked.page_size)


def _pages(given: Mapping[str, str], members: Mapping[str, Any], answer: Answer, size: str | None) -> Pages:
    for name in NUMBERS:
        if given.get(name, "").isdecimal():
            return NumberedPages(parameter=name, first=int(given[name]), size=size)
    for name in OFFSETS:
        if given.get(name, "").isdecimal():
            return OffsetPages(parameter=name, size=size)
    if answer.link is not None:
        return LinkedPages(size=size)
    for place, value in members.items():
        is_next = place.rpartition(".")[2] in LINKS and "next" in place
        if is_next and isinstance(value, str) and value.startswith(("http://", "https://", "/", "?")):
            return LinkedPages(field=place, size=size)
    for place in members:
        name = place.rpartition(".")[2]
        if name in CURSORS:
            return CursorPages(parameter=CURSORS[name], field=place, size=size)
    return OnePage()


def _why(pages: Pages) -> str:
    match pages:
        case NumberedPages() | OffsetPages():
            return "guess: by the parameters that were asked with"
        case CursorPages(field=field):
            return f"guess: the answer has {text(field)}; see which parameter takes it"
        case LinkedPages():
            return "guess: the answer has a link to the next page"
        case OnePage():
            return "guess: nothing in the answer leads to another page"
