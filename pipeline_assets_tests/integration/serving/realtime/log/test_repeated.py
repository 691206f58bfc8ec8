"""A prediction that a client asked for twice is one row of the warehouse, whichever day is loaded when."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.streaming.staged.events import stage_events
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days, load_raw_snapshot
from pipeline_assets.processing.lake import tables
from pipeline_assets.serving.realtime.log.record import Logged
from pipeline_assets_tests.landings import Landed, land
from pipeline_assets_tests.logged_predictions import logged

CONTRACT = versioned(prediction_log.contract)
NIGHT = datetime(2026, 6, 30, 23, 59, 59, tzinfo=UTC)
FIRST, SECOND = NIGHT.date(), NIGHT.date() + timedelta(days=1)


def published(settings: Settings, records: Sequence[Logged]) -> None:
    """Has the lake hold the records, each a millisecond after it was asked in its topic."""
    with catalog(settings) as lake:
        landed = [
            Landed(offset=n, payload=one.to_json(), received_at=one.asked_at + timedelta(milliseconds=1), topic=prediction_log.topic)
            for n, one in enumerate(records)
        ]
        land(lake, landed, prediction_log.topic)
    type_landed(settings, prediction_log, run_id="a test")
    stage_events(settings, prediction_log, FIRST, SECOND, run_id="a test")
    tables.publish_days(settings, CONTRACT, FIRST, SECOND)


def kept(settings: Settings) -> list[tuple[str, int]]:
    """The predictions of the warehouse with their versions."""
    with warehouse(settings) as connection:
        return connection.execute("select prediction_id, model_version from raw.prediction_log order by 1, 2").fetchall()


def test_what_was_asked_for_twice_is_one_row_that_of_the_last_answer(isolated: Settings) -> None:
    """Within a day and over midnight; loaded together, one day after the other in either order, again, and as a whole."""
    same_day, over_midnight, once = (logged(number, asked_at=NIGHT) for number in range(3))
    again = replace(same_day, asked_at=NIGHT + timedelta(milliseconds=500), model_version=4)
    next_day = [replace(over_midnight, asked_at=NIGHT + timedelta(seconds=seconds), model_version=3 + seconds) for seconds in (2, 3)]
    published(isolated, [same_day, over_midnight, once, again, *next_day])
    found = []
    for days in ([(FIRST, SECOND)], [(SECOND, SECOND), (FIRST, FIRST)], [(FIRST, FIRST), (SECOND, SECOND)], [(FIRST, FIRST)]):
        for first, last in days:
            load_raw_days(isolated, CONTRACT, first, last)
        found.append(kept(isolated))
    load_raw_snapshot(isolated, CONTRACT)
    found.append(kept(isolated))

    assert found == [[("prediction-0", 4), ("prediction-1", 6), ("prediction-2", 3)]] * 5
    assert tables.row_count(isolated, ("lake", prediction_log.contract.name)) == 6
