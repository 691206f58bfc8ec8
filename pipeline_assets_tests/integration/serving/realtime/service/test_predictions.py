"""Predictions over HTTP: asked of a real server on loopback, as clients would."""

import json
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store, online
from pipeline_assets.core.prediction_streams import prediction_feedback, prediction_log
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.connectors import EVENT_PARTITIONS
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.guard import PUBLIC, unguarded
from pipeline_assets.serving.realtime.client import Client, Feedback
from pipeline_assets.serving.realtime.client_errors import RequestRefused
from pipeline_assets.serving.realtime.package import MODEL_FILE
from pipeline_assets.serving.realtime.service import predictor
from pipeline_assets.serving.realtime.service.app import POLICY, Service, routes_of
from pipeline_assets.serving.realtime.service.features import REST_SECONDS
from pipeline_assets_tests.model_rows import MULTICLASS, REGRESSION
from pipeline_assets_tests.served_models import INSTANCE, MODEL, ROWS, client_of, model_of, promote, put_live, put_package, service_of
from pipeline_assets_tests.stream_records import consume, until

PREDICT = "/v1/models/flight_delay:predict"
NOW = (ROWS[-1]["recorded_at"] + timedelta(minutes=1)).isoformat()
KNOWN = {**INSTANCE, "decision_at": NOW}
OTHERS = [replace(model_of(MULTICLASS), name="outcome"), replace(model_of(REGRESSION), name="minutes")]


@pytest.fixture
def store(isolated: Settings) -> Settings:
    """An online store of departures, and two packages of the model of which the first is live."""
    return put_live(isolated, versions=2)


@pytest.fixture
def service(store: Settings, tmp_path: Path) -> Service:
    """A service of the model."""
    return service_of(store, tmp_path, MODEL)


