"""REST APIs of other shapes: each kind of pages and of login, where records and times stand, and what means nothing."""

import json
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing, SourceRefused, SourceUnavailable
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.rest import Patience, open_endpoint
from pipeline_assets.ingestion.sources.originals import json_bytes
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
)
from pipeline_assets.spec.sources import RestEndpoint
from pipeline_assets_tests.connector_configs import settings_with
from pipeline_assets_tests.readings import FIRST, READINGS, SERVICE, Answer, Api, Row, reading, serving
from pipeline_assets_tests.tls import HOST, make_authority, make_certificate, server_context

QUICK = Patience(request_seconds=5, page_seconds=20, attempts=2, first_pause_seconds=0, longest_pause_seconds=0.01, jitter_seconds=0)
SETTINGS = settings_with("shop")
ROWS = [json.loads(json_bytes(reading(sensor=f"s{number}"))) for number in range(5)]
# What a server gives at most, however many are asked for.
MOST = 2


def shaped(**changed: Any) -> RestEndpoint:
    """The readings behind an API of another shape."""
    return replace(RestEndpoint(service=SERVICE, path="/v1/readings", records="rows", page_size=100), **changed)


def read(settings: Settings, origin: RestEndpoint, asked: date | None = FIRST) -> list[Row]:
    """The records of a day (None: of all there is)."""
    with open_endpoint(settings, READINGS, origin, QUICK) as reader:
        return [json.loads(record) for page in reader.pages(asked) for record in page.records]


def answered(content: object, **headers: str) -> Answer:
    """An answer of JSON."""
    return 200, headers, json.dumps(content, default=datetime.isoformat).encode()


def numbered(_: Api, query: dict[str, str]) -> Answer:
    """Pages by number, in an envelope, with fewer rows than were asked for."""
    start = (int(query["page"]) - 1) * MOST
    return answered({"meta": {"page": query["page"]}, "data": {"items": ROWS[start : start + MOST]}})


def from_offset(_: Api, query: dict[str, str]) -> Answer:
    """The answer itself is the list, from an offset on."""
    start = int(query["skip"])
    return answered(ROWS[start : start + MOST])


def linked_in_header(_: Api, query: dict[str, str]) -> Answer:
    """The next page is in a header, with a query of its own."""
    start = int(query.get("from", "0"))
    rest = (
        {"Link": f'</v1/readings?from={start + MOST}&q=a%2Bb>; rel="next", </v1/readings>; rel="first"'} if start + MOST < len(ROWS) else {}
    )
    return answered({"rows": ROWS[start : start + MOST]}, **rest)


def linked_in_other_words(_: Api, query: dict[str, str]) -> Answer:
    """The next page is in a header, by a relation in another case that is one of several (RFC 8288, 3.3)."""
    start = int(query.get("from", "0"))
    rest = {"Link": f'</v1/readings?from={start + MOST}>; rel="alternate Next"'} if start + MOST < len(ROWS) else {}
    return answered({"rows": ROWS[start : start + MOST]}, **rest)


def linked_in_body(_: Api, query: dict[str, str]) -> Answer:
    """The next page is a URL in the answer, relative to the one that was asked for."""
    start = int(query.get("from", "0"))
    link = f"?from={start + MOST}" if start + MOST < len(ROWS) else None
    return answered({"rows": ROWS[start : start + MOST], "links": {"next": link}})


def with_cursor(_: Api, query: dict[str, str]) -> Answer:
    """The cursor is a number in an envelope, and zero begins."""
    start = int(query.get("after", "0"))
    return answered({"rows": ROWS[start : start + MOST], "meta": {"after": start + MOST if start + MOST < len(ROWS) else None}})


@pytest.mark.parametrize(
    ("answer", "changed", "requests"),
    [
        (numbered, {"pages": NumberedPages(), "records": "data.items"}, 4),
        (from_offset, {"pages": OffsetPages(parameter="skip", size=None), "records": ""}, 4),
        (linked_in_header, {"pages": LinkedPages()}, 3),
        (linked_in_other_words, {"pages": LinkedPages()}, 3),
        (linked_in_body, {"pages": LinkedPages(field="links.next", size=None)}, 3),
        (with_cursor, {"pages": CursorPages(parameter="after", field="meta.after")}, 3),
        (lambda *_: answered({"rows": ROWS}), {"pages": OnePage()}, 1),
    ],
    ids=["numbered", "offset", "link header", "other words", "next url", "cursor", "one page"],
)  # fmt: skip
def test_pages_follow_each_other_in_each_way(
    answer: Callable[[Api, dict[str, str]], Answer], changed: Mapping[str, Any], requests: int
) -> None:
    """All rows of a day come, once, although the server gives fewer on a page than were asked for."""
    with serving(SETTINGS, answer) as (api, settings):
        assert read(settings, shaped(**changed)) == ROWS

    assert len(api.asked) == requests
    assert all(headers["x-api-key"] == "key" for headers in api.headers)


