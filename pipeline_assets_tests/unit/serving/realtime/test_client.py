"""The client of the prediction service: what it sends, what it makes of answers, and when it asks again."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import stamina

from pipeline_assets.core.errors import TransientError, UserInputError
from pipeline_assets.serving.realtime.client import Client, Feedback, Tensor
from pipeline_assets.serving.realtime.client_errors import (
    NotAllowed,
    NotServed,
    RequestRefused,
    ServiceAway,
    ServiceBroken,
    ServiceBusy,
    ServiceProblem,
)

KEY = "pipe_0123456789abcdef_" + "s3cr3t" * 7 + "x"
FLIGHT = {"origin": "EWR", "distance": 2565.5, "decision_at": datetime(2013, 6, 30, 12, tzinfo=UTC), "tailnum": None}
Answer = httpx.Response | httpx.TransportError


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which are noted instead of waited for."""
    noted: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", noted.append)
    return noted


def client_of(answers: Sequence[Answer], **given: Any) -> tuple[Client, list[httpx.Request]]:
    """A client that gets these answers, the last one for ever, and what it has asked."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = answers[min(len(asked), len(answers)) - 1]
        if isinstance(found, httpx.TransportError):
            raise found
        return found

    client = Client("http://service.test/", KEY, **given)
    client._http = httpx.Client(transport=httpx.MockTransport(answer), base_url=client.url, headers=client._http.headers)  # noqa: SLF001
    return client, asked


def ok(body: object) -> httpx.Response:
    """An answer of success."""
    return httpx.Response(200, json=body)


def problem(status: int, *, retry_after: int | None = None, **members: object) -> httpx.Response:
    """An answer by a problem document."""
    document = {"type": "about:blank", "title": "Title", "status": status, "detail": "what to do", **members}
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return httpx.Response(status, json=document, headers={"content-type": "application/problem+json", **headers})


def test_a_prediction_comes_back_in_its_kind() -> None:
    """Of yes or no, of a number, and of classes; keys and times are sent as the service reads them."""
    both = {"model_version": 12, "feature_status": {"weather": "stale"}, "features_from": "online"}
    found = [
        {"id": "1", "score": 0.25, **both},
        {"id": "2", "value": -3.5, **both},
        {"id": "3", "scores": {"a": 0.25, "b": 0.75}, "predicted": "b", **both},
    ]
    client, asked = client_of([ok({"predictions": found})])
    first, second, third = client.predict("a/b", [FLIGHT], idempotency_key="mine")

    assert (first.id, first.score, first.value, first.model_version, first.features_from) == ("1", 0.25, None, 12, "online")
    assert (second.value, second.feature_status) == (-3.5, {"weather": "stale"})
    assert (third.scores, third.predicted) == ({"a": 0.25, "b": 0.75}, "b")
    assert asked[0].url.raw_path == b"/v1/models/a%2Fb:predict"
    assert asked[0].headers["idempotency-key"] == "mine"
    assert asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert asked[0].content == (
        b'{"instances":[{"origin":"EWR","distance":2565.5,"decision_at":"2013-06-30T12:00:00+00:00","tailnum":null}]}'
    )


def test_an_explanation_has_contributions_of_the_answer_or_of_each_class() -> None:
    """With the features that they are of."""
    both = {"model_version": 12, "features": {"x": 1.5, "y": None}}
    one = {**both, "score": 0.25, "contributions": {"x": 0.5, "y": -0.25}, "bias": -1.5}
    by_class = {**both, "scores": {"a": 1.0}, "predicted": "a", "contributions": {"a": {"x": 0.5, "y": 0.0}}, "bias": {"a": 0.25}}
    client, _ = client_of([ok({"explanations": [one, by_class]})])
    first, second = client.explain("delay", [FLIGHT, FLIGHT])

    assert first.contributions is not None
    assert second.by_class is not None
    assert (first.contributions.bias, first.contributions.values, first.by_class) == (-1.5, {"x": 0.5, "y": -0.25}, None)
    assert (second.by_class["a"].bias, second.by_class["a"].values, second.contributions) == (0.25, {"x": 0.5, "y": 0.0}, None)
    assert (first.features, first.score, second.predicted) == ({"x": 1.5, "y": None}, 0.25, "a")


def test_models_tensors_labels_and_events() -> None:
    """The other calls, each with the path and the body of its protocol."""
    client, asked = client_of(
        [
            ok({"models": ["delay"]}), ok({"name": "delay", "ready": True, "version": 12, "problem": None}), ok({"name": "other", "ready":
            False, "version": None}), ok({"model_name": "delay", "model_version": "12", "parameters": {"prediction_id": "p"}, "outputs":
            [{"name": "scores", "shape": [2, 2], "datatype": "FP64", "data": [[1, 2], [3, 4]]}]}), ok({"rows": [{"row": 0, "status":
            "accepted"}, {"row": 1, "status": "refused", "field": "label", "problem": "is no label"}]}), ok({"rows": [{"row": 0,
            "status": "accepted", "partition": 0, "offset": 7}]}),
        ]
    )  # fmt: skip
    models, delay, other = client.models(), client.model("delay"), client.model("other")
    inference = client.infer("delay", [Tensor(name="features", shape=(2, 1), datatype="FP32", data=[1.5, 2.5])], version=12)
    results = client.feedback(
        "delay", [Feedback(prediction_id="1", label=True), Feedback(prediction_id="2", label=0, given_at=datetime(2013, 7, 1, tzinfo=UTC))]
    )
    sent = client.send_events("departures", [{"flight": "UA 1"}])

    assert (models, delay.version, other.version, other.is_ready) == (["delay"], 12, None, False)
    assert (inference.model_version, inference.prediction_id) == ("12", "p")
    assert (inference.outputs[0].shape, inference.outputs[0].data) == ((2, 2), (1, 2, 3, 4))
    assert [(one.row, one.is_accepted, one.field, one.problem) for one in results] == [
        (0, True, None, None),
        (1, False, "label", "is no label"),
    ]
    assert [one.is_accepted for one in sent] == [True]
    assert [request.url.path for request in asked[3:]] == [
        "/v2/models/delay/versions/12/infer",
        "/v1/models/delay:feedback",
        "/v1/events/departures",
    ]
    assert asked[3].content == b'{"inputs":[{"name":"features","shape":[2,1],"datatype":"FP32","data":[1.5,2.5]}]}'
    assert asked[4].content == (
        b'{"instances":[{"prediction_id":"1","label":true},{"prediction_id":"2","label":0,"given_at":"2013-07-01T00:00:00+00:00"}]}'
    )
    assert asked[5].content == b'[{"flight":"UA 1"}]'


@pytest.mark.parametrize(
    ("status", "kind", "is_users"),
    [
        (400, RequestRefused, True),
        (401, NotAllowed, True),
        (403, NotAllowed, True),
        (404, NotServed, True),
        (409, RequestRefused, True),
        (413, RequestRefused, True),
        (422, RequestRefused, True),
        (429, ServiceBusy, False),
        (500, ServiceBroken, False),
        (503, ServiceBusy, False),
    ],
)
def test_a_problem_document_becomes_a_typed_error(status: int, kind: type[ServiceProblem], is_users: bool, waits: list[float]) -> None:  # noqa: FBT001
    """With its members, once asked: without Retry-After nothing says that another time would help."""
    client, asked = client_of([problem(status, model="delay", row=3, field="carrier")])

    with pytest.raises(kind, match=f"answered {status} Title: what to do") as raised:
        client.predict("delay", [FLIGHT])
    assert raised.value.problem.members == {"model": "delay", "row": 3, "field": "carrier"}
    assert isinstance(raised.value, UserInputError) == is_users
    assert isinstance(raised.value, TransientError) == (kind is ServiceBusy)
    assert (len(asked), waits) == (1, [])


@pytest.mark.parametrize("status", [409, 429, 503])
def test_what_is_refused_for_the_moment_is_asked_again_when_it_was_said(status: int, waits: list[float]) -> None:
    """Not earlier, somewhat later so that not all come at once, and with the same idempotency key."""
    client, asked = client_of([problem(status, retry_after=2), problem(status, retry_after=0), ok({"predictions": []})])

    assert client.predict("delay", [FLIGHT]) == []
    assert [2 <= waits[0] <= 2.5, 0 <= waits[1] <= 0.1] == [True, True]
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert len(asked) == 3


def test_two_calls_have_two_idempotency_keys() -> None:
    """Else the second would be taken for the first."""
    client, asked = client_of([ok({"predictions": []})])
    client.predict("delay", [FLIGHT])
    client.predict("delay", [FLIGHT])

    assert asked[0].headers["idempotency-key"] != asked[1].headers["idempotency-key"]


def test_attempts_are_bounded(waits: list[float]) -> None:
    """In number, and in time: what would come too late is not waited for."""
    client, asked = client_of([problem(503, retry_after=1)])
    with pytest.raises(ServiceBusy):
        client.models()
    patient = len(asked)
    client, asked = client_of([problem(503, retry_after=60)])
    with pytest.raises(ServiceBusy) as raised:
        client.models()

    assert (patient, len(waits)) == (6, 5)
    assert (len(asked), raised.value.retry_after_seconds) == (1, 60)


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (httpx.ConnectError("refused"), 2),
        (httpx.ConnectTimeout("late"), 2),
        (httpx.ReadError("reset"), 2),
        (httpx.RemoteProtocolError("disconnected"), 2),
        (httpx.ReadTimeout("late"), 1),
        (httpx.WriteTimeout("late"), 1),
        (httpx.PoolTimeout("late"), 1),
    ],
)
def test_a_connection_that_breaks_is_made_again_and_a_late_answer_is_not_asked_for_again(
    error: httpx.TransportError, attempts: int
) -> None:
    """A worker that is restarted in between is not seen; a service that is slow gets no more to do."""
    client, asked = client_of([error, ok({"models": []})])
    if attempts > 1:
        assert client.models() == []
    else:
        with pytest.raises(ServiceAway, match=type(error).__name__):
            client.models()
    assert len(asked) == attempts


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(502, text="<html>a proxy</html>"), ServiceBroken),
        (httpx.Response(400, json=["no", "object"]), RequestRefused),
        (httpx.Response(302, headers={"location": "/login"}), RequestRefused),
        (httpx.Response(200, text="no JSON"), ServiceBroken),
        (httpx.Response(502, headers={"content-type": "text/html; charset=hex"}, content=b"<html>a proxy</html>"), ServiceBroken),
    ],
)
def test_what_is_no_problem_document_is_an_error_all_the_same(answer: httpx.Response, kind: type[ServiceProblem]) -> None:
    """Such as the page of a proxy."""
    client, _ = client_of([answer])

    with pytest.raises(kind, match=str(answer.status_code)):
        client.models()


@pytest.mark.parametrize("value", [datetime(2013, 6, 30), float("nan"), float("inf")])  # noqa: DTZ001 - the mistake
def test_what_no_service_could_read_is_not_sent(value: datetime | float) -> None:
    """A time without a zone, and numbers that JSON does not have."""
    client, asked = client_of([ok({"predictions": []})])

    with pytest.raises(ValueError, match=r"has no zone|JSON"):
        client.predict("delay", [{"x": value}])
    assert asked == []


def test_the_key_is_in_no_text_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in an error, nor in how it is printed, nor in a log."""
    client, _ = client_of([problem(503, retry_after=0), httpx.ConnectError("refused"), problem(401)])
    with caplog.at_level(logging.DEBUG), stamina.set_testing(testing=False), pytest.raises(NotAllowed) as raised:
        client.models()

    shown = f"{raised.value!r} {raised.value} {client!r} {client._http!r} {client._http.headers!r} {caplog.text}"  # noqa: SLF001
    assert "s3cr3t" not in shown
    assert "service.test" in caplog.text


def test_a_service_that_is_not_there_is_named() -> None:
    """With its URL, after some attempts; over a real connection."""
    with (
        Client("http://127.0.0.1:1", KEY, retry_seconds=1) as client,
        pytest.raises(ServiceAway, match=r"http://127\.0\.0\.1:1 did not answer: ConnectError"),
    ):
        client.models()
