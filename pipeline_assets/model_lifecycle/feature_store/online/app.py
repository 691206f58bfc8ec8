"""Online features over HTTP: an ASGI app of one route, which stands alone or in another app.

    POST /v1/features/{model}   {"instances": [{"origin": "EWR", …, "decision_at": "2013-06-30T12:00:00Z"}, …]}

Each instance has the entity keys of the model's views and the columns of its request features (those with a default may be left out), and
may have `decision_at` (ISO 8601 with a zone; now where it is left out). The answer has for each instance, in their order, the values of all
features by name in the model's order, the status of each view, and for each view the time up to which its source has been followed; once
for all it has the position of each feed: of a stream the next offset of each partition, of a table its snapshot. Errors are problem
documents (RFC 9457).
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from threading import Lock
from typing import Any

import psycopg
import pyarrow as pa
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline_assets.core.errors import PipelineError, TableMismatch, TransientError, UnknownName, UserInputError
from pipeline_assets.core.instants import instant_at
from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.core.online_errors import NotOnline, RequestFieldMissing
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online.compare import questions_of
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.pool import Readers
from pipeline_assets.model_lifecycle.feature_store.online.read import Served
from pipeline_assets.model_lifecycle.feature_store.online.served import keep_sample
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys, left_out
from pipeline_assets.spec.models import Model

LARGEST_BODY, MOST_INSTANCES = 1_000_000, 1_000
PROBLEM = "application/problem+json"
Value = str | float | bool | None


class Refused(UserInputError):
    """A request that cannot be answered, with the status of HTTP that says why."""

    def __init__(self, status: int, problem: str) -> None:
        self.status = status
        super().__init__(problem)


STATUSES: tuple[tuple[type[PipelineError], int], ...] = (
    (UnknownName, 404),
    (NotOnline, 503),
    (TransientError, 503),
    (UserInputError, 422),
    (TableMismatch, 422),
)


def build_app(settings: OnlineSettings, project: Project, feeds: Sequence[Feed]) -> Starlette:
    """The app for the models of a project; it closes its connections when it ends."""
    readers = Readers(settings, feeds)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        readers.close()

    handlers = dict.fromkeys((PipelineError, psycopg.OperationalError), _problem)
    return Starlette(routes=feature_routes(settings, project, readers), lifespan=lifespan, exception_handlers=handlers)


def feature_routes(settings: OnlineSettings, project: Project, readers: Readers) -> list[Route]:
    """The routes, for this app or another one that has readers and answers a PipelineError, and one of psycopg, by a problem document."""
    random, one = Random(), Lock()  # noqa: S311 - chance, no secret

    def served_to(model: Model, spine: pa.Table) -> Served:
        return readers.read(model, questions_of(project, model, spine, "the request"))

    def keep(model: Model, spine: pa.Table, served: Served) -> None:
        # One at a time, so that it takes one connection besides those of the readers.
        with one:
            keep_sample(settings, model, spine, served, random)

    async def features(request: Request) -> Response:
        model = project.model(request.path_params["model"])
        spine = _spine(model, await _body(request))
        served = await run_in_threadpool(served_to, model, spine)
        # After the answer: what is kept of it must neither delay nor fail it.
        kept = BackgroundTask(keep, model, spine, served)
        return JSONResponse({"instances": _instances(served), "positions": _positions(served)}, background=kept)

    return [Route("/v1/features/{model}", features, methods=["POST"], name="features")]


async def _body(request: Request) -> Any:
    """The JSON of a request; raises Refused for one that is too large or no JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "The body has another type than application/json.")
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > LARGEST_BODY:
            raise Refused(413, f"The body has more than {LARGEST_BODY:,} bytes.")
    try:
        return json.loads(received)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON: {str(error)[:100]}.") from None


def _spine(model: Model, body: Any) -> pa.Table:
    """The instances as a spine; raises Refused that names instance and field."""
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list) or not instances:
        raise Refused(422, "The body has no list `instances` with at least one instance.")
    if len(instances) > MOST_INSTANCES:
        raise Refused(413, f"The body has {len(instances):,} instances; no more than {MOST_INSTANCES:,} are answered at once.")
    now = datetime.now(UTC).isoformat()
    rows = [_row(place, model, instance, now) for place, instance in enumerate(instances)]
    return pa.table({name: _column(name, [row[name] for row in rows]) for name in rows[0]})


def _column(name: str, values: Sequence[Value]) -> pa.Array:
    # JSON does not distinguish 7 and 7.0.
    is_number = any(isinstance(value, float) for value in values)
    try:
        return pa.array([float(value) if is_number and type(value) is int else value for value in values])
    except (pa.ArrowException, ValueError, OverflowError):
        problem = f"'{name}' is of one type in one instance and of another in another, too large, or no Unicode."
        raise Refused(422, f"{problem} Expected text, true or false, or numbers (whole ones of 64 bits), the same in all.") from None


def _row(place: int, model: Model, instance: Any, now: str) -> dict[str, Value]:
    """An instance as a row of the spine."""
    keys, asked = entity_keys(model), list(dict.fromkeys(feature.column for feature in model.request_features))
    expected = f"Expected: {', '.join(dict.fromkeys((*keys, *asked, DECISION_AT)))}."
    if not isinstance(instance, dict):
        raise Refused(422, f"Instance {place} is no object. {expected}")
    for name in instance.keys() - {*keys, *asked, DECISION_AT}:
        raise Refused(422, f"Instance {place} has '{name}', which is no entity key and no field of the request. {expected}")
    for feature in left_out(model, tuple(instance)):
        raise RequestFieldMissing("the request", model.name, feature.name, feature.column, place)
    for name in asked:
        if not isinstance(instance.get(name), str | int | float | bool | None):
            raise Refused(422, f"Instance {place}: '{name}' is neither text, a number, true, false nor null.")
    for key in keys:
        value = instance.get(key, False)
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise Refused(422, f"Instance {place}: the entity key '{key}' is missing, or neither text, a whole number nor null.")
    at = instance.get(DECISION_AT, now)
    if not isinstance(at, str):
        raise Refused(422, f"Instance {place}: '{DECISION_AT}' is no text, such as 2013-06-30T12:00:00Z.")
    return {**{name: instance.get(name) for name in asked}, **{key: instance[key] for key in keys}, DECISION_AT: at}


def _instances(served: Served) -> list[dict[str, object]]:
    statuses = [dict(zip(served.statuses, one, strict=True)) for one in zip(*served.statuses.values(), strict=True)]
    known_to = {view: None if us is None else instant_at(us).isoformat() for view, us in served.known_to.items()}
    return [
        {"features": row, "status": status, "known_to": known_to} for row, status in zip(served.features.to_pylist(), statuses, strict=True)
    ]


def _positions(served: Served) -> dict[str, dict[str, object]]:
    # As text: JavaScript rounds numbers of 19 digits.
    return {
        feed: {
            "definition": one.hash,
            "offsets": one.offsets,
            "snapshot_id": None if one.snapshot_id is None else str(one.snapshot_id),
        }
        for feed, one in served.positions.items()
    }


def status_of(error: PipelineError) -> int:
    """The status of HTTP that says what an error is to its caller."""
    return error.status if isinstance(error, Refused) else next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def _problem(_: Request, error: Exception) -> Response:
    known = error if isinstance(error, PipelineError) else Refused(503, "The online store does not answer. Ask again later.")
    found = {"type": "about:blank", "title": type(known).__name__, "status": status_of(known), "detail": str(known)}
    return JSONResponse(found, status_of(known), media_type=PROBLEM)
