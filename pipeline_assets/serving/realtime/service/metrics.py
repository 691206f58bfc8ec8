"""What a process of the service counts: in the text format that Prometheus reads, and as counts of the last five minutes."""

import time
from collections import Counter as Counts
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pipeline_assets.serving.realtime.log.writer import LogCounts
from pipeline_assets.serving.realtime.service.challenger import Challenger, Outcome
from pipeline_assets.serving.realtime.service.live import Serving
from pipeline_assets.serving.realtime.service.predictor import Answered, Predictor
from pipeline_assets.serving.realtime.service.problems import problem_of
from pipeline_assets.serving.realtime.service.window import Window

BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TRAFFIC_SECONDS = 60
FAILED, SHED_STATUSES = 500, {429, 503}
# The names of counts, beside those of latencies, of tiers and of statuses of views.
OK, ERROR, SHED, REFUSED = "ok", "error", "shed", "refused"
TIER, STATUS = "tier:", "status:"


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
            "Predictions, by model, version, what it was for (live or canary) and where features come from.",
            ("model", "version", "role", "features_from"),
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
        self._tried = Counter(
            "predict_tried_rows",
            "Rows of a version that is tried, by what became of them: answered, failed, or dropped unseen.",
            ("model", "version", "role", "outcome"),
            registry=self.registry,
        )
        self._tried_seconds = Histogram(
            "predict_tried_seconds",
            "Calls of a version that is tried; beside them `predict_stage_seconds` of the stage `model`.",
            ("model", "version", "role"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._waiting = Gauge("predict_waiting_requests", "Requests that wait for their turn.", ("model",), registry=self.registry)
        self._logged = Gauge("prediction_log_records", "Records of the log by what became of them.", ("state",), registry=self.registry)
        self._answers: dict[str, tuple[Counter, Histogram]] = {}
        self._count: Counts[str] = Counts()
        self._windows: dict[str, Window] = {}
        self._traffic: dict[str, Counts[int]] = {}

    def live(self, serving: Serving) -> None:
        """A version begins to serve."""
        self._version.labels(serving.loaded.model.name).set(serving.loaded.version)

    def answered(self, answered: Answered) -> None:
        """Questions were answered together."""
        model, version = answered.serving.loaded.model.name, str(answered.serving.loaded.version)
        window, tiers = self._window(model), answered.found.tiers
        for tier in set(tiers):
            window.add(f"{TIER}{tier}", tiers.count(tier))
        if answered.tried is not None:
            own, version_of_own = [tiers[row] for row in answered.tried.rows], str(answered.tried.loaded.version)
            tiers = [tier for row, tier in enumerate(tiers) if row not in answered.tried.rows]
            for tier in set(own):
                self._rows.labels(model, version_of_own, "canary", tier).inc(own.count(tier))
        for tier in set(tiers):
            self._rows.labels(model, version, "live", tier).inc(tiers.count(tier))
        for view, statuses in answered.found.statuses.items():
            for status in set(statuses):
                self._views.labels(model, view, status).inc(statuses.count(status))
                window.add(f"{STATUS}{view}:{status}", statuses.count(status))
        if answered.features_ms:
            # Of features that the caller brought none were read.
            self._stage.labels(model, "features").observe(answered.features_ms / 1000)
        self._stage.labels(model, "model").observe(answered.model_ms / 1000)

    def tried(self, one: Challenger, outcome: Outcome, rows: int, seconds: float) -> None:
        """Something became of rows of a version that is tried."""
        model, version, role = one.loaded.model.name, str(one.trial.version), one.trial.role
        self._tried.labels(model, version, role, outcome).inc(rows)
        if outcome == "answered":
            self._tried_seconds.labels(model, version, role).observe(seconds)

    def took(self, model: str, seconds: float) -> None:
        """A request was answered."""
        requests, taken = self._of_model(model)
        requests.inc()
        taken.observe(seconds)
        self._note(model, OK)
        self._window(model).took(seconds * 1000)

    def failed(self, model: str, error: Exception) -> None:
        """A request was not answered."""
        status = problem_of(error).status
        self._requests.labels(model, str(status)).inc()
        self._note(model, SHED if status in SHED_STATUSES else ERROR if status >= FAILED else REFUSED)

    def requests(self, model: str) -> int:
        """Its requests since the start."""
        return self._count[model]

    def counts(self, model: str) -> dict[str, int]:
        """What the last five minutes had of it."""
        return dict(self._window(model).counts())

    def traffic(self, model: str) -> dict[int, int]:
        """Its requests by second of the monotonic clock, of the last minute."""
        since = int(time.monotonic()) - TRAFFIC_SECONDS
        return {second: requests for second, requests in tuple(self._traffic.get(model, {}).items()) if second > since}

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
            found = self._answers[model] = self._requests.labels(model, "200"), self._seconds.labels(model)
        return found

    def _window(self, model: str) -> Window:
        found = self._windows.get(model)
        # A request and its prediction may both be the first that is counted.
        return found if found is not None else self._windows.setdefault(model, Window())

    def _note(self, model: str, outcome: str) -> None:
        self._count[model] += 1
        self._window(model).add(outcome)
        traffic = self._traffic.get(model)
        if traffic is None:
            traffic = self._traffic[model] = Counts()
        traffic[int(time.monotonic())] += 1
        if len(traffic) > 2 * TRAFFIC_SECONDS:
            self._traffic[model] = Counts(self.traffic(model))
