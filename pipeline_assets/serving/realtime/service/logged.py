"""What was answered as the log of predictions has it."""

from collections.abc import Sequence

from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys
from pipeline_assets.serving.realtime.log.record import Logged
from pipeline_assets.serving.realtime.service.predictor import Part, plain_scores

PREDICTED = "predicted"


def logged(part: Part, ids: Sequence[str], trace: str) -> list[Logged]:
    """A record for each row of a request."""
    of, model = part.of, part.of.serving.loaded.model
    places, keys = range(part.first, part.first + part.rows), set(entity_keys(model))
    scores, statuses = plain_scores(model, part), part.statuses
    return [
        Logged(
            prediction_id=ids[row],
            model=model.name,
            model_version=of.serving.loaded.version,
            role="live",
            keys={name: value for name, value in of.asked[place].items() if name in keys},
            request={name: value for name, value in of.asked[place].items() if name not in keys and name != DECISION_AT},
            asked_at=of.asked_at,
            decision_at=of.asked[place][DECISION_AT],
            features=of.vectors[place],
            feature_status=statuses[row],
            definitions=of.serving.loaded.definitions,
            positions=list(of.found.positions.values()),
            scores=_numbers(scores[row]),
            predicted_class=scores[row].get(PREDICTED),
            tier=of.found.tiers[place],
            timings_ms={"features": of.features_ms, "model": of.model_ms},
            request_id=ids[0],
            trace_id=trace,
        )
        for row, place in enumerate(places)
    ]


def _numbers(answer: dict[str, object]) -> dict[str, float]:
    """The answer without its class: a score, a value, or the probability of each class."""
    by_class = answer.get("scores")
    found = by_class if isinstance(by_class, dict) else {name: value for name, value in answer.items() if name != PREDICTED}
    return {name: value for name, value in found.items() if isinstance(value, float)}
