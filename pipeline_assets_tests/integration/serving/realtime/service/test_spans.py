"""Spans of requests, received as any collector of OpenTelemetry would (OTLP over HTTP), and what is passed on to Kafka."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.connectors import EVENT_PARTITIONS
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets_tests.served_models import INSTANCE, MODEL, ROWS, client_of, put_live, service_of
from pipeline_assets_tests.stream_records import consume, until

PREDICT = f"/v1/models/{MODEL.name}:predict"
KNOWN = {**INSTANCE, "decision_at": ROWS[-1]["recorded_at"].isoformat()}
PARENT = "b7ad6b7169203331"
RECORDED, NOT_RECORDED, BROKEN, OF_EVENTS = (f"{number:032x}" for number in range(0xABC, 0xAC0))
EVENT = {
    "flight_id": "f1", "carrier": "AA", "tailnum": "N1", "origin": "EWR", "dest": "LAX", "delay_minutes": 5, "is_cancelled": False,
    "event_at": "2013-06-01T10:00:00Z", "recorded_at": "2013-06-01T10:05:00Z",
}  # fmt: skip


class Collector:
    """A receiver of spans on loopback."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        found = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = ExportTraceServiceRequest.FromString(body)
                found.extend(span for of in asked.resource_spans for scope in of.scope_spans for span in scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def of(self, trace: str) -> dict[str, Span]:
        """The spans of a trace by their names."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace}

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver of this test alone."""
    found = Collector()
    yield found
    found.close()


@pytest.fixture
def store(isolated: Settings) -> Settings:
    """An online store of departures, and a version of the model that is live."""
    return put_live(isolated)


def predict(client: httpx.Client, traceparent: str | None = None) -> str:
    """The id of a prediction that is asked for as part of a trace."""
    headers = {} if traceparent is None else {"traceparent": traceparent}
    answer = client.post(PREDICT, json={"instances": [KNOWN]}, headers=headers)
    assert answer.status_code == 200
    return str(answer.json()["predictions"][0]["id"])


def test_a_recorded_trace_goes_on_to_the_collector_and_to_kafka(
    store: Settings, streams: Settings, collector: Collector, tmp_path: Path
) -> None:
    """Request, features, model and log below the caller's span; records have the span that sent them; what is not recorded is passed on."""
    ensure_topics(streams, [Topic(name=one, partitions=EVENT_PARTITIONS) for one in (prediction_log.topic, "flight-departures")])
    settings = store.model_copy(update={"kafka_bootstrap": streams.kafka_bootstrap})
    service = service_of(settings, tmp_path, MODEL, serve_otlp_url=collector.url)
    with client_of(service, tmp_path, Role.PREDICT, Role.EVENTS) as client:
        recorded = predict(client, f"00-{RECORDED}-{PARENT}-01")
        unrecorded = predict(client, f"00-{NOT_RECORDED}-{PARENT}-00")
        alone = predict(client)
        client.post(PREDICT, json={}, headers={"traceparent": f"00-{BROKEN}-{PARENT}-01"})
        client.post("/v1/events/flight_departures", json=EVENT, headers={"traceparent": f"00-{OF_EVENTS}-{PARENT}-01"})
        until(lambda: service.log.counts().delivered, lambda count: count == 3)
        until(lambda: len(collector.of(RECORDED)) == 4 and collector.of(OF_EVENTS))
    messages = {json.loads(one.value() or b"{}")["prediction_id"]: one for one in consume(streams, prediction_log.topic)}
    passed = {number: dict(messages[number].headers() or []).get("traceparent") for number in (recorded, unrecorded, alone)}
    spans, root = collector.of(RECORDED), json.loads(messages[alone].value() or b"{}")["trace_id"]
    request, features, model, log = (spans[name] for name in ("POST predict", "features", "model", "log"))
    values = {one.key: one.value.string_value or one.value.int_value for one in request.attributes}
    events = [dict(one.headers() or []).get("traceparent") for one in consume(streams, "flight-departures")]

    assert request.parent_span_id.hex() == PARENT
    assert {span.parent_span_id for span in (features, model, log)} == {request.span_id}
    assert features.end_time_unix_nano <= model.start_time_unix_nano <= model.end_time_unix_nano <= request.end_time_unix_nano
    assert (values["pipeline.model"], values["pipeline.model_version"], values["http.response.status_code"]) == (MODEL.name, 1, 200)
    assert passed[recorded] == f"00-{RECORDED}-{log.span_id.hex()}-01".encode()
    assert passed[unrecorded] == f"00-{NOT_RECORDED}-{PARENT}-00".encode()
    assert collector.of(NOT_RECORDED) == {}
    assert (collector.of(root)["POST predict"].parent_span_id, len(collector.of(root))) == (b"", 4)
    assert {one.key: one.value.int_value for one in collector.of(BROKEN)["POST predict"].attributes}["http.response.status_code"] == 422
    assert f"00-{OF_EVENTS}-{collector.of(OF_EVENTS)['POST events'].span_id.hex()}-01".encode() in events


def test_a_share_of_none_records_what_callers_do_alone(store: Settings, collector: Collector, tmp_path: Path) -> None:
    """Requests without a trace have no span, those whose callers record theirs have."""
    service = service_of(store, tmp_path, MODEL, serve_otlp_url=collector.url, serve_otlp_share=0.0)
    with client_of(service, tmp_path, Role.PREDICT) as client:
        predict(client)
        predict(client, f"00-{RECORDED}-{PARENT}-01")
        until(lambda: collector.of(RECORDED))

    assert {span.trace_id.hex() for span in collector.spans} == {RECORDED}


def test_a_collector_that_is_away_holds_up_nobody(store: Settings, tmp_path: Path) -> None:
    """Predictions are answered, and the service ends soon."""
    service = service_of(store, tmp_path, MODEL, serve_otlp_url="http://127.0.0.1:9/v1/traces")
    with client_of(service, tmp_path, Role.PREDICT) as client:
        took = []
        for _ in range(20):
            began = monotonic()
            predict(client)
            took.append(monotonic() - began)
        began = monotonic()
        assert service.spans is not None
        service.spans.close()
        ended = monotonic() - began

    assert sorted(took)[10] < 1
    assert ended < 10
