"""Events by HTTP: checked, in the topic before they are answered, each once for a key, whatever Kafka does meanwhile."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from secrets import token_hex
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.prediction_streams import use_case as platform
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.serving.realtime.access.callers import Caller, Limits, Role
from pipeline_assets.serving.realtime.log import acked, bodies
from pipeline_assets.serving.realtime.log.acked import Acked, AckedProducer, Unacked
from pipeline_assets.serving.realtime.log.checks import Fault
from pipeline_assets.serving.realtime.log.events import event_routes, streams_with_door
from pipeline_assets.serving.realtime.log.feedback import Feedback, send_feedback
from pipeline_assets.serving.realtime.service.problems import Problem, problem_of
from pipeline_assets.spec.sources import Avro, CloudEvent, EventStream, Format, JsonObject
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.landings import event, stream_of
from pipeline_assets_tests.silent_broker import silent
from pipeline_assets_tests.stream_records import consume

NAME = "readings"


@pytest.fixture
def producer(kafka: Settings) -> Iterator[AckedProducer]:
    """A producer that is closed in the end."""
    found = AckedProducer(kafka)
    yield found
    found.close()


@pytest.fixture
def stream(topic: str) -> EventStream:
    """Readings on a topic of the test."""
    return replace(stream_of(NAME, topic), history=None)


@pytest.fixture
def door(stream: EventStream, producer: AckedProducer) -> Starlette:
    """An app with the door alone."""
    return app_of(stream, producer)


def app_of(stream: EventStream, producer: AckedProducer) -> Starlette:
    """An app with a door to one stream."""
    project = Project(use_cases=(replace(flights, sources=(), streams=(stream,)),), platform=platform)
    return Starlette(routes=event_routes(project, producer), exception_handlers={Problem: _problem, Exception: _problem})


async def _problem(_: Request, error: Exception) -> Response:
    return problem_of(error).response()


def caller(name: str, rows: int | None = None) -> Caller:
    """A caller that may send events."""
    return Caller(id=name, name=name, roles=frozenset({Role.EVENTS}), by="key", limits=Limits(rows_per_request=rows))


async def ask(app: Starlette, body: bytes, who: Caller | None = None, stream: str = NAME, **headers: str) -> httpx.Response:
    """What the door answers."""

    async def with_caller(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": {"caller": who} if who is not None else {}}, receive, send)

    transport = httpx.ASGITransport(with_caller, raise_app_exceptions=False)
    sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        return await client.post(f"/v1/events/{stream}", content=body, headers=sent)


def post(app: Starlette, body: bytes, who: Caller | None = None, stream: str = NAME, **headers: str) -> httpx.Response:
    """The same, asked alone."""
    return asyncio.run(ask(app, body, who, stream, **headers))


def records(settings: Settings, stream: EventStream) -> dict[tuple[int | None, int | None], tuple[bytes | None, bytes | None]]:
    """All records of the topic by their place: key and value."""
    return {(one.partition(), one.offset()): (one.key(), one.value()) for one in consume(settings, stream.topic)}


def listed(*rows: bytes) -> bytes:
    """A JSON list."""
    return b"[" + b",".join(rows) + b"]"


def test_what_is_accepted_is_in_the_topic_at_its_place(kafka: Settings, door: Starlette, stream: EventStream) -> None:
    """One row, a list and lines: each record has the bytes that came, and the key of the contract, in one partition."""
    answers = [
        post(door, event(0)),
        post(door, listed(event(1), event(2, sensor="s2"))),
        post(door, event(3) + b"\n" + event(4), content_type="application/x-ndjson"),
    ]
    rows = [row for answer in answers for row in answer.json()["rows"]]
    found = records(kafka, stream)

    assert [answer.status_code for answer in answers] == [200] * 3
    assert {row["status"] for row in rows} == {"accepted"}
    values = [found[row["partition"], row["offset"]] for row in rows]
    assert [value for _, value in values] == [event(0), event(1), event(2, sensor="s2"), event(3), event(4)]
    assert [str(key) for key, _ in values] == ["b'a1-2013-05-01T12:00:00+00:00'"] * 2 + ["b's2-2013-05-01T12:00:00+00:00'"] + [
        "b'a1-2013-05-01T12:00:00+00:00'"
    ] * 2
    assert len({row["partition"] for row in rows if row is not rows[2]}) == 1
    assert len(found) == 5


def test_rows_are_answered_one_by_one(kafka: Settings, door: Starlette, stream: EventStream) -> None:
    """Those that break the contract are refused with field and reason, the others are in the topic; where none is good it is a problem."""
    some = post(door, listed(event(0), event(1, level=99), b"[1]", event(2)))
    none = post(door, listed(event(1, level=99), b"7"))

    assert some.status_code == 207
    assert [row["status"] for row in some.json()["rows"]] == ["accepted", "refused", "refused", "accepted"]
    assert some.json()["rows"][1]["field"] == "level"
    assert "from 0 to 10" in some.json()["rows"][1]["problem"]
    assert (none.status_code, none.headers["content-type"]) == (422, "application/problem+json")
    assert {name: none.json()[name] for name in ("title", "status", "row", "field")} == {
        "title": "RowsRefused", "status": 422, "row": 0, "field": "level",
    }  # fmt: skip
    assert [value for _, value in records(kafka, stream).values()] == [event(0), event(2)]


def test_cloud_events_come_in_three_modes(kafka: Settings, topic: str, producer: AckedProducer) -> None:
    """Structured, as a batch, and binary, into a stream of them."""
    declared = replace(stream_of(NAME, topic), history=None, format=CloudEvent(attributes=(("subject", "sensor"),), is_binary=True))
    app = app_of(declared, producer)
    about = {"specversion": "1.0", "id": "7", "source": "/s", "type": "t", "subject": "s9"}
    whole = json.dumps(about).encode()[:-1] + b',"data":' + event(1) + b"}"
    binary = {f"ce_{name}": value for name, value in about.items()}
    answers = [
        post(app, whole, content_type="application/cloudevents+json"),
        post(app, listed(whole, whole), content_type="application/cloudevents-batch+json"),
        post(app, event(1), None, NAME, **binary),
        post(app, event(1)),
    ]
    found = consume(kafka, topic)

    assert [answer.status_code for answer in answers] == [200, 200, 200, 415]
    assert sorted(str(one.value()) for one in found) == sorted([str(whole)] * 3 + [str(event(1))])
    assert {str(one.key()) for one in found} == {"b's9-2013-05-01T12:00:00+00:00'"}
    (headers,) = [dict(one.headers() or ()) for one in found if one.value() == event(1)]
    assert headers["ce_subject"] == b"s9"


def test_a_repeat_gets_the_same_answer_and_makes_no_record(kafka: Settings, door: Starlette, stream: EventStream) -> None:
    """For the same caller and key; another caller's key is another. A key with another body is refused."""
    body, one, other = listed(event(0), event(1, level=99)), caller("one"), caller("other")
    first = post(door, body, one, idempotency_key="k1")
    repeats = [post(door, body, one, idempotency_key="k1") for _ in range(3)]
    changed = post(door, listed(event(2)), one, idempotency_key="k1")
    anothers = post(door, body, other, idempotency_key="k1")
    unfit = post(door, body, one, idempotency_key="x" * 201)

    assert [repeat.content for repeat in repeats] == [first.content] * 3
    assert (changed.status_code, changed.json()["title"]) == (422, "KeyReused")
    assert anothers.json()["rows"][0] != first.json()["rows"][0]
    assert (unfit.status_code, unfit.json()["title"]) == (422, "KeyUnfit")
    assert len(records(kafka, stream)) == 2