@pytest.fixture
def client(service: Service, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client that may predict and read."""
    with client_of(service, tmp_path, Role.PREDICT, Role.READ) as opened:
        yield opened


def asked(client: httpx.Client, *instances: Any, **headers: str) -> httpx.Response:
    """The answer to some instances."""
    return client.post(PREDICT, json={"instances": list(instances)}, headers=headers)


def scores_of(answer: httpx.Response) -> list[float]:
    """The scores of an answer."""
    return [one["score"] for one in answer.json()["predictions"]]


def test_predictions_are_those_of_the_features_that_the_store_serves(client: httpx.Client, service: Service) -> None:
    """A known, an unknown and a keyless entity: scores to the bit, the version, and where features come from; the time of each stage."""
    questions = [KNOWN, {**KNOWN, "origin": "XXX"}, {**KNOWN, "tailnum": None}]
    answer = asked(client, *questions)
    found, schema = answer.json()["predictions"], service.predictors[MODEL.name].schema
    rows = schema.questions(schema.read(json.dumps({"instances": questions}).encode()), ROWS[-1]["recorded_at"])
    scores = service.live.serving[MODEL.name].loaded.scorer.score(service.readers.read(MODEL, rows).features)

    assert answer.status_code == 200
    assert np.array(scores_of(answer)).tobytes() == scores.tobytes()
    assert {one["model_version"] for one in found} == {1}
    assert [one["feature_status"]["origin_departures"] for one in found] == ["fresh", "unknown", "fresh"]
    assert {one["features_from"] for one in found} == {"online"}
    assert len({one["id"] for one in found}) == 3
    assert [part.partition(";")[0] for part in answer.headers["server-timing"].split(", ")] == ["features", "model", "rest"]


def test_many_at_once_get_what_each_alone_gets(client: httpx.Client) -> None:
    """A hundred and twenty requests of other entities at the same time: each gets its own answer, and the wrong one its own error."""
    instances = [{**KNOWN, "origin": origin, "distance_miles": miles} for origin in ("EWR", "JFK", "XXX") for miles in range(40)]
    alone = [scores_of(asked(client, one)) for one in instances[::10]]
    behind = {**KNOWN, "decision_at": "2013-04-01T00:00:00Z"}
    with ThreadPoolExecutor(24) as threads:
        together = [threads.submit(asked, client, one) for one in instances]
        wrong = [threads.submit(asked, client, behind) for _ in range(4)]

    assert {one.result().status_code for one in together} == {200}
    assert [scores_of(one.result()) for one in together[::10]] == alone
    assert {(one.result().status_code, one.result().json()["title"]) for one in wrong} == {(422, "BehindState")}


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "a number for text": ({"origin": 7}, "origin"),
    "text for a number": ({"distance_miles": "far"}, "distance_miles"),
    "truth for a number": ({"distance_miles": True}, "distance_miles"),
    "a naive time": ({"scheduled_departure_at": "2013-05-04T21:30:00"}, "scheduled_departure_at"),
    "no time": ({"decision_at": 3}, "decision_at"),
    "unknown": ({"colour": "red"}, "colour"),
    "long": ({"origin": "x" * 5_000}, "origin"),
    "no key": ({"carrier": ...}, "carrier"),
    "no field": ({"distance_miles": ...}, "distance_miles"),
}
NO_REQUESTS: dict[str, tuple[bytes, dict[str, str], int]] = {
    "half": (b"{", {}, 400),
    "NaN": (b'{"instances": [{"origin": NaN}]}', {}, 400),
    "infinite": (b'{"instances": [{"origin": "EWR", "distance_miles": 1e999}]}', {}, 422),
    "deep": (b"[" * 100_000, {}, 422),
    "deep instances": (b'{"instances": ' + b"[" * 100_000, {}, 422),
    "none": (b'{"instances": []}', {}, 422),
    "no text": (b"\xff\xfe", {}, 400),
    "large": (b" " * 1_000_001, {}, 413),
    "another type": (b"{}", {"Content-Type": "text/plain"}, 415),
    "packed": (b"{}", {"Content-Encoding": "gzip"}, 415),
}


def test_an_unfit_field_is_named_with_its_row(client: httpx.Client) -> None:
    """A problem document that names model, row and field, for each way in which a field can be unfit."""
    found = {}
    for case, (change, _) in UNFIT.items():
        answer = asked(client, KNOWN, {name: value for name, value in {**KNOWN, **change}.items() if value is not ...})
        document = answer.json()
        found[case] = answer.status_code, answer.headers["content-type"], document["model"], document["row"], document["field"]

    assert found == {case: (422, "application/problem+json", "flight_delay", 1, field) for case, (_, field) in UNFIT.items()}


def test_a_body_that_is_no_request_is_refused(client: httpx.Client) -> None:
    """By the status that says why, as a problem document."""
    found = {}
    for case, (body, headers, _) in NO_REQUESTS.items():
        answer = client.post(PREDICT, content=body, headers={"Content-Type": "application/json", **headers})
        found[case] = answer.status_code, answer.json()["status"]

    assert found == {case: (status, status) for case, (_, _, status) in NO_REQUESTS.items()}


def test_too_many_instances_and_unknown_models_are_refused(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """413 and 404, and what there is; no stack of it is in the log."""
    many = asked(client, *[KNOWN] * 1_001)
    unknown = client.post("/v1/models/nothing:predict", json={"instances": [KNOWN]})
    nowhere, otherwise = client.get("/nowhere"), client.delete("/v1/models")
    of_features = [client.post(f"/v1/features/{name}", json={"instances": [1]}).json() for name in ("nothing", "flight_delay")]

    assert (many.status_code, unknown.status_code) == (413, 404)
    assert "flight_delay" in unknown.json()["detail"]
    assert (nowhere.json()["status"], otherwise.json()["status"]) == (404, 405)
    assert [(one["status"], one["error"] == one["detail"]) for one in of_features] == [(404, True), (422, True)]
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_without_end_is_cut_off(client: httpx.Client) -> None:
    """A chunked body is answered by 413 soon after its limit, while it still comes."""
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    head += f"Authorization: {client.headers['Authorization']}\r\n\r\n"
    sent, answer = 0, b""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=30) as connection:
        connection.sendall(head.encode())
        while not answer and sent < 100_000_000:
            connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
            sent += 65_536
            if select.select([connection], [], [], 0)[0]:
                answer = connection.recv(4_096)

    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 50_000_000


def test_the_same_key_of_a_repeat_gives_the_same_ids(client: httpx.Client) -> None:
    """With an Idempotency-Key ids are the same again, for other instances they are others; a key that is too long is refused."""
    first, again = (asked(client, KNOWN, KNOWN, **{"Idempotency-Key": "order-7"}).json()["predictions"] for _ in range(2))
    other = asked(client, KNOWN, **{"Idempotency-Key": "order-7"}).json()["predictions"]
    refused = asked(client, KNOWN, **{"Idempotency-Key": "x" * 201})

    assert [one["id"] for one in first] == [one["id"] for one in again]
    assert len({one["id"] for one in (*first, *other)}) == 3
    assert refused.status_code == 422


def test_models_of_each_task_answer_and_explain(store: Settings, tmp_path: Path) -> None:
    """Classes and values as they are; contributions with the bias add up to the margin of the answer."""
    for model in OTHERS:
        put_package(store, model, 1, 1)
        promote(store, model, 1)
    with client_of(service_of(store, tmp_path, MODEL, *OTHERS), tmp_path, Role.PREDICT) as client:
        classes, value = (
            client.post(f"/v1/models/{one.name}:predict", json={"instances": [KNOWN]}).json()["predictions"][0] for one in OTHERS
        )
        why = {
            one.name: client.post(f"/v1/models/{one.name}:explain", json={"instances": [KNOWN]}).json()["explanations"][0]
            for one in (MODEL, *OTHERS)
        }
    late, minutes, outcome = why["flight_delay"], why["minutes"], why["outcome"]
    margin = sum(late["contributions"].values()) + late["bias"]

    assert abs(sum(classes["scores"].values()) - 1) < 1e-6
    assert classes["predicted"] == max(classes["scores"], key=classes["scores"].get)
    assert abs(sum(minutes["contributions"].values()) + minutes["bias"] - value["value"]) < 1e-4 * max(1, abs(value["value"]))
    assert abs(1 / (1 + np.exp(-margin)) - late["score"]) < 1e-5
    assert late["contributions"].keys() == late["features"].keys()
    assert outcome["contributions"].keys() == classes["scores"].keys()


def test_promotions_under_load_drop_no_request(
    client: httpx.Client, store: Settings, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty promotions to and fro while eight ask: all are answered, each by a version that was live then.

    A turn may come late, as service, database and those who ask share a machine with other tests.
    """
    monkeypatch.setattr(predictor, "DEADLINE_SECONDS", 30.0)
    versions: list[int] = []
    failed: list[str] = []
    stopped = Event()

    def ask() -> None:
        while not stopped.is_set():
            answer = asked(client, KNOWN)
            if answer.status_code == 200:
                versions.append(answer.json()["predictions"][0]["model_version"])
            else:
                failed.append(answer.text)

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(ask) for _ in range(8)]
        for turn in range(20):
            promote(store, MODEL, 2 - turn % 2)
            until(lambda: service.live.serving[MODEL.name].loaded.version == 2 - turn % 2, seconds=30)  # noqa: B023 - waited for at once
        stopped.set()
    by_version = {version: versions.count(version) for version in (1, 2)}

    assert [one.exception() for one in running] == [None] * 8
    assert failed == []
    assert min(by_version.values()) > 0
    assert asked(client, KNOWN).json()["predictions"][0]["model_version"] == 1


