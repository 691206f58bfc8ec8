"""The document in which the prediction service says of itself how it is, over all of its processes: `GET /v1/service`."""

import msgspec


class ModelOverview(msgspec.Struct, kw_only=True):
    """A model: the versions that processes answer with, since when the newest does everywhere (ISO 8601), and requests.

    requests: all since the processes started; what follows is of the last `window_seconds`. errors: failed by a fault of the service.
    refused: unfit. shed: for want of room, or as none serves. Latencies in ms, None where nothing was answered. tiers: predictions by where
    their features came from. statuses: questions by view and status. traffic: requests per second of the last minute, oldest first; none
    where there was none.
    """

    versions: list[int]
    since: str | None
    requests: int
    answered: int
    errors: int
    refused: int
    shed: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    tiers: dict[str, int]
    statuses: dict[str, dict[str, int]]
    traffic: list[float]


class WorkerOverview(msgspec.Struct, kw_only=True):
    """A process: how long ago it reported; the version of each model (None: none serves), and why the one that is live does not."""

    worker: int
    started_at: str
    age_seconds: float
    is_ready: bool
    problems: list[str]
    versions: dict[str, int | None]
    model_problems: dict[str, str]


class ViewOverview(msgspec.Struct, kw_only=True):
    """How old the newest that was known to a view was when it was last asked for (None: it never was followed), and when (ISO 8601)."""

    age_seconds: float | None
    asked_at: str


class LogOverview(msgspec.Struct, kw_only=True):
    """The log of predictions: records, those lost by reason since the processes started; since when Kafka is away (ISO 8601)."""

    delivered: int
    waiting: int
    spooled: int
    lost: dict[str, int]
    away_since: str | None


class Overview(msgspec.Struct, kw_only=True):
    """The service. features_ms: how long an answer waits for the online store."""

    is_ready: bool
    features_ms: int
    window_seconds: int
    workers: list[WorkerOverview]
    models: dict[str, ModelOverview]
    views: dict[str, ViewOverview]
    log: LogOverview
