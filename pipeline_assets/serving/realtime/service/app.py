"""The prediction service as an ASGI app: which routes there are, and what they need.

POST /v1/models/{model}:predict      GET /v1/models   GET /v1/models/{model}
GET  /v2/health/live, /v2/health/ready, /v2/models/{model}[/versions/{version}][/ready]
POST /v2/models/{model}[/versions/{version}]/infer
POST /v1/models/{model}:explain      POST /v1/features/{model}      GET /v1/service   GET /metrics   GET /openapi.json
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
import pyarrow as pa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from pipeline_assets.core.errors import PipelineError
from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import PredictionSettings, ServeSettings
from pipeline_assets.model_lifecycle.feature_store.online.app import feature_routes
from pipeline_assets.model_lifecycle.feature_store.online.awaited import AwaitedReader
from pipeline_assets.model_lifecycle.feature_store.online.compare import kinds_of
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.kept_values import Notes
from pipeline_assets.model_lifecycle.feature_store.online.pool import Readers
from pipeline_assets.model_lifecycle.feature_store.online.read import Served
from pipeline_assets.processing.features import wall_clock
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.guard import PUBLIC, Policy
from pipeline_assets.serving.realtime.access.opened import Access
from pipeline_assets.serving.realtime.access.page import ROUTES_POLICY, page_routes
from pipeline_assets.serving.realtime.log.acked import AckedProducer
from pipeline_assets.serving.realtime.log.events import event_routes
from pipeline_assets.serving.realtime.log.writer import PredictionLog
from pipeline_assets.serving.realtime.service import explain, feedback, reported, v1, v2
from pipeline_assets.serving.realtime.service.features import Features
from pipeline_assets.serving.realtime.service.live import LiveVersions, Serving
from pipeline_assets.serving.realtime.service.logged import logged
from pipeline_assets.serving.realtime.service.metrics import Metrics
from pipeline_assets.serving.realtime.service.openapi import document
from pipeline_assets.serving.realtime.service.predictor import Part, Predictor
from pipeline_assets.serving.realtime.service.problems import problem_of
from pipeline_assets.serving.realtime.service.schema import RequestSchema
from pipeline_assets.serving.realtime.service.shadow import Shadows
from pipeline_assets.serving.realtime.service.spans import SPAN, Spans, Traced
from pipeline_assets.serving.realtime.service.status import Recent, explain_recent, status_of
from pipeline_assets.serving.realtime.service.workers import Workers, text_of
from pipeline_assets.spec.models import Model

CLOSING_SECONDS = 5.0
ASKS_OR_READS = frozenset({Role.READ, Role.PREDICT})
POLICY: Policy = {
    "predict": Role.PREDICT,
    "explain": Role.PREDICT,
    "feedback": Role.FEEDBACK,
    "events": Role.EVENTS,
    "infer": Role.PREDICT,
    "features": ASKS_OR_READS,
    "models": ASKS_OR_READS,
    "model": ASKS_OR_READS,
    "metadata": ASKS_OR_READS,
    "model_ready": ASKS_OR_READS,
    "health_live": PUBLIC,
    "health_ready": PUBLIC,
    "service": Role.READ,
    "metrics": Role.READ,
    "openapi": ASKS_OR_READS,
    **ROUTES_POLICY,
}


@dataclass
class Service:
    """What the routes share: the models with their predictors, and which versions serve."""

    settings: PredictionSettings
    project: Project
    feeds: Sequence[Feed]
    serve: ServeSettings
    folder: Path
    metrics: Metrics = field(default_factory=Metrics)
    predictors: dict[str, Predictor] = field(default_factory=dict)
    recent: Recent = field(default_factory=Recent)

    def __post_init__(self) -> None:
        self.live = LiveVersions(
            settings=self.settings,
            models=self.project.models,
            folder=self.folder / "packages",
            on_change=self.metrics.live,
            on_scored=self.metrics.tried,
        )
        self.shadows = Shadows(lambda: self.live.challengers.running, self._log_shadow, self.metrics.tried)
        self.readers, self._awaited = Readers(self.settings, self.feeds), list[AwaitedReader]()
        self._notes = Notes(self.settings, self.feeds)
        self.producer = AckedProducer(self.settings)
        self.spans = None if self.serve.serve_otlp_url is None else Spans(self.serve.serve_otlp_url, self.serve.serve_otlp_share)
        self.log = PredictionLog(self.settings, self.folder / "spool", prediction_log.topic)
        places = self.folder / "workers" / str(self.serve.serve_port)
        self.workers = Workers(places, partial(reported.report_of, self), are_several=self.serve.serve_workers > 1)
        for model in self.project.models:
            self.predictors[model.name] = self._predictor(model)

    def predictor(self, name: str) -> Predictor:
        """The predictor of a model; raises UnknownName."""
        return self.predictors[self.project.model(name).name]

    def version(self, name: str) -> Serving | None:
        """The version of a model that serves; raises UnknownName for no model."""
        return self.live.serving.get(self.project.model(name).name)

    @property
    def is_ready(self) -> bool:
        """Whether every model that has a live version serves one; and the ledger has been asked, or answered for from here."""
        return self.live.has_looked and not self.live.problems.keys() - self.live.serving.keys()

    def answered(self, request: Request, part: Part, ids: Sequence[str]) -> None:
        """Has the log, the page and a version in the shadow take what a request was answered."""
        trace, span = request.scope["state"]["trace"], request.scope["state"].get(SPAN)
        passed = trace.header if span is None or self.spans is None else self.spans.predicted(span, part)
        self.recent.answered(part, ids)
        self.log.put_made(part.rows, partial(logged, part, ids, trace.trace_id, passed))
        self.shadows.answered(part, ids, trace.trace_id)

    def close(self) -> None:
        """Ends threads and connections."""
        self.workers.stop()
        self.live.stop()
        self.shadows.stop()
        self.log.close(CLOSING_SECONDS)
        self.producer.close()
        if self.spans is not None:
            self.spans.close()
        for one in self.predictors.values():
            one.close()
        for reader in self._awaited:
            reader.close()
        self.readers.close()
        self._notes.close()

    def _predictor(self, model: Model) -> Predictor:
        wall_clock.warm(model.request_features)
        return Predictor(
            model=model,
            schema=RequestSchema(model=model, kinds=kinds_of(self.project, model)),
            features=Features(model, self._read(model), self.serve.serve_features_ms / 1000),
            serving=partial(self._serving, model.name),
            on_answered=self.metrics.answered,
            challenger=self.live.challengers.beside,
        )

    def _log_shadow(self, part: Part, ids: Sequence[str], request: str, trace: str) -> None:
        self.log.put_made(part.rows, partial(logged, part, ids, trace, None, role="shadow", request_id=request))

    def _read(self, model: Model) -> Callable[[pa.Table], Awaitable[Served]]:
        if self.settings.online_valkey is not None:
            return lambda questions: asyncio.to_thread(self.readers.read, model, questions)
        reader = AwaitedReader(self.settings, self.feeds, model, self._notes)
        self._awaited.append(reader)
        return reader.read

    def _serving(self, model: str) -> Serving | None:
        return self.live.serving.get(model)


def build_app(service: Service, access: Access) -> ASGIApp:
    """The app behind its guard; it follows the ledger once it starts, and ends its threads and connections with itself."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.live.start()
        service.workers.start()
        yield
        service.close()
        access.close()

    # Whatever else comes is answered too, and its stack is in the log.
    handlers = dict.fromkeys((PipelineError, psycopg.Error, HTTPException, Exception), _problem)
    page = page_routes(partial(status_of, service, access), partial(explain_recent, service), keys=access.keys, sessions=access.sessions)
    app = Starlette(routes=[*routes_of(service), *page], lifespan=lifespan, exception_handlers=handlers)
    return access.guard(app if service.spans is None else Traced(app, service.spans), app.routes, POLICY)


def routes_of(service: Service) -> list[BaseRoute]:
    """All routes, each with the name by which its rights are declared."""
    text = document(service.project, {name: one.schema for name, one in service.predictors.items()})

    async def openapi(_: Request) -> Response:
        return Response(text, media_type="application/json")

    async def metrics(_: Request) -> Response:
        found = {place: one.metrics for place, one in service.workers.reports().items()}
        return Response(text_of(found), media_type=service.metrics.content_type)

    return [
        *v1.routes(service),
        *explain.routes(service),
        *feedback.routes(service),
        *event_routes(service.project, service.producer),
        *v2.routes(service),
        *reported.routes(service),
        *feature_routes(service.settings, service.project, service.readers),
        Route("/metrics", metrics, name="metrics"),
        Route("/openapi.json", openapi, name="openapi"),
    ]


async def _problem(_: Request, error: Exception) -> Response:
    return problem_of(error).response()
