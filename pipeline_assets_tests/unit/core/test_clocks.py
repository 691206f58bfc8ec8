"""The clock of a use case: that on the wall, or how far its past was replayed on this machine."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from pipeline_assets.core.clocks import clock_of, replay, replayed_to
from pipeline_assets.core.state_errors import StateFileDamaged
from pipeline_assets.processing.lake.awaited import Awaited
from pipeline_assets.processing.lake.freshness import judged
from pipeline_assets.use_cases.nyc_flights.sources import weather

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
LAST = date(2014, 1, 1)


def test_the_clock_of_days_that_last_is_that_on_the_wall(tmp_path: Path) -> None:
    """Open days, and those that end today or later."""
    assert [clock_of(tmp_path, "rides", last, NOW) for last in (None, NOW.date(), date(2027, 1, 1))] == [NOW] * 3


def test_days_that_have_ended_have_no_clock(tmp_path: Path) -> None:
    """Nothing newer can come, so nothing can be late."""
    assert clock_of(tmp_path, "rides", LAST, NOW) is None


def test_a_replay_sets_the_clock_to_the_end_of_a_day(tmp_path: Path) -> None:
    """Of its use case alone, and never back: a demo that is run again replays earlier days once more."""
    replay(tmp_path, "rides", date(2013, 6, 30))
    replay(tmp_path, "rides", date(2013, 5, 31))

    assert replayed_to(tmp_path, "rides") == clock_of(tmp_path, "rides", LAST, NOW) == datetime(2013, 7, 1, tzinfo=UTC)
    assert clock_of(tmp_path, "rides", None, NOW) == datetime(2013, 7, 1, tzinfo=UTC)
    assert replayed_to(tmp_path, "others") is None
    assert [path.name for path in (tmp_path / "clocks").iterdir()] == ["rides"]


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff", b"2013-13-01"])
def test_a_damaged_clock_is_named_and_stops_itself_alone(tmp_path: Path, damage: bytes) -> None:
    """What it judges is not fresh and says why, what others judge is; the next replay writes it anew."""
    replay(tmp_path, "trips", LAST)
    (tmp_path / "clocks" / "rides").write_bytes(damage)
    found = [judged(tmp_path, Awaited(contract=weather.contract, use_case=name, last_day=LAST), None, NOW) for name in ("rides", "trips")]

    with pytest.raises(StateFileDamaged, match="rides has no time"):
        replayed_to(tmp_path, "rides")
    assert [(one.is_fresh, "rides has no time. Write one such as" in one.in_words) for one in found] == [(False, True), (False, False)]
    replay(tmp_path, "rides", LAST)
    assert replayed_to(tmp_path, "rides") == datetime(2014, 1, 2, tzinfo=UTC)
