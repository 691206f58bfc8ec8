"""Why a model answers as it does: of each feature how much it adds to the answer."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline_assets.model_lifecycle.training.scorer import Contributions
from pipeline_assets.serving.realtime.service.bodies import check_rows, read_body
from pipeline_assets.serving.realtime.service.predictor import Part, plain_scores
from pipeline_assets.serving.realtime.service.problems import Problem

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.service.app import Service

MOST_EXPLAINED = 50


def routes(service: "Service") -> list[Route]:
    """The route that explains."""

    async def explain(request: Request) -> Response:
        predictor = service.predictor(request.path_params["model"])
        predictor.check_room(is_low=True)
        rows = predictor.schema.read(await read_body(request))
        check_rows(request, len(rows))
        if len(rows) > MOST_EXPLAINED:
            raise Problem(
                413, "TooManyInstances", f"No more than {MOST_EXPLAINED} instances are explained at once.", model=predictor.model.name
            )
        part = await predictor.predict(rows)
        found = await asyncio.to_thread(explanations, part)
        return Response(msgspec.json.encode({"explanations": found}), media_type="application/json")

    return [Route("/v1/models/{model}:explain", explain, methods=["POST"], name="explain")]


def explanations(part: Part) -> list[dict[str, Any]]:
    """Of each row its answer, its features, and how much each adds to the answer; of a multiclass model by class."""
    own, versions = part.of.found.arrays.part(part.first, part.rows).table(), part.versions
    # Of each version that answered some of the rows: why it would answer each of them so.
    why = {loaded.version: loaded.scorer.contributions(own) for loaded in {loaded.version: loaded for loaded in versions}.values()}
    found = zip(plain_scores(part.of.serving.loaded.model, part), own.to_pylist(), versions, strict=True)
    return [
        {**scores, "model_version": by.version, "features": features, **_as_json(why[by.version][row], by.contract.classes)}
        for row, (scores, features, by) in enumerate(found)
    ]


def _as_json(why: Contributions, classes: Sequence[str]) -> dict[str, Any]:
    """Contributions as they are answered: those of each class together."""
    if not classes:
        return {"contributions": why.values, "bias": why.bias}
    by_class = {kind: {name: own[kind] for name, own in why.values.items() if isinstance(own, Mapping)} for kind in classes}
    return {"contributions": by_class, "bias": why.bias}