def test_what_kafka_did_not_acknowledge_is_sent_by_the_repeat(kafka: Settings, door: Starlette, stream: EventStream) -> None:
    """A broker that is silent is waited for some seconds, and the caller asked to come again; the same key then gives the places."""
    with silent(kafka):
        away = post(door, listed(event(0), event(1, level=99)), caller("one"), idempotency_key="k1")
    back = post(door, listed(event(0), event(1, level=99)), caller("one"), idempotency_key="k1")
    again = post(door, listed(event(0), event(1, level=99)), caller("one"), idempotency_key="k1")

    assert (away.status_code, away.headers["retry-after"]) == (503, "1")
    assert [row["status"] for row in away.json()["rows"]] == ["unknown", "refused"]
    assert [row["status"] for row in back.json()["rows"]] == ["accepted", "refused"]
    assert again.content == back.content
    assert {value for _, value in records(kafka, stream).values()} == {event(0)}


def test_a_caller_that_goes_away_is_answered_when_it_asks_again(kafka: Settings, door: Starlette, stream: EventStream) -> None:
    """What it began is done: there is one record, and the repeat has its place. Meanwhile the key is taken."""

    async def steps() -> tuple[httpx.Response, httpx.Response]:
        first = asyncio.create_task(ask(door, event(0), caller("one"), idempotency_key="k1"))
        with silent(kafka):
            done, _ = await asyncio.wait({first}, timeout=0.5)
            assert not done
            meanwhile = await ask(door, event(0), caller("one"), idempotency_key="k1")
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        for _ in range(100):
            again = await ask(door, event(0), caller("one"), idempotency_key="k1")
            if again.status_code != meanwhile.status_code:
                break
            await asyncio.sleep(0.1)
        return meanwhile, again

    meanwhile, again = asyncio.run(steps())

    assert (meanwhile.status_code, meanwhile.json()["title"]) == (409, "Running")
    assert again.status_code == 200
    assert len(records(kafka, stream)) == 1