def test_a_damaged_package_is_refused_and_the_version_before_serves_on(client: httpx.Client, store: Settings, service: Service) -> None:
    """The model says why; once the package is whole, it serves."""
    place = f"{'/'.join(names.package(MODEL.name))}/2/{MODEL_FILE}"
    whole: bytes = object_store(store).get_object(Bucket=store.s3_bucket, Key=place)["Body"].read()
    object_store(store).put_object(Bucket=store.s3_bucket, Key=place, Body=whole[:-1] + bytes([whole[-1] ^ 1]))
    promote(store, MODEL, 2)
    problem = until(lambda: client.get("/v1/models/flight_delay").json()["problem"])
    meanwhile = asked(client, KNOWN)
    object_store(store).put_object(Bucket=store.s3_bucket, Key=place, Body=whole)
    after = until(lambda: asked(client, KNOWN).json()["predictions"][0]["model_version"], lambda version: version == 2)

    assert "sha256" in problem
    assert meanwhile.json()["predictions"][0]["model_version"] == 1
    assert after == 2
    assert service.live.problems == {}


def test_a_store_that_waits_is_answered_from_what_was_known(store: Settings, tmp_path: Path) -> None:
    """While a lock holds reads up: known entities by their last values and the same score, others by defaults; then online again."""
    service = service_of(store, tmp_path, MODEL, features_ms=2_000)
    with client_of(service, tmp_path, Role.PREDICT) as client:
        before = until(lambda: asked(client, KNOWN), lambda one: one.json()["predictions"][0]["features_from"] == "online")
        with online(store) as connection:
            tables = connection.execute("select schemaname || '.' || tablename from pg_tables where schemaname = 'online'").fetchall()
            for (table,) in tables:
                connection.execute(
                    psycopg.sql.SQL("lock table {} in access exclusive mode").format(psycopg.sql.Identifier(*table.split(".")))
                )
            held = [asked(client, KNOWN, {**KNOWN, "origin": "JFK", "carrier": "9E", "dest": "SFO", "tailnum": "N9"}) for _ in range(5)]
        after = until(
            lambda: asked(client, KNOWN), lambda one: one.json()["predictions"][0]["features_from"] == "online", seconds=REST_SECONDS + 10
        )

    assert [one.status_code for one in held] == [200] * 5
    assert {tuple(row["features_from"] for row in one.json()["predictions"]) for one in held} == {("last_good", "default")}
    assert {scores_of(one)[0] for one in held} == set(scores_of(before)) == set(scores_of(after))
    assert sum(one.elapsed.total_seconds() for one in held[1:]) < 6


