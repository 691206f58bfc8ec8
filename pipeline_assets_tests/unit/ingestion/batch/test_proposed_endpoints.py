"""Proposals of endpoints: where the rows are, how the pages go on, who asks, and that the rows keep what was proposed of them."""

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.core.errors import ProposalRefused, SettingsMissing, SourceRefused
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.proposals.endpoints import propose_endpoint
from pipeline_assets.ingestion.batch.rest import open_endpoint
from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.spec.rest import (
    ApiKey,
    BasicLogin,
    BearerToken,
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
from pipeline_assets.spec.sources import RestEndpoint, Source
from pipeline_assets_tests.connector_configs import settings_with
from pipeline_assets_tests.proposed_modules import formatted, lint, problems_of, source
from pipeline_assets_tests.readings import FIRST, SERVICE, Answer, Api, reading, serving

SETTINGS = settings_with("shop")
ROWS = [
    json.loads(json_bytes(reading(read_at=reading()["read_at"] + timedelta(minutes=number), sensor=f"s{number % 3}")))
    for number in range(9)
]
MOST = 4


def answered(content: object, **headers: str) -> Answer:
    """An answer of JSON."""
    return 200, headers, json.dumps(content, default=datetime.isoformat).encode()


def propose(settings: Settings, path: str, **asked: Any) -> tuple[Source, str]:
    """The source that is proposed, and its module; it is in order, and laid out as it should be."""
    given = {"records": None, "day": FIRST, "rows": 1_000, **asked}
    proposal, module = propose_endpoint(settings, SERVICE, path, None, **given)
    found = source(module)
    assert found.contract == proposal.contract
    assert problems_of(found) == []
    assert (formatted(module), lint(module)) == (module, "All checks passed!\n")
    return found, module


def read(settings: Settings, found: Source, day: date | None) -> tuple[int, list[str]]:
    """How many records keep the contract, and what is wrong with the others, by the reader of the batches."""
    assert isinstance(found.origin, RestEndpoint)
    with open_endpoint(settings, found.contract, found.origin) as reader:
        parts = list(reader(day))
    return sum(part.good.num_rows for part in parts), [row.fault for part in parts for row in part.broken]


def numbered(_: Api, query: dict[str, str]) -> Answer:
    """Pages by number, in an envelope."""
    start = (int(query["page"]) - 1) * MOST
    return answered({"meta": {"page": query["page"]}, "data": {"items": ROWS[start : start + MOST]}})


def from_offset(_: Api, query: dict[str, str]) -> Answer:
    """The answer itself is the list, from an offset on."""
    start = int(query["skip"])
    return answered(ROWS[start : start + MOST])


def linked_in_header(_: Api, query: dict[str, str]) -> Answer:
    """The next page is in a header."""
    start = int(query.get("from", "0"))
    rest = {"Link": f'</v1/readings?from={start + MOST}>; rel="next"'} if start + MOST < len(ROWS) else {}
    return answered({"rows": ROWS[start : start + MOST]}, **rest)


def linked_in_body(_: Api, query: dict[str, str]) -> Answer:
    """The next page is a URL in the answer."""
    start = int(query.get("from", "0"))
    return answered({"rows": ROWS[start : start + MOST], "links": {"next": f"?from={start + MOST}" if start + MOST < len(ROWS) else None}})


def with_cursor(_: Api, query: dict[str, str]) -> Answer:
    """The next page has a cursor."""
    start = int(query.get("cursor", "0"))
    return answered({"rows": ROWS[start : start + MOST], "meta": {"next_cursor": start + MOST if start + MOST < len(ROWS) else None}})


@pytest.mark.parametrize(
    ("answer", "path", "pages", "records"),
    [
        (numbered, "/v1/readings?page=1&per_page=4", NumberedPages(), "data.items"),
        (from_offset, "/v1/readings?skip=0", OffsetPages(parameter="skip", size=None), ""),
        (linked_in_header, "/v1/readings?limit=4", LinkedPages(), "rows"),
        (linked_in_body, "/v1/readings", LinkedPages(field="links.next", size=None), "rows"),
        (with_cursor, "/v1/readings?limit=4&expand=a%20b", CursorPages(field="meta.next_cursor"), "rows"),
        (lambda *_: answered({"rows": ROWS}), "/v1/readings", OnePage(), "rows"),
    ],
    ids=["numbered", "offset", "link header", "next url", "cursor", "one page"],
)
def test_records_and_pages_are_found_in_the_first_answer(
    answer: Callable[[Api, dict[str, str]], Answer], path: str, pages: Pages, records: str
) -> None:
    """One request is made; read as it was proposed the endpoint gives all rows, and each keeps the contract."""
    with serving(SETTINGS, answer) as (api, settings):
        found, _ = propose(settings, path)
        assert len(api.asked) == 1
        assert read(settings, found, None) == (len(ROWS), [])

    assert isinstance(found.origin, RestEndpoint)
    assert (found.origin.path, found.origin.pages, found.origin.records, found.load) == ("/v1/readings", pages, records, "snapshot")
    assert found.origin.query == ((("expand", "a b"),) if "expand" in path else ())
    assert found.origin.page_size == (4 if "=4" in path else 1000)
    assert (found.contract.name, found.contract.primary_key) == ("readings", ("sensor", "read_at"))


def test_an_endpoint_that_takes_times_is_asked_for_a_day() -> None:
    """Templates stand in the proposal as they were given, and the load is daily."""
    with serving(SETTINGS, lambda *_: answered({"rows": ROWS})) as (api, settings):
        found, module = propose(settings, "/v1/{since:%Y}/readings?from={since:%Y-%m-%d}&before={until:epoch}&q=%7B", records="rows")
        assert read(settings, found, FIRST) == (len(ROWS), [])

    assert api.asked[0] == {"from": "2013-05-01", "before": "1367452800", "q": "{"}
    assert api.paths[0] == "/v1/2013/readings"
    assert isinstance(found.origin, RestEndpoint)
    assert found.origin.query == (("from", "{since:%Y-%m-%d}"), ("before", "{until:epoch}"), ("q", "{{"))
    assert (found.load, found.contract.name) == ("daily", "readings")
    assert "# each row happened on the day that was asked for, by read_at" in module


@pytest.mark.parametrize(
    ("given", "login", "header"),
    [
        ({"api_key": SecretStr("k")}, ApiKey(), {"x-api-key": "k"}),
        ({"token": SecretStr("t")}, BearerToken(), {"authorization": "Bearer t"}),
        ({"user": "me", "password": SecretStr("p")}, BasicLogin(), {"authorization": "Basic bWU6cA=="}),
        ({}, NoLogin(), {}),
    ],
)
def test_who_asks_follows_from_the_settings(given: Mapping[str, Any], login: Login, header: Mapping[str, str]) -> None:
    """The login is the one that the settings have all credentials for, and no credential stands in the text."""
    with serving(SETTINGS, lambda *_: answered(ROWS)) as (api, settings):
        service = settings.services[SERVICE].model_copy(update={"api_key": None, **given})
        found, _ = propose(settings.model_copy(update={"services": {SERVICE: service}}), "/v1/readings")

    assert isinstance(found.origin, RestEndpoint)
    assert found.origin.login == login
    assert api.headers[0].items() >= header.items()


def test_client_credentials_go_before_a_key() -> None:
    """A service with both is asked with a token."""
    tokens = lambda *_: answered({"access_token": "abc", "expires_in": 60, "rows": ROWS})  # noqa: E731 - one server gives both answers
    with serving(SETTINGS, tokens) as (api, settings):
        update = {"client_id": "me", "client_secret": SecretStr("s"), "token_url": f"{settings.services[SERVICE].url}/token"}
        service = settings.services[SERVICE].model_copy(update=update)
        found, _ = propose(settings.model_copy(update={"services": {SERVICE: service}}), "/v1/readings")

    assert isinstance(found.origin, RestEndpoint)
    assert found.origin.login == ClientCredentials()
    assert api.headers[-1]["authorization"] == "Bearer abc"


@pytest.mark.parametrize(
    ("content", "path", "expected"),
    [
        ({"a": [{"b": 1}], "c": [{"d": 1}]}, "/v1", r"not one list of objects \(it has: a, c\); say with --records"),
        ({"a": 1}, "/v1", r"not one list of objects \(it has: none\)"),
        ([], "/v1", r'its answer has no row at ""; ask for another day or page'),
        ([{"a": {}}], "/v1", r'no column can be a field \("a": objects'),
        ([{"a": 1}], "v1", r"its path must begin with /"),
        ([{"a": 1}], "/v1?from={day}", r"its path must begin with / and may take \{since\} and \{until\} alone"),
        ([{"a": 1}], "/v1?from={since", r"is no template"),
    ],
)
def test_what_nothing_can_be_proposed_of_is_refused(content: object, path: str, expected: str) -> None:
    """The error says what was answered, or what is wrong with the path."""
    with serving(SETTINGS, lambda *_: answered(content)) as (_, settings), pytest.raises(ProposalRefused, match=expected):
        propose(settings, path)


def test_errors_are_those_of_the_reader() -> None:
    """A refusal, and an answer that is no JSON, name the source; a service without settings is named by its variable."""
    with serving(SETTINGS, lambda *_: (404, {}, b"no such thing")) as (_, settings), pytest.raises(SourceRefused, match="answered 404"):
        propose(settings, "/v1/readings")
    with serving(SETTINGS, lambda *_: (200, {}, b"<html>")) as (_, settings), pytest.raises(ProposalRefused, match="it answered no JSON"):
        propose(settings, "/v1/readings")
    with pytest.raises(SettingsMissing, match="PIPELINE_SERVICES__READINGS__URL"):
        propose(SETTINGS, "/v1/readings")


def test_the_command_asks_with_the_settings_of_the_service_alone() -> None:
    """No other setting is needed."""
    with serving(SETTINGS, lambda *_: answered({"data": {"items": ROWS}})) as (api, settings):
        environment = {"PIPELINE_SERVICES__READINGS__URL": settings.services[SERVICE].url, "PIPELINE_SERVICES__READINGS__API_KEY": "key"}
        line = [
            "sources",
            "propose",
            "endpoint",
            SERVICE,
            "/v1/readings?day={since:%Y-%m-%d}",
            "--records",
            "data.items",
            "--day",
            "2013-05-01",
        ]
        ended = CliRunner().invoke(app, line, env=environment)

    assert ended.exit_code == 0, ended.output
    assert source(ended.stdout).load == "daily"
    assert api.asked == [{"day": "2013-05-01"}]
