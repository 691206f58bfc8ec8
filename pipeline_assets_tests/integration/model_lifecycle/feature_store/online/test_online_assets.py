"""The views that are kept online as Dagster shows them: built by their asset, and judged by what workers report."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.connections import online
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.local_stack.demo_online import NotCaughtUp, wait_until_caught_up
from pipeline_assets.model_lifecycle.feature_store.online import assets, progress, store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.progress import STALL, Progress
from pipeline_assets.model_lifecycle.feature_store.online.sensors import online_health
from pipeline_assets_tests.online_departures import PROJECT, departures, feed, put_history, table_of

ASSET = key(names.online_views("departures_history", "stream"))


@pytest.fixture
def kept(platform: Platform) -> Feed:
    """Departures, online with their history of three days."""
    declared = feed("departures_history")
    put_history(platform.settings, table_of(departures(np.random.default_rng(40), 100)))
    assert materialized(platform, declared).success
    return declared


def materialized(platform: Platform, declared: Feed) -> dg.ExecuteInProcessResult:
    """A run of the asset of a feed."""
    return dg.materialize([assets.online_views(PROJECT, declared)], resources={"platform": platform}, raise_on_error=False)


def numbers(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    """The metadata of the only materialization of a run."""
    (event,) = result.asset_materializations_for_node("online__departures_history_stream")
    return {name: value.value for name, value in event.metadata.items()}


def report(platform: Platform, declared: Feed, *, lag: int, age: timedelta) -> None:
    """Writes what a worker would that made its last progress so long ago."""
    now = datetime.now(UTC)
    done = Progress(
        worker="w:1:a", seen_at=now, progressed_at=now - age, caught_up_at=now - age, lag=lag, taken=100, left_out=2, per_second=1.5,
        bytes=1, problem=None,
    )  # fmt: skip
    with online(platform.settings) as connection:
        progress.appear(connection, done.worker, now)
        progress.write(connection, store.live(connection, declared), done)


def evaluated(platform: Platform, declared: Feed) -> dg.AssetCheckEvaluation:
    """The check of a feed, evaluated now."""
    check = assets.is_kept([declared])
    result = dg.materialize([check], resources={"platform": platform}, selection=dg.AssetSelection.checks_for_assets(ASSET))
    (found,) = result.get_asset_check_evaluations()
    return found


def test_the_asset_builds_its_views_once_and_shows_what_is_kept(platform: Platform, kept: Feed) -> None:
    """The first run builds; the next finds them as they are declared, and shows size, hash and format all the same."""
    again = materialized(platform, kept)
    found = numbers(again)

    assert "rows_read" not in found
    assert (found["definition_hash"], found["state_format"], found["workers"], found["lag"]) == (kept.hash, 1, 0, 0)
    assert str(found["known_to"]).startswith("2013-05-0")
    assert isinstance(found["bytes_per_key"], float)
    assert found["bytes_per_key"] > 100


def test_the_asset_says_what_is_missing(platform: Platform) -> None:
    """Without anything in the lake the run fails with the table that has to be materialized."""
    failed = materialized(platform, feed("departures_history"))

    assert not failed.success
    (event,) = [event for event in failed.all_events if event.is_step_failure]
    assert "lake/flight_departures" in str(event.event_specific_data)
    with pytest.raises(Exception, match="online"), online(platform.settings) as connection:
        store.live(connection, feed("departures_history"))


def test_a_worker_that_stands_still_is_a_failed_check(platform: Platform, kept: Feed) -> None:
    """While it takes records all is well; two minutes without progress name it, with its lag and what to do."""
    report(platform, kept, lag=5, age=timedelta(seconds=10))
    well = evaluated(platform, kept)
    report(platform, kept, lag=5, age=STALL + timedelta(seconds=10))
    still = evaluated(platform, kept)

    assert well.passed
    assert well.metadata["lag"].value == 5
    assert not still.passed
    assert still.metadata["problem"].value == "worker w:1:a stands still: lag of 5 without progress for 2 min"
    assert "pipeline logs online-worker" in str(still.metadata["what to do"].value)


def test_the_sensor_records_news_and_then_is_quiet(platform: Platform, kept: Feed) -> None:
    """It records a feed at its first look, nothing while nothing changes, and a worker that stands still at once."""
    found = []
    cursor: str | None = None
    for age in (timedelta(0), timedelta(0), STALL + timedelta(seconds=1)):
        report(platform, kept, lag=1, age=age)
        context = dg.build_sensor_context(cursor=cursor, resources={"platform": platform})
        result = online_health([kept])(context)
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor or cursor
        found.append([event.passed for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)])

    assert found == [[True], [], [False]]
    assert json.loads(cursor or "")["wrong"] == [kept.name]


def test_the_demo_waits_until_workers_have_taken_all(platform: Platform, kept: Feed) -> None:
    """It goes on once all is taken that had come by a time, and names the feed and its lag where that takes too long."""
    report(platform, kept, lag=4, age=timedelta(seconds=30))
    since = datetime.now(UTC) - timedelta(minutes=1)
    wait_until_caught_up(platform.settings, [kept], since)

    with pytest.raises(NotCaughtUp, match="departures_history:stream has lag 4"):
        wait_until_caught_up(platform.settings, [kept], since + timedelta(minutes=1), seconds=0.1)


def test_a_feed_that_is_not_online_is_not_watched(platform: Platform) -> None:
    """A lake without an online store is no trouble for the sensor."""
    context = dg.build_sensor_context(resources={"platform": platform})
    result = online_health([feed("departures_history")])(context)

    assert isinstance(result, dg.SensorResult)
    assert list(result.asset_events) == []
