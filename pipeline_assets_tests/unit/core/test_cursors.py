"""Cursors of sensors: what was left in them is read, and a damaged one counts as none."""

import json
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from pipeline_assets.core.resources import cursor_of, last_recorded

WHOLE = {"recorded_at": "2024-05-01T12:00:00+00:00", "seen": {"orders": 7}}


def seen(cursor: dict[str, Any]) -> dict[str, int]:
    """What a sensor might read of its cursor."""
    return {name: int(number) for name, number in cursor["seen"].items()}


def context(cursor: str | None) -> dg.SensorEvaluationContext:
    """A tick with this cursor."""
    return dg.build_sensor_context(cursor=cursor)


def test_a_cursor_is_read_as_it_was_left() -> None:
    """All of it comes back; before the first tick there is nothing."""
    assert cursor_of(context(json.dumps(WHOLE)), last_recorded, seen) == WHOLE
    assert last_recorded(WHOLE) == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert cursor_of(context(None), last_recorded) == {}
    assert last_recorded({}) is None


@pytest.mark.parametrize(
    "damaged",
    [
        json.dumps(WHOLE)[:-3],
        "\x00\x00",
        "[]",
        "null",
        "7",
        '"text"',
        json.dumps({**WHOLE, "recorded_at": "yesterday"}),
        json.dumps({**WHOLE, "recorded_at": 7}),
        json.dumps({**WHOLE, "recorded_at": "2024-05-01T12:00:00"}),
        json.dumps({**WHOLE, "seen": ["orders"]}),
        json.dumps({**WHOLE, "seen": {"orders": "many"}}),
        json.dumps({**WHOLE, "seen": {"orders": None}}),
        json.dumps({"recorded_at": WHOLE["recorded_at"]}),
        json.dumps({**WHOLE, "seen": {"orders": float("inf")}}),
        "[" * 100_000,
    ],
    ids=lambda text: text[:60],
)
def test_a_damaged_cursor_counts_as_none(damaged: str) -> None:
    """One that is no JSON, no object, or has what the sensor cannot use; the sensor does not fail at each tick."""
    assert cursor_of(context(damaged), last_recorded, seen) == {}
