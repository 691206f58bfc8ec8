"""What the lake has of days that are to be published, asked for once."""

from datetime import date, timedelta
from typing import Any

import pytest

from pipeline_assets.core.lake_errors import RowsLost
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning import publish
from pipeline_assets.processing.cleaning.models import Built
from pipeline_assets.processing.cleaning.publish import _check_kept
from pipeline_assets.processing.lake import tables

FIRST = date(2013, 1, 1)
TRIPS = Built(name="trips", columns={}, event_at="began_at", keys=("trip_id",), is_noted=True, made_from=("trips",))


def test_scattered_days_ask_the_lake_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: each run of days without a gap opened the catalog anew; days between the runs are not judged."""
    days, asked = [FIRST + timedelta(days=number) for number in range(0, 60, 2)], list[Any]()
    rows: dict[date | None, int] = {FIRST + timedelta(days=number): 100 for number in range(60)}

    def rows_by_day(_: object, __: object, span: object) -> dict[date | None, int]:
        asked.append(span)
        return rows

    monkeypatch.setattr(tables, "rows_by_day", rows_by_day)
    monkeypatch.setattr(publish, "lake_behind", lambda *_: lambda _: {("lake", "trips"): rows})
    settings = Settings.model_construct()
    _check_kept(settings, TRIPS, [((day, day), {day: 100}) for day in days])
    with pytest.raises(RowsLost) as raised:
        _check_kept(settings, TRIPS, [((day, day), {day: 100 if day > FIRST else 1}) for day in days])

    assert asked == [(FIRST, days[-1])] * 2
    assert [lost.day for lost in raised.value.days] == [FIRST]