def test_a_service_starts_with_what_it_had_while_everything_is_away(store: Settings, tmp_path: Path) -> None:
    """Ledger, store and object store lead nowhere: the version that was live serves from this machine, features are defaults."""
    with client_of(service_of(store, tmp_path, MODEL), tmp_path, Role.PREDICT) as client:
        assert asked(client, KNOWN).status_code == 200
    nowhere = "postgresql://nobody:x@127.0.0.1:9/nothing"
    away = store.model_copy(
        update={
            "warehouse_dsn": type(store.warehouse_dsn)(nowhere),
            "online_dsn": type(store.online_dsn)(nowhere),
            "s3_endpoint": "http://127.0.0.1:9",
        }
    )
    with client_of(service_of(away, tmp_path, MODEL), tmp_path, Role.PREDICT) as client:
        ready = client.get("/v2/health/ready")
        answer = asked(client, KNOWN)

    assert ready.status_code == 200
    assert answer.status_code == 200
    assert (answer.json()["predictions"][0]["model_version"], answer.json()["predictions"][0]["features_from"]) == (1, "default")


def test_nobody_asks_without_a_key(client: httpx.Client) -> None:
    """Health alone is public."""
    with httpx.Client(base_url=client.base_url) as nobody:
        refused, live = nobody.post(PREDICT, json={"instances": [KNOWN]}), nobody.get("/v2/health/live")

    assert refused.status_code == 401
    assert live.json() == {"live": True}
    assert client.get("/metrics").status_code == 200
    assert "predictions_total" in client.get("/metrics").text


