"""Predictions as KServe and TensorFlow Serving ask for them (V1): instances in, predictions out."""

import time
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline_assets.serving.realtime.service.bodies import check_rows, read_body
from pipeline_assets.serving.realtime.service.ids import prediction_ids
from pipeline_assets.serving.realtime.service.predictor import Part, plain_scores

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.service.app import Service

# RFC 9218: urgencies from 0 to 7, of which 3 is that of a request that names none.
LOW_URGENCY = 4
ENCODER = msgspec.json.Encoder()


def routes(service: "Service") -> list[Route]:
    """The routes of V1."""

    async def predict(request: Request) -> Response:
        began = time.perf_counter()
        predictor = service.predictor(request.path_params["model"])
        try:
            predictor.check_room(is_low=is_low(request))
            body = await read_body(request)
            rows = predictor.schema.read(body)
            check_rows(request, len(rows))
            ids = prediction_ids(request, predictor.model.name, body, len(rows))
            part = await predictor.predict(rows)
        except Exception as error:
            service.metrics.failed(predictor.model.name, error)
            raise
        service.answered(request, part, ids)
        answer = Response(ENCODER.encode({"predictions": predictions(part, ids)}), media_type="application/json")
        total_ms = (time.perf_counter() - began) * 1000
        service.metrics.took(predictor.model.name, total_ms / 1000)
        answer.headers["Server-Timing"] = timing(part, total_ms)
        return answer

    async def models(_: Request) -> Response:
        return _json({"models": [one.name for one in service.project.models]})

    async def model(request: Request) -> Response:
        return _json(described(service, request.path_params["model"]))

    return [
        Route("/v1/models/{model}:predict", predict, methods=["POST"], name="predict"),
        Route("/v1/models", models, name="models"),
        Route("/v1/models/{model}", model, name="model"),
    ]


def predictions(part: Part, ids: list[str]) -> list[dict[str, Any]]:
    """The answers to the instances, in their order."""
    found = zip(ids, plain_scores(part.of.serving.loaded.model, part), part.versions, part.statuses, part.tiers, strict=True)
    return [
        {"id": one, **scores, "model_version": loaded.version, "feature_status": status, "features_from": tier}
        for one, scores, loaded, status, tier in found
    ]


def timing(part: Part, total_ms: float) -> str:
    """The header that says where the time went: the wait for a turn is part of the rest."""
    rest = max(total_ms - part.of.features_ms - part.of.model_ms, 0.0)
    return f"features;dur={part.of.features_ms:.2f}, model;dur={part.of.model_ms:.2f}, rest;dur={rest:.2f}"


def described(service: "Service", name: str) -> dict[str, Any]:
    """A model as clients see it: what it answers, which version serves since when, why another one does not, and what is tried.

    Raises UnknownName.
    """
    model, serving = service.project.model(name), service.version(name)
    contract = None if serving is None else serving.loaded.contract
    return {
        "name": model.name,
        "ready": serving is not None,
        "question": model.question,
        "version": None if serving is None else serving.loaded.version,
        "since": None if serving is None else serving.since.isoformat(),
        "as_of": None if contract is None else contract.as_of.isoformat(),
        "task": None if contract is None else contract.task,
        "classes": [] if contract is None else list(contract.classes),
        "unit": None if contract is None else contract.unit,
        "fields": [{"name": one.name, "required": one.is_required} for one in service.predictor(name).schema.fields],
        "problem": service.live.problems.get(name),
        "challenger": service.live.challengers.described(name),
    }


def is_low(request: Request) -> bool:
    """Whether a request says that others come first: `Priority: u=4` to `u=7` (RFC 9218)."""
    for part in request.headers.get("priority", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "u" and value.isdecimal():
            return int(value) >= LOW_URGENCY
    return False


def _json(found: dict[str, Any]) -> Response:
    return Response(ENCODER.encode(found), media_type="application/json")
