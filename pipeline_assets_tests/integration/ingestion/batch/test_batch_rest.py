"""Reading a REST API: paging, patience, refusals, and what is taken up after a kill."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from gzip import compress
from threading import Event

import pytest
from pydantic import SecretStr

from pipeline_assets.core.connections import object_store
from pipeline_assets.core.errors import ContractViolation, SettingsMissing, SourceChanged, SourceRefused, SourceUnavailable
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.batch.rest import Patience
from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.spec.rest import BearerToken, NumberedPages
from pipeline_assets_tests.flipped_bits import flip
from pipeline_assets_tests.readings import (
    SERVICE,
    Answer,
    Api,
    Row,
    World,
    day,
    kill,
    page_of,
    paged,
    process,
    reading,
    serving,
    wait_until,
    with_field,
    with_share,
)

QUICK = Patience(request_seconds=5, page_seconds=20, attempts=4, first_pause_seconds=0, longest_pause_seconds=0.01, jitter_seconds=0)
LOAD = """
from datetime import date
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets_tests.readings import World
stage_days(settings, World(settings=settings, name={name!r}).api, date(2013, 5, 1), date(2013, 5, 12), run_id="killed")
"""


def first_then(first: list[Answer], then: Callable[[Api, dict[str, str]], Answer]) -> Callable[[Api, dict[str, str]], Answer]:
    """Answers each span with these first, one a request, and then as `then` does."""

    def answer(api: Api, query: dict[str, str]) -> Answer:
        asked = sum(1 for one in api.asked if one["since"] == query["since"])
        return first[asked - 1] if asked <= len(first) else then(api, query)

    return answer


def test_a_day_is_asked_page_by_page_with_the_key(world: World) -> None:
    """Since and until bound the day, each page names its cursor, and every request carries the key of the service."""
    rows = [reading(sensor=f"s{number}") for number in range(5)]

    with serving(world.settings, paged(rows)) as (api, settings):
        (staged,) = stage_days(settings, world.api, day(0), day(0), run_id="r")

    assert world.staged() == rows
    assert staged.manifest.rows == 5
    assert [query.get("cursor") for query in api.asked] == [None, "2", "4"]
    span = {"since": "2013-05-01T00:00:00+00:00", "until": "2013-05-02T00:00:00+00:00", "limit": "2"}
    assert all(span.items() <= query.items() for query in api.asked)
    assert {headers["x-api-key"] for headers in api.headers} == {"key"}


def test_a_broken_record_goes_to_quarantine_as_the_bytes_it_was(world: World) -> None:
    """The bytes of the answer are kept, spaces and all, with the record's position in its day."""
    odd = b'{ "sensor" : "b2", "level":"high",   "read_at": "2013-05-01T12:00:00Z", "sent_at": "2013-05-01T12:00:00Z" }'
    body = page_of([reading(sensor="a")])[: -len('], "next_cursor": null}')] + b", " + odd + b'], "next_cursor": null}'

    with serving(world.settings, lambda *_: (200, {}, body)) as (_, settings):
        stage_days(settings, world.api, day(0), day(0), run_id="r")

    assert world.quarantined() == [("2013-05-01", 1, "level wrong type", False)]
    assert world.originals() == [odd]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_passing_failure_is_asked_again(world: World, status: int) -> None:
    """A server that is busy or ill answers in the end, and nothing is missing or doubled."""
    rows = [reading(sensor=f"s{number}") for number in range(3)]
    failing = first_then([(status, {}, b"later")] * 3, paged(rows))

    with serving(world.settings, failing) as (api, settings):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert world.staged() == rows
    assert len(api.asked) == 5


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_busy_server_is_asked_again_when_it_says(world: World, form: str) -> None:
    """`Retry-After` decides about the pause, in seconds or as a date, whatever the usual pause would be."""
    patience = Patience(first_pause_seconds=30, longest_pause_seconds=30)
    times: list[datetime] = []

    def answer(api: Api, query: dict[str, str]) -> Answer:
        times.append(datetime.now(UTC))
        asked = "1" if form == "seconds" else format_datetime(times[0] + timedelta(seconds=2), usegmt=True)
        return (429, {"Retry-After": asked}, b"") if len(times) == 1 else paged([reading()])(api, query)

    with serving(world.settings, answer) as (_, settings):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=patience)

    waited = (times[1] - times[0]).total_seconds()
    assert 0.9 <= waited < 25
    assert world.staged() == [reading()]


