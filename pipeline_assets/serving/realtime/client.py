"""A client of the prediction service.

    with Client("https://predictions.example", key) as client:
        [answer] = client.predict("churn", [{"customer_id": 7, "plan": "basic"}])
        answer.score, answer.model_version, answer.feature_status

Answers are frozen dataclasses, errors are those of `client_errors`. What the service refused for the moment (429 or 503 with Retry-After)
is asked again when it said, and what broke on the way is asked again soon; both are safe, as each call has an idempotency key of its own,
by which the service knows a repetition. All of it ends after `retry_seconds`. An answer that took too long is not asked for again: that
would add to the load.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from time import time_ns
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

import httpx
import stamina

from pipeline_assets.core.timed_ids import timed_id
from pipeline_assets.serving.realtime.client_errors import (
    NotAllowed,
    NotServed,
    Problem,
    RequestRefused,
    ServiceAway,
    ServiceBroken,
    ServiceBusy,
    ServiceProblem,
)

TIMEOUT_SECONDS, RETRY_SECONDS, ATTEMPTS = 5.0, 15.0, 6
SOON_SECONDS, JITTER = 0.1, 0.25
IDEMPOTENCY_KEY = "idempotency-key"
STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "instance"})
NOT_NOW = httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE
Value = str | float | bool | datetime | None
Instance = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one instance.

    `score` is the probability of a yes-or-no model, `value` the number of a regression; `scores` has the probability of each class and
    `predicted` the most probable one. The others are None. `feature_status` says for each view how good its features were, and
    `features_from` where they came from: "online", or what stood in for it.
    """

    id: str
    model_version: int
    score: float | None = None
    value: float | None = None
    scores: Mapping[str, float] | None = None
    predicted: str | None = None
    feature_status: Mapping[str, str]
    features_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """By how much each feature moved the margin; `bias` and all of them add up to it."""

    bias: float
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a model answers as it does for one instance: its features, and what each did.

    `contributions` is None for a model of several classes, which has them for each in `by_class`. The answer itself is as in Prediction.
    """

    model_version: int
    score: float | None = None
    value: float | None = None
    scores: Mapping[str, float] | None = None
    predicted: str | None = None
    features: Mapping[str, Any]
    contributions: Contributions | None = None
    by_class: Mapping[str, Contributions] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model that is served; `version` is None where none is live."""

    name: str
    is_ready: bool
    version: int | None


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What came of a prediction: its label (None takes back an earlier one), and when that was given (aware; now where it is None)."""

    prediction_id: str
    label: Value
    given_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What became of one row that was sent; `problem` says why it was refused, and `field` which field it is about, where one is."""

    row: int
    is_accepted: bool
    problem: str | None = None
    field: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of the Open Inference Protocol; `data` is flat, in row-major order. `datatype` is one of the protocol's, such as FP32."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: Sequence[float | int | bool | str | None]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """The answer to tensors: the version that made it, and its own tensors.

    prediction_id: of the prediction; of several rows that of row n (from 0) is `prediction_id-n`.
    """

    model_name: str
    model_version: str
    prediction_id: str
    outputs: tuple[Tensor, ...]


class Client:
    """A connection to a prediction service; several threads may use one.

    `timeout_seconds` bounds each answer, `retry_seconds` all attempts of a call. `authority` is a PEM file of those who may sign the
    service's certificate, where the system does not know them.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        authority: str | None = None,
    ) -> None:
        self.url, self._retry_seconds, self._random = url.rstrip("/"), retry_seconds, Random()  # noqa: S311 - chance, no secret
        verify: Any = _trusting(authority) if authority is not None else True
        headers = {"authorization": f"Bearer {key}", "accept": "application/json"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_seconds, verify=verify)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes its connections."""
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def models(self) -> list[str]:
        """The names of the models that are served."""
        return [str(name) for name in self._asked("GET", "/v1/models")["models"]]

    def model(self, name: str) -> ModelInfo:
        """One model; raises NotServed where there is none with the name."""
        found = self._asked("GET", f"/v1/models/{_part(name)}")
        version = found.get("version")
        return ModelInfo(name=str(found["name"]), is_ready=bool(found["ready"]), version=None if version is None else int(version))

    def predict(self, model: str, instances: Sequence[Instance], *, idempotency_key: str | None = None) -> list[Prediction]:
        """A prediction for each instance, in their order.

        An instance has the entity keys and the request's fields (see `docs/how-to/serve-a-model.md`), and may have `decision_at`; times
        are aware. `idempotency_key` is one of the caller's own, for repetitions across processes; a call that comes again with the same
        key and the same instances has the same ids.
        """
        found = self._posted(f"/v1/models/{_part(model)}:predict", {"instances": _rows(instances)}, idempotency_key)
        return [_prediction(one) for one in found["predictions"]]

    def explain(self, model: str, instances: Sequence[Instance]) -> list[Explanation]:
        """What each feature did to the score of each instance, in their order."""
        found = self._posted(f"/v1/models/{_part(model)}:explain", {"instances": _rows(instances)})
        return [_explanation(one) for one in found["explanations"]]

    def feedback(self, model: str, feedback: Sequence[Feedback], *, idempotency_key: str | None = None) -> list[RowResult]:
        """Sends what came of predictions, and returns once that is kept for good, with what became of each row."""
        rows = [
            {"prediction_id": one.prediction_id, "label": one.label, **({} if one.given_at is None else {"given_at": one.given_at})}
            for one in feedback
        ]
        return _results(self._posted(f"/v1/models/{_part(model)}:feedback", {"instances": _rows(rows)}, idempotency_key))

    def send_events(self, stream: str, events: Sequence[Instance], *, idempotency_key: str | None = None) -> list[RowResult]:
        """Sends events of a stream, and returns once they are kept for good, with what became of each; RequestRefused where none was."""
        return _results(self._posted(f"/v1/events/{_part(stream)}", _rows(events), idempotency_key))

    def infer(self, model: str, inputs: Sequence[Tensor], *, version: int | None = None) -> Inference:
        """Scores vectors of the caller's own, by the Open Inference Protocol; of the live version unless another is named."""
        path = f"/v2/models/{_part(model)}" + ("" if version is None else f"/versions/{version}")
        found = self._posted(f"{path}/infer", {"inputs": [_tensor_json(one) for one in inputs]})
        outputs = tuple(_tensor(one) for one in found["outputs"])
        return Inference(
            model_name=str(found["model_name"]),
            model_version=str(found["model_version"]),
            prediction_id=str(found["parameters"]["prediction_id"]),
            outputs=outputs,
        )

    def _posted(self, path: str, body: object, idempotency_key: str | None = None) -> Any:
        return self._asked("POST", path, body, {IDEMPOTENCY_KEY: idempotency_key if idempotency_key is not None else _new_key()})

    def _asked(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON of an answer, after as many attempts as are safe and the time allows."""
        for attempt in stamina.retry_context(on=self._wait, attempts=ATTEMPTS, timeout=self._retry_seconds):
            with attempt:
                return self._asked_once(method, path, body, headers)
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover

    def _asked_once(self, method: str, path: str, body: object, headers: Mapping[str, str] | None) -> Any:
        try:
            answer = self._http.request(method, path, json=body, headers=headers)
        except httpx.TransportError as error:
            raise ServiceAway(self.url, f"{type(error).__name__} {error}".strip()) from error
        if not answer.is_success:
            raise _problem(answer)
        try:
            return answer.json()
        except ValueError:
            found = Problem(status=answer.status_code, title="no JSON", detail=f"{method} {path} answered by something else than JSON.")
            raise ServiceBroken(found) from None

    def _wait(self, error: Exception) -> bool | float:
        """In how many seconds to ask again; False where that is not safe, or would be too late."""
        if isinstance(error, ServiceBusy) and error.retry_after_seconds is not None:
            wait = error.retry_after_seconds
        elif isinstance(error, ServiceAway) and not isinstance(error.__cause__, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
            wait = SOON_SECONDS
        else:
            return False
        return False if wait > self._retry_seconds else wait + self._random.uniform(0, max(wait, SOON_SECONDS) * JITTER)


def _problem(answer: httpx.Response) -> ServiceProblem:
    """The error for an answer that is none of success."""
    try:
        found = answer.json()
    except (ValueError, RecursionError):
        found = None
    document = found if isinstance(found, dict) else {}
    status = answer.status_code
    problem = Problem(
        status=status,
        title=str(document.get("title", answer.reason_phrase)),
        detail=str(document.get("detail", answer.content[:200].decode(errors="replace"))),
        members={name: value for name, value in document.items() if name not in STANDARD_MEMBERS},
    )
    retry_after = _retry_after(answer)
    # Another request with the same idempotency key is being answered.
    is_running = status == httpx.codes.CONFLICT and retry_after is not None
    return (ServiceBusy if is_running else _kind(status))(problem, retry_after)


def _kind(status: int) -> type[ServiceProblem]:
    if status in NOT_NOW:
        return ServiceBusy
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return NotAllowed
    if status == httpx.codes.NOT_FOUND:
        return NotServed
    return RequestRefused if status < httpx.codes.INTERNAL_SERVER_ERROR else ServiceBroken


def _retry_after(answer: httpx.Response) -> float | None:
    """The seconds of Retry-After, None where there are none; the service sends no dates."""
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _prediction(found: Mapping[str, Any]) -> Prediction:
    scores = found.get("scores")
    return Prediction(
        id=str(found["id"]),
        model_version=int(found["model_version"]),
        score=found.get("score"),
        value=found.get("value"),
        scores=None if scores is None else dict(scores),
        predicted=found.get("predicted"),
        feature_status=dict(found.get("feature_status", {})),
        features_from=found.get("features_from"),
    )


def _explanation(found: Mapping[str, Any]) -> Explanation:
    values, bias = found["contributions"], found["bias"]
    is_by_class = isinstance(bias, dict)
    return Explanation(
        model_version=int(found["model_version"]),
        **{name: found.get(name) for name in ("score", "value", "scores", "predicted")},
        features=dict(found["features"]),
        contributions=None if is_by_class else Contributions(bias=float(bias), values=dict(values)),
        by_class={name: Contributions(bias=one, values=dict(values[name])) for name, one in bias.items()} if is_by_class else None,
    )


def _results(found: Mapping[str, Any]) -> list[RowResult]:
    return [
        RowResult(row=int(one["row"]), is_accepted=one["status"] == "accepted", problem=one.get("problem"), field=one.get("field"))
        for one in found["rows"]
    ]


def _part(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(name, safe="")


def _rows(rows: Sequence[Instance]) -> list[dict[str, object]]:
    return [{name: _value(value) for name, value in row.items()} for row in rows]


def _value(value: object) -> object:
    """As JSON has it; a time without a zone is refused, as nobody could say which moment it is."""
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError(f"The time {value.isoformat()} has no zone. Give it one, such as UTC.")
    return value.isoformat()


def _new_key() -> str:
    """A key of its own, with its time, by which the service makes ids that are found by their day."""
    return timed_id(time_ns() // 1_000_000, uuid4().int)


def _tensor_json(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype, "data": list(tensor.data)}


def _tensor(found: Mapping[str, Any]) -> Tensor:
    return Tensor(name=str(found["name"]), shape=tuple(found["shape"]), datatype=str(found["datatype"]), data=tuple(_flat(found["data"])))


def _flat(data: Any) -> Iterator[Any]:
    """The values of a list that may be nested as the shape is, which the protocol allows."""
    for one in data:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one


def _trusting(authority: str) -> Any:
    from ssl import create_default_context

    return create_default_context(cafile=authority)
