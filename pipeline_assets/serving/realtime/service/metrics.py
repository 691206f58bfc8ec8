"""What the service counts, in the text format that Prometheus reads, and as figures for its page."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pipeline_assets.serving.realtime.log.writer import LogCounts
from pipeline_assets.serving.realtime.service.live import Serving
from pipeline_assets.serving.realtime.service.predictor import Answered, Predictor
from pipeline_assets.serving.realtime.service.problems import problem_of

BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# The figures of the page are of so many requests, not older than this.
NEWEST, WITHIN_SECONDS, TRAFFIC_SECONDS = 5_000, 300.0, 60
OK, FAILED, SHED = 200, 500, {429, 503}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Requests of a model: all since the start, failed and refused ones of the last five minutes, and latency in ms (None: no request).

    traffic: requests per second of the last minute, oldest first.
    """

    traffic: tuple[float, ...]
    requests: int
    errors: int
    shed: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass
class Metrics:
    """The metrics of one process."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    content_type: str = CONTENT_TYPE_LATEST

    def __post_init__(self) -> None:
        self._requests = Counter(
            "predict_requests", "Requests for predictions, by model and status of HTTP.", ("model", "status"), registry=self.registry
        )
        self._rows = Counter(
            "predictions",
            "Predictions, by model, version and where features come from.",
            ("model", "version", "features_from"),
            registry=self.registry,
        )
        self._views = Counter(
            "predict_feature_status",
            "Questions by model, view and status of its features.",
            ("model", "view", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram("predict_seconds", "From a request to its answer.", ("model",), buckets=BUCKETS, registry=self.registry)
        self._stage = Histogram(
            "predict_stage_seconds",
            "Of questions that were answered together: reading features, asking the model.",
            ("model", "stage"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._version = Gauge("predict_model_version", "The version that serves.", ("model",), registry=self.registry)
        self._waiting = Gauge("predict_waiting_requests", "Requests that wait for their turn.", ("model",), registry=self.registry)
        self._logged = Gauge("prediction_log_records", "Records of the log by what became of them.", ("state",), registry=self.registry)
        self._answers: dict[str, tuple[Counter, Histogram]] = {}
        self._count: dict[str, int] = {}
        self._newest: dict[str, deque[tuple[float, float, int]]] = {}

    def live(self, serving: Serving) -> None:
        """A version begins to serve."""
        self._version.labels(serving.loaded.model.name).set(serving.loaded.version)

    def answered(self, answered: Answered) -> None:
        """Questions were answered together."""
        model, version = answered.serving.loaded.model.name, str(answered.serving.loaded.version)
        for tier in set(answered.found.tiers):
            self._rows.labels(model, version, tier).inc(answered.found.tiers.count(tier))
        for view, statuses in answered.found.statuses.items():
            for status in set(statuses):
                self._views.labels(model, view, status).inc(statuses.count(status))
        if answered.features_ms:
            # Of features that the caller brought none were read.
            self._stage.labels(model, "features").observe(answered.features_ms / 1000)
        self._stage.labels(model, "model").observe(answered.model_ms / 1000)

    def took(self, model: str, seconds: float) -> None:
        """A request was answered."""
        requests, taken = self._of_model(model)
        requests.inc()
        taken.observe(seconds)
        self._note(model, seconds, OK)

    def failed(self, model: str, error: Exception) -> None:
        """A request was not answered."""
        status = problem_of(error).status
        self._requests.labels(model, str(status)).inc()
        self._note(model, 0.0, status)

    def figures(self, model: str) -> Figures:
        """What the page shows of a model."""
        since = time.monotonic() - WITHIN_SECONDS
        known = [one for one in self._newest.get(model, ()) if one[0] >= since]
        taken = [seconds * 1000 for _, seconds, status in known if status == OK]
        now = time.monotonic()
        ages = [int(now - at) for at, _, _ in known if now - at < TRAFFIC_SECONDS]
        p50, p95, p99 = (float(one) for one in np.percentile(taken, (50, 95, 99))) if taken else (None, None, None)
        return Figures(
            traffic=tuple(np.bincount(ages, minlength=TRAFFIC_SECONDS)[::-1].astype(float).tolist()) if ages else (),
            requests=self._count.get(model, 0),
            errors=sum(status >= FAILED and status not in SHED for _, _, status in known),
            shed=sum(status in SHED for _, _, status in known),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
        )

    def text(self, predictors: Mapping[str, Predictor], log: LogCounts) -> bytes:
        """All metrics."""
        for state, records in {
            "delivered": log.delivered,
            "waiting": log.waiting,
            "spooled": log.spooled,
            "lost": sum(log.lost.values()),
        }.items():
            self._logged.labels(state).set(records)
        for name, one in predictors.items():
            self._waiting.labels(name).set(one.waiting)
        return generate_latest(self.registry)

    def _of_model(self, model: str) -> tuple[Counter, Histogram]:
        """The metrics of requests that are answered, looked for once: to find them takes longer than to count."""
        found = self._answers.get(model)
        if found is None:
            found = self._answers[model] = self._requests.labels(model, str(OK)), self._seconds.labels(model)
        return found

    def _note(self, model: str, seconds: float, status: int) -> None:
        self._count[model] = self._count.get(model, 0) + 1
        self._newest.setdefault(model, deque(maxlen=NEWEST)).append((time.monotonic(), seconds, status))