def test_a_server_that_asks_for_more_than_there_is_time_is_left_alone(world: World) -> None:
    """A pause beyond the deadline ends the attempts at once; a run may come back later."""
    busy = serving(world.settings, lambda *_: (429, {"Retry-After": "3600"}, b"tomorrow"))
    with busy as (api, settings), pytest.raises(SourceUnavailable, match="answered 429: tomorrow"):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert len(api.asked) == 1
    assert world.keys() == [f"staged/{world.name}/_loads/2013-05-01_2013-05-01.json"]


def test_patience_ends(world: World) -> None:
    """A server that never answers well is given up after the attempts, as something that may pass."""
    ill = serving(world.settings, lambda *_: (503, {}, b"down"))
    with ill as (api, settings), pytest.raises(SourceUnavailable, match="answered 503: down"):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert len(api.asked) == QUICK.attempts


def test_a_load_whose_mark_is_damaged_begins_anew(world: World) -> None:
    """Regression: a mark that could not be read kept every later load of the same days from starting."""
    with serving(world.settings, lambda *_: (503, {}, b"down")) as (_, settings), pytest.raises(SourceUnavailable):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)
    (mark,) = world.keys()
    flip(object_store(world.settings), world.settings.s3_bucket, mark, 0)
    with serving(world.settings, paged([reading()])) as (_, settings):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert world.staged() == [reading()]
    assert world.keys().count(mark) == 0


def test_a_server_that_is_too_slow_is_asked_again(world: World) -> None:
    """A request has a time limit of its own; what came too late is not used."""
    release = Event()

    def answer(api: Api, query: dict[str, str]) -> Answer:
        if len(api.asked) == 1:
            release.wait(30)
        return paged([reading()])(api, query)

    with serving(world.settings, answer) as (api, settings):
        hasty = Patience(request_seconds=0.3, first_pause_seconds=0, jitter_seconds=0)
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=hasty)
        release.set()

    assert len(api.asked) == 2
    assert world.staged() == [reading()]


@pytest.mark.parametrize(
    ("status", "body"), [(400, b"bad span"), (401, b"no key"), (403, b"not yours"), (404, b"nowhere"), (301, b"moved")]
)
def test_a_refusal_is_not_asked_again(world: World, status: int, body: bytes) -> None:
    """What asking again would not change names the answer and stops; the key is not shown."""
    with serving(world.settings, lambda *_: (status, {}, body)) as (api, settings), pytest.raises(SourceRefused) as caught:
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert f"GET /v1/readings answered {status}: {body.decode()}" in str(caught.value)
    assert len(api.asked) == 1


def test_pages_that_would_never_end_are_refused(world: World) -> None:
    """A cursor that comes twice is an error of the server, not a load without end."""
    endless = serving(world.settings, lambda *_: (200, {}, page_of([], "again")))
    with endless as (api, settings), pytest.raises(SourceRefused, match="cursor 'again' twice"):
        stage_days(settings, world.api, day(0), day(0), run_id="r")

    assert len(api.asked) == 2


def test_empty_pages_with_ever_new_cursors_come_to_an_end(world: World) -> None:
    """A hundred pages in a row without anything new are refused, and nothing of the day is staged."""

    def answer(api: Api, query: dict[str, str]) -> Answer:
        return 200, {}, page_of([reading()] if "cursor" not in query else [], str(len(api.asked)))

    with serving(world.settings, answer) as (api, settings), pytest.raises(SourceRefused, match="100 pages in a row"):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert len(api.asked) == 101
    assert world.manifests() == []


def test_a_server_that_gives_the_same_page_for_each_cursor_comes_to_an_end(world: World) -> None:
    """Its pages are not empty, but none of them has a record that the one before had not."""
    endless = serving(world.settings, lambda api, _: (200, {}, page_of([reading()], str(len(api.asked)))))
    with endless as (api, settings), pytest.raises(SourceRefused, match="100 pages in a row"):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert len(api.asked) == 101


def test_a_day_has_so_many_pages_at_most(world: World) -> None:
    """New records for ever are refused too, after the pages that are declared."""
    origin = replace(world.endpoint, max_pages=7)
    endless = serving(world.settings, lambda api, _: (200, {}, page_of([reading(sensor=f"s{len(api.asked)}")], str(len(api.asked)))))
    with endless as (api, settings), pytest.raises(SourceRefused, match="more than 7 pages, the `max_pages` of its declaration"):
        stage_days(settings, replace(world.api, origin=origin), day(0), day(0), run_id="r", patience=QUICK)

    assert len(api.asked) == 7


