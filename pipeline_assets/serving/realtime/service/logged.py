"""What was answered as the log of predictions has it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys
from pipeline_assets.serving.realtime.log.record import Logged, Role
from pipeline_assets.serving.realtime.service.predictor import Part, plain_scores

PREDICTED = "predicted"


NOTHING_ASKED: Mapping[str, Any] = {}


def logged(
    part: Part, ids: Sequence[str], trace: str, passed_on: bytes | None, *, role: Role = "live", request_id: str | None = None
) -> Iterator[Logged]:
    """A record for each row of a request, one after the other: thousands at once would have the garbage collector look at them all.

    passed_on: the `traceparent` of the request. role: of rows that no canary answered. request_id: the first of `ids` where it is None.
    """
    of, model = part.of, part.of.serving.loaded.model
    keys, scores, statuses = set(entity_keys(model)), plain_scores(model, part), part.statuses
    positions, vectors = list(of.found.positions.values()), of.vectors
    definitions = of.serving.loaded.definitions if of.found.statuses else {}
    for row in range(part.rows):
        place = part.first + row
        loaded = of.loaded(place)
        # Who brings features is asked nothing.
        asked = of.asked[place] if of.questions.num_columns else NOTHING_ASKED
        yield Logged(
            prediction_id=ids[row],
            model=model.name,
            model_version=loaded.version,
            role=role if loaded is of.serving.loaded else "canary",
            keys={name: value for name, value in asked.items() if name in keys},
            request={name: value for name, value in asked.items() if name not in keys and name != DECISION_AT},
            asked_at=of.asked_at,
            decision_at=asked.get(DECISION_AT, of.asked_at),
            features=vectors[place],
            feature_status=statuses[row],
            definitions=definitions,
            positions=positions,
            scores=_numbers(scores[row]),
            predicted_class=scores[row].get(PREDICTED),
            tier=of.found.tiers[place],
            timings_ms={"features": of.features_ms, "model": of.model_ms_of(place)},
            request_id=request_id or ids[0],
            trace_id=trace,
            traceparent=passed_on,
        )


def _numbers(answer: dict[str, object]) -> dict[str, float]:
    """The answer without its class: a score, a value, or the probability of each class."""
    by_class = answer.get("scores")
    found = by_class if isinstance(by_class, dict) else {name: value for name, value in answer.items() if name != PREDICTED}
    return {name: value for name, value in found.items() if isinstance(value, float)}