def with_credentials(settings: Settings, **given: Any) -> Settings:
    """The settings with other credentials of the service."""
    service = settings.services[SERVICE].model_copy(update={"api_key": None, **given})
    return settings.model_copy(update={"services": {**settings.services, SERVICE: service}})


@pytest.mark.parametrize(
    ("login", "given", "needed", "header"),
    [
        (ApiKey(header="X-Token"), {"api_key": SecretStr("k y")}, "API_KEY", {"x-token": "k y"}),
        (BearerToken(), {"token": SecretStr("t")}, "TOKEN", {"authorization": "Bearer t"}),
        (
            BasicLogin(), {"user": "me", "password": SecretStr("p:w")}, "USER, PIPELINE_SERVICES__READINGS__PASSWORD",
            {"authorization": f"Basic {b64encode(b'me:p:w').decode()}"},
        ),
        (NoLogin(), {}, None, {}),
    ],
    ids=["key", "bearer", "basic", "none"],
)  # fmt: skip
def test_each_kind_of_login(login: Login, given: dict[str, Any], needed: str | None, header: dict[str, str]) -> None:
    """Credentials come from the settings, which lack them by name, and go into every request."""
    source = shaped(login=login, pages=NumberedPages(), records="data.items")
    with serving(SETTINGS, numbered) as (api, settings):
        if needed is not None:
            with pytest.raises(SettingsMissing, match=f"PIPELINE_SERVICES__READINGS__{needed}"):
                read(with_credentials(settings), source)
        assert read(with_credentials(settings, **given), source) == ROWS

    assert all(headers.items() >= header.items() for headers in api.headers)
    assert all(({"x-api-key", "authorization"} & headers.keys()) == (header.keys() & {"authorization"}) for headers in api.headers)


def test_a_key_in_the_query_is_in_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """It is put into links too, and neither errors nor the log of requests show it."""
    source = shaped(login=ApiKey(query="key"), pages=LinkedPages())
    caplog.set_level("INFO")
    with serving(SETTINGS, linked_in_header) as (api, settings):
        own = with_credentials(settings, api_key=SecretStr("hidden"))
        read(own, source)
        api.answer = lambda *_: (403, {}, b"no")
        with pytest.raises(SourceRefused) as refused:
            read(own, source)

    assert [query["key"] for query in api.asked] == ["hidden"] * len(api.asked)
    assert [query.get("q") for query in api.asked[:3]] == [None, "a+b", "a+b"]
    assert "hidden" not in str(refused.value) + caplog.text


def test_a_token_is_asked_for_once_as_long_as_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    """OAuth 2 client credentials: id and secret go to the server of tokens alone, and a token that ended is replaced."""
    given: list[dict[str, str]] = []

    def answer(api: Api, query: dict[str, str]) -> Answer:
        if api.paths[-1] == "/token":
            given.append(api.headers[-1])
            return answered({"access_token": f"t{len(given)}", "expires_in": 3600 if len(given) == 1 else "0"})
        return numbered(api, query)

    source = shaped(login=ClientCredentials(scope="read"), pages=NumberedPages(), records="data.items")
    with serving(SETTINGS, answer) as (api, settings):
        url = settings.services[SERVICE].url
        own = with_credentials(settings, token_url=f"{url}/token", client_id="me", client_secret=SecretStr("p:w"))
        assert read(own, source) == ROWS
        first = [headers["authorization"] for path, headers in zip(api.paths, api.headers, strict=True) if path != "/token"]
        assert read(own, source) == ROWS
        api.answer = lambda *_: (401, {}, b'{"error": "invalid_client"}')
        with pytest.raises(SourceRefused, match=r"POST /token answered 401") as refused:
            read(own, source)

    assert first == ["Bearer t1"] * 4
    assert given[0]["authorization"] == f"Basic {b64encode(b'me:p%3Aw').decode()}"
    # Those of the second load end at once.
    assert len(given) == 5
    assert "p:w" not in str(refused.value) + caplog.text


