"""Predictions as the service logs them; shared by the tests of the log."""

from datetime import UTC, datetime
from typing import Any

from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.serving.realtime.log.record import Logged

ASKED_AT = datetime(2026, 6, 30, 12, 0, 0, 123456, tzinfo=UTC)


def logged(number: int, **changed: Any) -> Logged:
    """A prediction that keeps the contract but for what is changed; its id and its vector follow from the number."""
    position = Position(
        feed="departures_history", hash="ab12", watermark=1, snapshot_id=2**62 + number, is_between=False, offsets={0: number, 1: 7}
    )
    values: dict[str, Any] = {
        "prediction_id": f"prediction-{number}",
        "model": "flight_delay",
        "model_version": 3,
        "role": "live",
        "keys": {"origin": "JFK", "carrier": "B6"},
        "request": {"distance_miles": 1_089},
        "asked_at": ASKED_AT,
        "decision_at": datetime(2013, 6, 30, 11, tzinfo=UTC),
        "features": {f"origin_departures__feature_{place}": number / (place + 3) for place in range(50)} | {"route__none": None},
        "feature_status": {"origin_departures": "ok"},
        "definitions": {"origin_departures": "ab12"},
        "positions": (position,),
        "scores": {"score": 0.1 + number},
        "predicted_class": None,
        "tier": "online",
        "timings_ms": {"features": 0.7, "model": 0.3},
        "request_id": "request-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    return Logged(**values | changed)
