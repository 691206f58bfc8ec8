"""Why a model answers as it does: of each feature how much it adds to the answer."""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline_assets.model_lifecycle.training.matrix import feature_matrix
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
    """Of each row its answer, its features, and how much each adds to the answer before it is made a probability.

    Contributions are SHAP values of the trees (XGBoost's `pred_contribs`) in the margin of the objective: log-odds of yes or no, the value
    itself of a regression; with `bias` they add up to it. A multiclass model has them for each class.
    """
    scorer, model = part.of.serving.loaded.scorer, part.of.serving.loaded.model
    own = part.of.found.features.slice(part.first, part.rows)
    matrix = feature_matrix(own, scorer.contract.features)
    found = np.asarray(scorer.booster.predict(matrix, pred_contribs=True)).astype(np.float64)
    names = [one.name for one in scorer.contract.features]
    return [
        {
            **scores,
            "model_version": part.of.serving.loaded.version,
            "features": features,
            **_contributions(names, scorer.contract.classes, one),
        }
        for scores, features, one in zip(plain_scores(model, part), own.to_pylist(), found, strict=True)
    ]


def _contributions(names: list[str], classes: tuple[str, ...], found: "np.typing.NDArray[np.float64]") -> dict[str, Any]:
    if not classes:
        *values, bias = found.tolist()
        return {"contributions": dict(zip(names, values, strict=True)), "bias": bias}
    by_class = {name: row.tolist() for name, row in zip(classes, found, strict=True)}
    return {
        "contributions": {name: dict(zip(names, row[:-1], strict=True)) for name, row in by_class.items()},
        "bias": {name: row[-1] for name, row in by_class.items()},
    }
