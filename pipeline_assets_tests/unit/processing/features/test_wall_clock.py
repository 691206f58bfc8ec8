"""What clocks of time zones show, held against Polars, which brings the time zones."""

from datetime import UTC, datetime
from zoneinfo import available_timezones

import numpy as np
import polars as pl
import pytest

from pipeline_assets.processing.features.columns import Ints
from pipeline_assets.processing.features.wall_clock import CLOCK, local_seconds, shown

HOUR = 3600
# Clocks that were set at odd times, by half an hour, over the date line, some times a year, and twice within a few weeks.
ODD = ("America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "Antarctica/Troll", "Europe/Amsterdam")


def seconds_of(year: int) -> int:
    """When a year begins."""
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp())


def of_polars(seconds: Ints, zone: str) -> pl.Series:
    """What Polars says."""
    return pl.Series(seconds * 1_000_000).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)


def local_of_polars(seconds: Ints, zone: str) -> Ints:
    """The same in seconds."""
    found: Ints = of_polars(seconds, zone).dt.replace_time_zone(None).cast(pl.Int64).to_numpy() // 1_000_000
    return found


@pytest.mark.parametrize("zone", ODD)
def test_each_hour_of_three_centuries_is_that_of_polars(zone: str) -> None:
    """With the second before it."""
    hours = np.arange(seconds_of(1880), seconds_of(2210), HOUR)
    seconds = np.stack([hours - 1, hours]).T.reshape(-1)
    inside = seconds[(seconds >= seconds_of(1900)) & (seconds < seconds_of(2200))]

    assert (local_seconds(inside * 1_000_000, zone) == local_of_polars(inside, zone)).all()
    assert (local_seconds(seconds[:1000] * 1_000_000 + 999_999, zone) == local_of_polars(seconds[:1000], zone)).all()


def test_random_instants_of_many_zones_are_those_of_polars() -> None:
    """A thousand of every fourth zone that Polars knows, of any time of three centuries."""
    random, looked_at = np.random.default_rng(7), 0
    for zone in sorted(available_timezones())[::4]:
        seconds = random.integers(seconds_of(1900), seconds_of(2200), 1000)
        try:
            expected = local_of_polars(seconds, zone)
        except pl.exceptions.ComputeError:
            continue
        looked_at += 1
        assert (local_seconds(seconds * 1_000_000, zone) == expected).all(), zone

    assert looked_at > 100


def test_clock_and_calendar_are_those_of_polars() -> None:
    """Each transform, before and after the epoch, in leap years and at the ends of years."""
    seconds = np.concatenate(
        [np.arange(seconds_of(year) - HOUR, seconds_of(year) + 366 * 24 * HOUR, 1799) for year in (1903, 1969, 2000, 2023)]
    )
    local = of_polars(seconds, "Asia/Kathmandu")
    expected = {
        "hour": local.dt.hour(),
        "weekday": local.dt.weekday(),
        "minute_of_day": local.dt.hour().cast(int) * 60 + local.dt.minute().cast(int),
        "day_of_year": local.dt.ordinal_day(),
    }

    assert expected.keys() == CLOCK.keys()
    for transform in CLOCK:
        assert (shown(transform, seconds * 1_000_000, "Asia/Kathmandu") == expected[transform].cast(pl.Int64).to_numpy()).all()