def test_limits_are_kept(door: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bytes, of rows at once, and of rows that a key may send; types and packed bodies that nobody reads are refused."""
    monkeypatch.setattr(bodies, "MOST_ROWS", 2)
    found = [
        post(door, b" " * 1_000_001),
        post(door, listed(event(0), event(1), event(2))),
        post(door, listed(event(0), event(1)), caller("one", rows=1)),
        post(door, event(0), content_type="text/csv"),
        post(door, event(0), content_encoding="gzip"),
        post(door, event(0), stream="prediction_log"),
        post(door, event(0), stream="nowhere"),
    ]

    assert [answer.status_code for answer in found] == [413, 413, 413, 415, 415, 404, 404]
    assert {answer.headers["content-type"] for answer in found} == {"application/problem+json"}


def test_only_streams_whose_records_are_written_here_have_a_door() -> None:
    """JSON objects without a frame, and CloudEvents; never what the platform records of itself."""
    framed, avro = JsonObject(is_framed=True), Avro(schema='{"type": "record", "name": "r", "fields": []}')
    formats: tuple[Format, ...] = (JsonObject(), CloudEvent(), framed, avro)
    streams = tuple(replace(stream_of(f"s{number}", f"t{number}"), format=one) for number, one in enumerate(formats))
    project = Project(use_cases=(replace(flights, streams=streams),), platform=platform)

    assert prediction_log in project.streams
    assert [stream.contract.name for stream in streams_with_door(project)] == ["s0", "s1"]


def test_a_record_that_kafka_does_not_take_is_refused(kafka: Settings, producer: AckedProducer) -> None:
    """One that is larger than its topic allows, or whose topic is not there: that row alone."""
    name = f"small-{token_hex(4)}"
    ensure_topics(kafka, [Topic(name=name, partitions=1, configs={"max.message.bytes": "2000"})])
    stream = replace(stream_of(NAME, name), history=None)
    found = post(app_of(stream, producer), listed(event(0, note="".join(map(str, range(2_000)))), event(1)))
    away = post(app_of(replace(stream, topic=f"nowhere-{token_hex(4)}"), producer), event(1))

    assert [row["status"] for row in found.json()["rows"]] == ["refused", "accepted"]
    assert found.json()["rows"][0]["problem"] == "The row is larger than Kafka takes."
    assert (away.status_code, away.json()["title"]) == (503, "NotAcknowledged")


def test_feedback_is_in_the_topic_before_it_is_answered(kafka: Settings, producer: AckedProducer) -> None:
    """Each label has its place; a prediction's labels have times in their order; what breaks the contract is refused."""
    ensure_topics(kafka, [Topic(name="prediction-feedback", partitions=2)])
    rows = [
        Feedback(prediction_id="p1", model="flight_delay", label=True, actor="one"),
        Feedback(prediction_id="p1", model="flight_delay", label={"class": "late"}, actor="one"),
        Feedback(prediction_id="x" * 201, model="flight_delay", label=1, actor="one"),
        Feedback(prediction_id="\ud800", model="flight_delay", label=1, actor="one"),
        Feedback(prediction_id="p2", model="flight_delay", label=None, actor="one"),
    ]
    outcomes = asyncio.run(send_feedback(producer, rows))
    found = {(one.partition(), one.offset()): one for one in consume(kafka, "prediction-feedback")}

    assert [type(one) for one in outcomes] == [Acked, Acked, Fault, Fault, Acked]
    assert [one.field for one in outcomes if isinstance(one, Fault)] == ["prediction_id", "prediction_id"]
    places = [(one.partition, one.offset) for one in outcomes if isinstance(one, Acked)]
    values = [json.loads(found[place].value() or b"") for place in places]
    assert [(value["prediction_id"], json.loads(value["label"])) for value in values] == [
        ("p1", True), ("p1", {"class": "late"}), ("p2", None)
    ]  # fmt: skip
    assert found[places[1]].timestamp()[1] == found[places[0]].timestamp()[1] + 1


def test_feedback_that_kafka_does_not_acknowledge_is_not_answered_as_taken(kafka: Settings, producer: AckedProducer) -> None:
    """A silent broker gives an outcome that may change, after some seconds."""
    ensure_topics(kafka, [Topic(name="prediction-feedback", partitions=2)])
    with silent(kafka):
        (outcome,) = asyncio.run(send_feedback(producer, [Feedback(prediction_id="p", model="m", label=1, actor="a")]))

    assert outcome == Unacked(problem=acked.NOT_IN_TIME)
