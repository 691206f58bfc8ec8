"""Whether a stream makes progress, judged by what it did since it was last looked at."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from pipeline_assets.ingestion.streaming.health.flow import (
    MAX_RESTARTS,
    SLOT_BYTES,
    SMALL_LAG,
    Flow,
    Memory,
    Restarts,
    Slot,
    dump,
    load,
    remember,
    slot_trouble,
    trouble,
)

NOW = datetime(2013, 6, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def look(flows: Sequence[tuple[int, int]]) -> str | None:
    """What is said of a flow at the last of several looks, one a minute."""
    memory: Memory | None = None
    found = None
    for minute, (done, end) in enumerate(flows):
        flow, now = Flow(done=done, end=end), NOW + minute * MINUTE
        memory = remember(flow, memory, now)
        found = trouble(flow, memory, now)
    return found


@pytest.mark.parametrize(
    "flows",
    [
        [(0, 0)] * 9,
        [(5, 5)] * 9,
        [(0, 10), (0, 10)],
        [(minute, 10 + minute) for minute in range(9)],
        [(0, 10), (0, 10), (10, 10), (10, 20)],
        [(0, 90_000), (10_000, 91_000), (20_000, 92_000), (30_000, 93_000), (40_000, 94_000), (50_000, 95_000), (60_000, 96_000)],
    ],
    ids=["idle and empty", "idle", "not for long", "always a little behind", "moved in between", "catching up"],
)
def test_a_stream_that_makes_progress_is_in_order(flows: Sequence[tuple[int, int]]) -> None:
    """Nothing to do, a short pause, a constant small lag and a backlog that shrinks are all fine."""
    assert look(flows) is None


def test_a_stream_that_has_stalled_is_reported() -> None:
    """However small its lag: one record that waits for two minutes without any progress."""
    assert look([(9, 10)] * 3) == "lag of 1 records without progress for 2 min"


def test_a_backlog_that_never_shrinks_is_reported() -> None:
    """It moves, but slower than what comes in."""
    flows = [(100 * minute, SMALL_LAG + 2_000 * (minute + 1)) for minute in range(7)]

    assert look(flows) == "lag of 23400 records, which for 6 min has not fallen below 12000"


def test_a_slot_is_reported_when_it_is_gone_invalidated_or_holds_back_much() -> None:
    """Each says what it means; a slot that follows is in order."""
    assert slot_trouble(Slot(bytes_behind=SLOT_BYTES, status="reserved")) is None
    assert "256 MB" in str(slot_trouble(Slot(bytes_behind=SLOT_BYTES + (1 << 20), status="extended")))
    assert "invalidated the replication slot" in str(slot_trouble(Slot(bytes_behind=0, status="lost")))
    assert "is gone" in str(slot_trouble(None))


def test_a_connector_is_restarted_only_so_often() -> None:
    """Not twice within half a minute, not more than five times an hour, and again once an hour has passed."""
    restarts = Restarts()
    for attempt in range(MAX_RESTARTS):
        at = NOW + attempt * MINUTE
        assert restarts.may(at)
        restarts = Restarts(at=(*restarts.at, at))
        assert not restarts.may(at + timedelta(seconds=29))

    assert not restarts.may(NOW + 10 * MINUTE)
    assert restarts.may(NOW + 61 * MINUTE)
    assert len(restarts.recent(NOW + 61 * MINUTE).at) == MAX_RESTARTS - 2


def test_what_is_remembered_survives_as_json() -> None:
    """A cursor is text; read again it is the same."""
    memories = {"a": Memory(done=3, moved_at=NOW, least_lag=4, shrunk_at=NOW + MINUTE)}
    restarts = {"b": Restarts(at=(NOW, NOW + MINUTE))}

    assert load(json.loads(json.dumps(dump(memories, restarts)))) == (memories, restarts)
    assert load({}) == ({}, {})
