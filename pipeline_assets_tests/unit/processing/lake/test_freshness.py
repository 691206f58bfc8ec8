"""Sources that never delivered: from when on they are stale."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pipeline_assets.processing.lake.awaited import Awaited
from pipeline_assets.processing.lake.freshness import Newest, all_judged, without_table
from pipeline_assets_tests.lake_rows import TRIPS, trips

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
LOADED, NEVER, OTHER = (Awaited(contract=trips(name), use_case=home, last_day=None) for name, home in (("a", "x"), ("b", "x"), ("c", "y")))
NEWEST = {"a": Newest(metadata="m", at=NOW)}


def test_a_source_without_a_table_is_stale_once_its_use_case_has_rows_for_longer_than_it_promises(tmp_path: Path) -> None:
    """Regression: it was not looked at, so that a source which never delivered was never an alert. What is about to come has its time."""
    missing = without_table([LOADED, NEVER, OTHER], NEWEST, {}, NOW)
    later = NOW + TRIPS.freshness
    found = {
        at: {one.awaited.contract.name: one.is_fresh for one in all_judged(tmp_path, [LOADED, NEVER, OTHER], NEWEST, missing, at)}
        for at in (NOW, later - timedelta(seconds=1), later)
    }

    assert missing == {"b": NOW}
    assert without_table([LOADED, NEVER, OTHER], NEWEST, missing, later) == missing
    assert without_table([LOADED, NEVER, OTHER], {**NEWEST, "b": NEWEST["a"]}, missing, later) == {}
    assert found == {NOW: {"a": True}, later - timedelta(seconds=1): {"a": True}, later: {"a": True, "b": False}}


def test_nothing_is_awaited_of_a_source_whose_days_have_ended(tmp_path: Path) -> None:
    """A history that has no row of one source is over all the same."""
    ended = Awaited(contract=NEVER.contract, use_case="x", last_day=date(2013, 12, 31))
    (_, found) = all_judged(tmp_path, [LOADED, ended], NEWEST, {"b": NOW - TRIPS.freshness}, NOW)

    assert found.is_fresh