def test_both_sides_show_certificates(tmp_path: Path) -> None:
    """Mutual TLS: the authority of the settings verifies the server, which lets in who shows a certificate of its own authority."""
    authority = make_authority(tmp_path, "authority")
    context = server_context(tmp_path, authority, HOST)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.certificate)
    own = make_certificate(tmp_path, authority, "127.0.0.9")
    shown = {"certificate": own, "certificate_key": own, "authority": authority.certificate}
    origin = shaped(login=ClientCertificate(), pages=OnePage())

    with serving(SETTINGS, lambda *_: answered({"rows": ROWS}), context) as (api, settings):
        assert read(with_credentials(settings, **shown), origin) == ROWS
        with pytest.raises(SourceUnavailable):
            read(with_credentials(settings, authority=authority.certificate), shaped(login=NoLogin(), pages=OnePage()))
        stranger = make_authority(tmp_path, "stranger").certificate
        with pytest.raises(SourceUnavailable, match="certificate verify failed"):
            read(with_credentials(settings, **shown | {"authority": stranger}), origin)
        with pytest.raises(SettingsMissing, match="PIPELINE_SERVICES__READINGS__CERTIFICATE, PIPELINE_SERVICES__READINGS__CERTIFICATE_KEY"):
            read(settings, origin)
        with pytest.raises(SettingsMalformed, match="PIPELINE_SERVICES__READINGS has a file for TLS that cannot be used"):
            read(with_credentials(settings, **shown | {"certificate": tmp_path / "nowhere.pem"}), origin)

    assert len(api.asked) == 1


@pytest.mark.parametrize("lasts", [{}, {"expires_in": None}, {"expires_in": 3599.5}])
def test_a_server_of_tokens_may_be_signed_by_the_authority_of_the_settings(tmp_path: Path, lasts: dict[str, Any]) -> None:
    """As the service itself; how long a token lasts it may leave unsaid.

    Regression: only the public authorities were believed for tokens, so no service behind an own authority could give any.
    """
    authority = make_authority(tmp_path, "authority")

    def answer(api: Api, query: dict[str, str]) -> Answer:
        return answered({"access_token": "t", **lasts}) if api.paths[-1] == "/token" else numbered(api, query)

    source = shaped(login=ClientCredentials(), pages=NumberedPages(), records="data.items")
    with serving(SETTINGS, answer, server_context(tmp_path, authority, HOST)) as (api, settings):
        login = {"token_url": f"{settings.services[SERVICE].url}/token", "client_id": "me", "client_secret": SecretStr("p")}
        assert read(with_credentials(settings, **login, authority=authority.certificate), source) == ROWS
        with pytest.raises(SourceUnavailable, match="certificate verify failed"):
            read(with_credentials(settings, **login), source)

    assert api.paths.count("/token") == 1


def test_a_declared_rate_is_kept() -> None:
    """Requests are so far apart at least."""
    with serving(SETTINGS, numbered) as (api, settings):
        began = monotonic()
        read(settings, shaped(pages=NumberedPages(), records="data.items", requests_per_second=20.0))

    assert len(api.asked) == 4
    assert monotonic() - began >= 3 / 20


def test_times_stand_where_and_how_they_are_declared() -> None:
    """In the path and in the query, in the formats that an API expects; a snapshot is asked for without them."""
    query = (("day", "{since:%Y-%m-%d}"), ("before", "{until:epoch_ms}"), ("unit", "metric"))
    source = shaped(path="/v1/{since:%Y/%m}/readings", query=query, pages=OnePage())
    whole = replace(source, path="/v1/readings")
    with serving(SETTINGS, lambda *_: answered({"rows": ROWS})) as (api, settings):
        read(settings, source)
        read(settings, whole, None)

    assert api.paths == ["/v1/2013/05/readings", "/v1/readings"]
    assert api.asked == [{"day": FIRST.isoformat(), "before": "1367452800000", "unit": "metric"}, {"unit": "metric"}]


def test_a_query_of_graphql_is_a_body() -> None:
    """Its variables stand in the body with those of the pages; an error inside the answer is one."""
    query = "query($after: String) {{ readings(after: $after) {{ nodes }} }}"
    origin = shaped(
        path="/graphql",
        query=(),
        body=(("query", query), ("variables.day", "{since:%Y-%m-%d}"), ("variables.all", 1)),
        pages=CursorPages(parameter="variables.after", field="data.readings.page.end", size="variables.first"),
        records="data.readings.nodes",
        error="errors",
    )

    def answer(api: Api, _: dict[str, str]) -> Answer:
        start = int(json.loads(api.bodies[-1])["variables"].get("after", 0))
        page = {"nodes": ROWS[start : start + MOST], "page": {"end": str(start + MOST) if start + MOST < len(ROWS) else None}}
        return answered({"data": {"readings": page}})

    with serving(SETTINGS, answer) as (api, settings):
        assert read(settings, origin) == ROWS
        api.answer = lambda *_: answered({"data": None, "errors": [{"message": "too complex"}]})
        with pytest.raises(SourceRefused, match="too complex"):
            read(settings, origin)

    first = {"day": FIRST.isoformat(), "all": 1, "first": 100}
    written = query.replace("{{", "{").replace("}}", "}")
    assert [json.loads(body) for body in api.bodies[:2]] == [
        {"query": written, "variables": first},
        {"query": written, "variables": first | {"after": "2"}},
    ]
    assert set(api.paths) == {"/graphql"}