def test_empty_pages_between_others_are_no_end(world: World) -> None:
    """An API that filters after it has paged may well give pages without a row."""
    rows = [reading(sensor=f"s{number}") for number in range(3)]

    def answer(_: Api, query: dict[str, str]) -> Answer:
        place = int(query.get("cursor", "0"))
        return 200, {}, page_of([rows[place // 40]] if place % 40 == 0 else [], str(place + 1) if place < 80 else "")

    with serving(world.settings, answer) as (_, settings):
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert world.staged() == rows


def test_a_row_that_stands_on_two_pages_counts_once(world: World) -> None:
    """Rows move to the next page while others are added before them."""
    rows = [reading(sensor=f"s{number}") for number in range(4)]

    def answer(_: Api, query: dict[str, str]) -> Answer:
        return 200, {}, page_of(rows[:2], "2") if "cursor" not in query else page_of(rows[1:])

    with serving(world.settings, answer) as (_, settings):
        (staged,) = stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert world.staged() == rows
    assert staged.manifest.reasons == {}


def test_a_page_has_so_many_bytes_at_most(world: World) -> None:
    """What is counted are the bytes after unpacking, so that a small answer cannot fill the memory; nothing is asked again."""
    source = replace(world.api, origin=replace(world.endpoint, max_page_bytes=1 << 20))
    packed = compress(page_of([reading(sensor="x" * (2 << 20))]))
    large = serving(world.settings, lambda *_: (200, {"Content-Encoding": "gzip"}, packed))
    with large as (api, settings), pytest.raises(SourceRefused, match="more than 1,048,576 bytes unpacked, the `max_page_bytes`"):
        stage_days(settings, source, day(0), day(0), run_id="r", patience=QUICK)

    assert len(api.asked) == 1


@pytest.mark.parametrize("target", ["/v2/readings?key=secret", "https://elsewhere.example/v1/readings?key=secret"])
def test_a_redirect_is_refused_with_its_target(world: World, target: str) -> None:
    """The key goes to the declared address alone; what stands in the query of the target is not shown."""
    moved = serving(world.settings, lambda *_: (307, {"Location": target}, b""))
    with moved as (api, settings), pytest.raises(SourceRefused, match=r"redirects to https?://[a-z0-9.:]+/v./readings, and") as caught:
        stage_days(settings, world.api, day(0), day(0), run_id="r", patience=QUICK)

    assert "secret" not in str(caught.value)
    assert len(api.asked) == 1


def test_an_api_of_another_shape_is_staged_and_quarantined_like_any(world: World) -> None:
    """Page numbers, a bearer token and records in an envelope: rows are staged, a broken one keeps its bytes."""
    rows, broken = [reading(sensor=f"s{number}") for number in range(3)], b'{"sensor": "s9",  "level": 1e400}'

    def answer(_: Api, query: dict[str, str]) -> Answer:
        page = [json_bytes(row) for row in rows[int(query["page"]) - 1 :][:1]] or ([broken] if query["page"] == "4" else [])
        return 200, {}, b'{"data": {"items": [' + b", ".join(page) + b"]}}"

    origin = replace(world.endpoint, records="data.items", pages=NumberedPages(), login=BearerToken())
    with serving(world.settings, answer) as (api, settings):
        service = settings.services[SERVICE].model_copy(update={"token": SecretStr("t")})
        own = settings.model_copy(update={"services": {SERVICE: service}})
        stage_days(own, with_share(0.5, replace(world.api, origin=origin)), day(0), day(0), run_id="r", patience=QUICK)

    assert world.staged() == rows
    assert world.originals() == [broken]
    assert {headers["authorization"] for headers in api.headers} == {"Bearer t"}


def test_a_service_without_url_and_key_is_a_missing_setting(world: World) -> None:
    """Both settings are named as they are set in the environment."""
    with pytest.raises(SettingsMissing, match="PIPELINE_SERVICES__READINGS__URL, PIPELINE_SERVICES__READINGS__API_KEY"):
        stage_days(world.settings, world.api, day(0), day(0), run_id="r")


def test_a_required_field_that_stands_in_no_row_stops_the_source(world: World) -> None:
    """A field that is gone is a breaking change, reported as such; one that may be null is reported and passes."""
    without = [{name: value for name, value in reading().items() if name not in {"sent_at", "level"}}]

    with serving(world.settings, lambda *_: (200, {}, page_of(without))) as (_, settings):
        with pytest.raises(SourceChanged, match="field 'sent_at' stands in no row of 2013-05-01"):
            stage_days(settings, world.api, day(0), day(0), run_id="r")
        lenient = with_field("sent_at", with_share(1.0, world.api), required=False)
        (staged,) = stage_days(settings, lenient, day(0), day(0), run_id="r")

    assert staged.absent_fields == ("level", "sent_at")


def test_a_killed_load_takes_up_where_it_was(world: World) -> None:
    """Days that were staged before a kill -9 are not asked for again, and the end is that of a load that was never killed."""
    rows = [reading(offset, sensor=f"s{number}", level=3 * number) for offset in range(12) for number in range(5)]
    reached, hold = Event(), Event()

    def answer(api: Api, query: dict[str, str]) -> Answer:
        if query["since"].startswith("2013-05-08") and not hold.is_set():
            reached.set()
            hold.wait(60)
        return paged(rows)(api, query)

    with serving(world.settings, answer) as (api, settings):
        with process(settings, LOAD.format(name=world.name)) as started:
            assert reached.wait(60)
            wait_until(lambda: len(world.manifests()) >= 7, "seven days are staged")
            kill(started)
        done = world.manifests()
        hold.set()
        api.asked.clear()
        staged = stage_days(settings, world.api, day(0), day(11), run_id="again")

    unkilled = World(settings=world.settings, name=f"{world.name}_2")
    with serving(world.settings, paged(rows)) as (_, settings):
        stage_days(settings, unkilled.api, day(0), day(11), run_id="whole")

    assert 7 <= len(done) < 12
    assert {query["since"][:10] for query in api.asked} == {day(offset).isoformat() for offset in range(12)} - set(done)
    assert [one.is_taken_up for one in staged] == [day(offset).isoformat() in done for offset in range(12)]
    assert world.content(0, 11) == unkilled.content(0, 11)


def test_a_load_that_was_completed_is_asked_for_anew(world: World) -> None:
    """Nothing is taken up from a load that came to its end: what the source has now is what is staged."""
    rows = [reading(0), reading(1)]

    with serving(world.settings, paged(rows)) as (api, settings):
        stage_days(settings, world.api, day(0), day(1), run_id="r1")
        rows[1] = reading(1, level=7)
        stage_days(settings, world.api, day(0), day(1), run_id="r2")

    assert len(api.asked) == 4
    assert world.staged("2013-05-02") == [reading(1, level=7)]


def cut_off(world: World, rows: list[Row]) -> Callable[[Api, dict[str, str]], Answer]:
    """Answers the first day; the second, once the first is staged, is out of order the first four times."""

    def answer(api: Api, query: dict[str, str]) -> Answer:
        if query["since"].startswith("2013-05-02"):
            wait_until(lambda: "2013-05-01" in world.manifests(), "the first day is staged")
            if sum(1 for one in api.asked if one["since"] == query["since"]) <= QUICK.attempts:
                return 503, {}, b""
        return paged(rows)(api, query)

    return answer


@pytest.mark.parametrize(("maximum", "asked"), [(10, ["2013-05-02"]), (11, ["2013-05-01", "2013-05-02"])])
def test_a_load_that_was_cut_off_is_taken_up_under_the_same_contract_only(world: World, maximum: float, asked: list[str]) -> None:
    """A load that a source did not answer goes on where it was; with a changed contract every day is held against it anew."""
    with serving(world.settings, cut_off(world, [reading(0), reading(1)])) as (api, settings):
        with pytest.raises(SourceUnavailable):
            stage_days(settings, world.api, day(0), day(1), run_id="r1", patience=QUICK)
        api.asked.extend({"since": "2013-05-02T00:00:00+00:00"} for _ in range(QUICK.attempts))
        before = len(api.asked)
        stage_days(settings, with_field("level", world.api, maximum=maximum), day(0), day(1), run_id="r2", patience=QUICK)

    assert sorted(query["since"][:10] for query in api.asked[before:]) == asked
    assert len(world.staged("2013-05-02")) == 1


def test_a_load_that_was_refused_is_asked_for_anew(world: World) -> None:
    """Where something had to be mended first, also the days that were done are read again: they may be what was mended."""
    rows = [reading(0), reading(1, level=99)]
    strict = with_share(0.0, world.api)

    with serving(world.settings, paged(rows)) as (_, settings):
        with pytest.raises(ContractViolation):
            stage_days(settings, strict, day(0), day(1), run_id="r1")
        rows[:] = [reading(0, level=1), reading(1)]
        stage_days(settings, strict, day(0), day(1), run_id="r2")

    assert [world.manifest(offset).run_id for offset in (0, 1)] == ["r2", "r2"]
    assert world.staged() == [reading(0, level=1)]
