"""Feedback on predictions: labels and corrections by prediction id, in the topic before they are answered.

A label that is given again for the same prediction takes the place of the one before, from its own time on: all are kept, as versions of
the prediction's row. A label of null takes it back.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pipeline_assets.core.prediction_streams import prediction_feedback
from pipeline_assets.serving.realtime.log.acked import Acked, AckedProducer, Outgoing, Unacked
from pipeline_assets.serving.realtime.log.checks import Checker, Fault, Incoming


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What turned out to be true of a prediction; `label` is any value of JSON, `actor` who says so, `given_at` when (None: now)."""

    prediction_id: str
    model: str
    label: Any
    actor: str
    given_at: datetime | None = None


async def send_feedback(producer: AckedProducer, rows: Sequence[Feedback]) -> list[Acked | Unacked | Fault]:
    """The outcome of each row, in their order: its place in the topic, why it has none, or what is wrong with it.

    The labels of one prediction in one call count in their order.
    """
    now = datetime.now(UTC)
    values = [_value(row, now) for row in rows]
    keys = _checker().check([Incoming(value=value) for value in values], now)
    seen, places, records = Counter[str](), list[int](), list[Outgoing]()
    outcomes: list[Acked | Unacked | Fault] = [one if isinstance(one, Fault) else Unacked(problem="") for one in keys]
    for place, (row, key, value) in enumerate(zip(rows, keys, values, strict=True)):
        if isinstance(key, bytes):
            at_ms = int(now.timestamp() * 1000) + seen[row.prediction_id]
            seen[row.prediction_id] += 1
            places.append(place)
            records.append(Outgoing(topic=prediction_feedback.topic, key=key, value=value, at_ms=at_ms))
    for place, outcome in zip(places, await producer.send(records), strict=True):
        outcomes[place] = outcome
    return outcomes


@cache
def _checker() -> Checker:
    return Checker(prediction_feedback, (prediction_feedback,))


def _value(row: Feedback, now: datetime) -> bytes:
    found = {
        "prediction_id": row.prediction_id,
        "model": row.model,
        "label": json.dumps(row.label),
        "actor": row.actor,
        "given_at": (row.given_at or now).isoformat(),
    }
    return json.dumps(found).encode()