def test_each_prediction_is_logged_as_it_was_answered(store: Settings, streams: Settings, tmp_path: Path) -> None:
    """Two requests, one of them sent again: a record of each answer in the topic, with vector, scores, positions and definitions."""
    ensure_topics(streams, [Topic(name=prediction_log.topic, partitions=EVENT_PARTITIONS)])
    service = service_of(store.model_copy(update={"kafka_bootstrap": streams.kafka_bootstrap}), tmp_path, MODEL)
    with client_of(service, tmp_path, Role.PREDICT) as client:
        first = asked(client, KNOWN, {**KNOWN, "origin": "XXX"}, **{"Idempotency-Key": "order-1"}).json()["predictions"]
        again = asked(client, KNOWN, {**KNOWN, "origin": "XXX"}, **{"Idempotency-Key": "order-1"}).json()["predictions"]
        until(lambda: service.log.counts().delivered, lambda count: count == 4)
    values = [message.value() or b"" for message in consume(streams, prediction_log.topic)]
    found = [one for one in map(json.loads, values) if one["prediction_id"] == first[0]["id"]]

    assert [one["id"] for one in first] == [one["id"] for one in again]
    assert len(found) == 2
    assert json.loads(found[0]["scores"]) == {"score": first[0]["score"]}
    assert json.loads(found[0]["features"])["request__distance_miles"] == 2454.0
    assert json.loads(found[0]["keys"]) == {"origin": "EWR", "carrier": "AA", "dest": "LAX", "tailnum": "N1"}
    assert json.loads(found[0]["positions"])[0]["offsets"] == {"0": len(ROWS)}
    assert (found[0]["model_version"], found[0]["tier"], found[0]["role"]) == (1, "online", "live")
    assert service.log.counts().lost == {}


def test_every_route_has_a_role(service: Service) -> None:
    """None is open, or closed to all, because somebody forgot it; what is public is health and what a browser needs to log in."""
    routes = routes_of(service)
    public = {name for name, role in POLICY.items() if role is PUBLIC}

    assert unguarded(routes, POLICY) == []
    assert public == {"health_live", "health_ready", "page_login", "page_asset"}


def test_the_page_shows_what_happens_and_explains_it(client: httpx.Client) -> None:
    """The live version, a prediction, and what each feature did to it."""
    number = asked(client, KNOWN).json()["predictions"][0]["id"]
    page, why = client.get("/"), client.get(f"/predictions/{number}")

    assert (page.status_code, why.status_code) == (200, 200)
    assert number in client.get("/status").text
    assert "flight_delay" in page.text
    assert "request__distance_miles" in why.text
    assert client.get("/predictions/nothing").status_code == 404


def test_labels_and_events_are_answered_once_kafka_has_them(store: Settings, streams: Settings, tmp_path: Path) -> None:
    """By the typed client: a label of a prediction, one that no model of the task has, and events of a stream."""
    ensure_topics(streams, [Topic(name=one, partitions=EVENT_PARTITIONS) for one in (prediction_feedback.topic, "flight-departures")])
    service = service_of(store.model_copy(update={"kafka_bootstrap": streams.kafka_bootstrap}), tmp_path, MODEL)
    event = {"flight_id": "f1", "carrier": "AA", "tailnum": "N1", "origin": "EWR", "dest": "LAX", "delay_minutes": 5, "is_cancelled": False}
    times = {"event_at": "2013-06-01T10:00:00Z", "recorded_at": "2013-06-01T10:05:00Z"}
    with client_of(service, tmp_path, Role.PREDICT, Role.FEEDBACK, Role.EVENTS) as opened:
        client = Client(str(opened.base_url), opened.headers["Authorization"].removeprefix("Bearer "))
        with client:
            [answer] = client.predict(MODEL.name, [KNOWN])
            [given] = client.feedback(MODEL.name, [Feedback(prediction_id=answer.id, label=True)])
            events = client.send_events("flight_departures", [{**event, **times}, {**event, **times, "origin": None}])
            with pytest.raises(RequestRefused) as refused:
                client.feedback(MODEL.name, [Feedback(prediction_id=answer.id, label="late")])
    labels = [json.loads(one.value() or b"{}") for one in consume(streams, prediction_feedback.topic)]

    assert given.problem is None
    assert [(one["label"], one["actor"]) for one in labels if one["prediction_id"] == answer.id] == [("true", "test")]
    assert [one.problem is None for one in events] == [True, False]
    assert (refused.value.problem.members["row"], refused.value.problem.members["field"]) == (0, "label")
