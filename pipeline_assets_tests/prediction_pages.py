"""The page of the prediction service before a small service that stands in for the real one; shared by the tests of the page."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.credentials import Credentials
from pipeline_assets.serving.realtime.access.guard import Guard
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.page import (
    ROUTES_POLICY,
    Contribution,
    Explanation,
    ModelStatus,
    RecentPrediction,
    RequestField,
    ServiceStatus,
    ViewFreshness,
    page_routes,
)
from pipeline_assets.serving.realtime.access.sessions import Sessions, session_secret
from pipeline_assets_tests.stream_records import until

AT = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
HOSTILE = "<img src=x onerror=\"document.title='taken over'\">"
CONTRIBUTIONS = {"departures__late_share_1h": 0.8123, "weather__wind": -0.44, "request__hour": 0.21}
FEATURES = {"departures__late_share_1h": 0.5, "weather__wind": None, "request__hour": 17}
RECENT = RecentPrediction(id="p-1", at=AT, model="delay", version=12, score=0.8637, tier="online")
STATUS = ServiceStatus(
    at=AT,
    started_at=AT - timedelta(hours=3),
    is_ready=True,
    workers=2,
    models=(
        ModelStatus(
            name="delay", version=12, since=AT - timedelta(hours=2), requests=1_284_533, errors=1, shed=1204,
            p50_ms=1.84, p95_ms=4.2, p99_ms=117.9,
            traffic=(10.0, 30.0, 20.0), challenger="version 13 shadow",
            freshness=(
                ViewFreshness(view="departures", status="fresh", age_seconds=2, promised_seconds=3600),
                ViewFreshness(view="weather", status="stale", age_seconds=8100, promised_seconds=3600),
                ViewFreshness(view="aircraft", status="unknown"),
            ),
            fields=(
                RequestField(name="origin", kind="text", example="EWR"),
                RequestField(name="distance", kind="number", example=2565.5),
                RequestField(name="seats", kind="integer", example=180),
                RequestField(name="is_charter", kind="boolean", example=False),
                RequestField(name="gate", kind="text"),
                RequestField(name="decision_at", kind="time", is_required=False),
            ),
        ),
        ModelStatus(
            name="forecast", version=None, since=None, problem=HOSTILE, fields=(RequestField(name="team", kind="text", example=HOSTILE),)
        ),
    ),
    recent=(RECENT, replace(RECENT, id="p/2?", score="away win", tier="last good")),
    problems=("The file of keys cannot be used.",),
)  # fmt: skip
EXPLANATION = Explanation(
    prediction=RECENT,
    bias=-1.0986,
    unit="log-odds",
    contributions=tuple(
        Contribution(feature=name, value=None if "hour" in name else 0.5, contribution=moved, status="fresh")
        for name, moved in CONTRIBUTIONS.items()
    ),
)


@dataclass
class Stand:
    """What stands in for the service: what it shows now, and the instances that it was sent."""

    status: ServiceStatus = STATUS
    asked: list[dict[str, object]] = field(default_factory=list)

    async def explain(self, prediction: str) -> Explanation | None:
        """Why, of the predictions that are shown."""
        return EXPLANATION if prediction in {one.id for one in self.status.recent} else None

    async def predict(self, request: Request) -> Response:
        """A prediction; of a nameless origin a problem whose words are hostile."""
        [instance] = (await request.json())["instances"]
        self.asked.append(instance)
        if instance.get("origin") is None:
            problem = {"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": f"Instance 0: 'origin' {HOSTILE}"}
            return JSONResponse(problem, 422, media_type="application/problem+json")
        status = {"departures": "fresh", "weather": "stale"}
        return JSONResponse({"predictions": [{"id": "p-1", "score": 0.4377, "model_version": 12, "feature_status": status}]})

    async def contributions(self, _: Request) -> Response:
        """What moved it."""
        return JSONResponse(
            {"explanations": [{"model_version": 12, "bias": -1.0986, "contributions": CONTRIBUTIONS, "features": FEATURES}]}
        )


def page_app(stand: Stand, keys: Path) -> Guard:
    """The page and the service before it, behind the guard; `keys` is the file of keys."""
    keyring = Keyring(keys)
    sessions = Sessions(keyring, session_secret(keys.parent))
    routes = [
        *page_routes(lambda: stand.status, stand.explain, keys=keyring, sessions=sessions),
        Route("/v1/models/{model}:predict", stand.predict, methods=["POST"], name="predict"),
        Route("/v1/models/{model}:explain", stand.contributions, methods=["POST"], name="explain"),
    ]
    policy = {**ROUTES_POLICY, "predict": Role.PREDICT, "explain": Role.PREDICT}
    return Guard(Starlette(routes=routes), routes=routes, policy=policy, credentials=Credentials(keys=keyring, sessions=sessions))


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The URL of a real server of an app, on loopback, until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