def test_pages_of_a_search_have_numbers_in_its_body() -> None:
    """Numbers and offsets are numbers of JSON there."""
    offset = shaped(query=(), body=(("kind", "all"),), pages=OffsetPages(parameter="from", size="size"), records="")
    with serving(SETTINGS, lambda api, _: answered(ROWS[json.loads(api.bodies[-1])["from"] :][:MOST])) as (api, settings):
        assert read(settings, offset) == ROWS

    assert [json.loads(body)["from"] for body in api.bodies] == [0, 2, 4, 5]


@pytest.mark.parametrize("status", [404, 204])
def test_a_status_may_mean_nothing(status: int) -> None:
    """Where it is declared a day has no rows; else the answer is refused."""
    with serving(SETTINGS, lambda *_: (status, {}, b"")) as (_, settings):
        assert read(settings, shaped(nothing=(status,))) == []
        with pytest.raises(SourceRefused):
            read(settings, shaped())


@pytest.mark.parametrize("pages", [CursorPages(parameter="after", field="meta.after"), LinkedPages()])
def test_a_day_does_not_end_in_its_middle_with_nothing(pages: CursorPages | LinkedPages) -> None:
    """An answer promised a next page: a status that means nothing for a day is refused there. Past the last number it is the end."""

    def answer(api: Api, query: dict[str, str]) -> Answer:
        if len(api.asked) == 2:
            return 404, {}, b"expired"
        return with_cursor(api, query) if isinstance(pages, CursorPages) else linked_in_header(api, query)

    with serving(SETTINGS, answer) as (_, settings), pytest.raises(SourceRefused, match="answered 404: expired"):
        read(settings, shaped(pages=pages, nothing=(404,)))
    with serving(SETTINGS, lambda api, query: numbered(api, query) if query["page"] != "4" else (404, {}, b"")) as (_, settings):
        assert read(settings, shaped(pages=NumberedPages(), records="data.items", nothing=(404,))) == ROWS


def test_an_error_inside_an_answer_of_success_is_one() -> None:
    """Where it stands is declared; an empty one is none."""
    source = shaped(pages=OnePage(), error="status.error")
    with serving(SETTINGS, lambda *_: answered({"rows": ROWS, "status": {"error": "half of it"}})) as (api, settings):
        with pytest.raises(SourceRefused, match="reports an error: half of it"):
            read(settings, source)
        api.answer = lambda *_: answered({"rows": ROWS, "status": {"error": ""}})
        assert read(settings, source) == ROWS


@pytest.mark.parametrize(
    "link", ["https://elsewhere.example/v1/readings?key=hidden", "//elsewhere.example/", "http://127.0.0.1:1/v1/readings"]
)
def test_a_link_to_another_server_is_refused(link: str) -> None:
    """The credentials go to the declared server alone, whatever an answer says."""
    source = shaped(pages=LinkedPages(field="next"))
    strange = serving(SETTINGS, lambda *_: answered({"rows": ROWS, "next": link}))
    with strange as (api, settings), pytest.raises(SourceRefused, match=r"its next page is at https?://[a-z0-9.]+:\d+, and") as refused:
        read(settings, source)

    assert "hidden" not in str(refused.value)
    assert len(api.asked) == 1


def test_links_that_go_round_come_to_an_end() -> None:
    """A URL that was given before is refused, without its query."""
    source = shaped(pages=LinkedPages(field="next"))
    round_and_round = serving(SETTINGS, lambda *_: answered({"rows": ROWS, "next": "/v1/readings?key=hidden"}))
    with round_and_round as (api, settings), pytest.raises(SourceRefused, match="cursor '/v1/readings' twice"):
        read(settings, source)

    assert len(api.asked) == 2


@pytest.mark.parametrize("link", ["http://[", "http://127.0.0.1:port/", "//[::1", "http://127.0.0.1:99999/", "/v1/" + "r" * 70_000])
def test_a_link_that_is_no_url_is_refused(link: str) -> None:
    """Regression: it ended in a trace of the library that reads URLs."""
    with serving(SETTINGS, lambda *_: answered({"rows": ROWS, "next": link})) as (api, settings):
        with pytest.raises(SourceRefused, match=r"its next page is at no URL|names a page by what is no URL \(URL too long\)"):
            read(settings, shaped(pages=LinkedPages(field="next")))

        assert len(api.asked) == 1


def test_a_cursor_that_makes_the_url_too_long_is_refused() -> None:
    """No URL is made of it, and the error does not repeat it."""
    source = shaped(pages=CursorPages(parameter="after", field="next"))
    with serving(SETTINGS, lambda *_: answered({"rows": ROWS, "next": "c" * 70_000})) as (api, settings):
        with pytest.raises(SourceRefused, match=r"names a page by what is no URL \(URL( component 'query')? too long\)"):
            read(settings, source)

        assert len(api.asked) == 1
