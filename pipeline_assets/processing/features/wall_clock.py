"""What clock and calendar of a time zone show at some instants, by arithmetic on arrays.

The time zones are those of Polars, which brings its own; Arrow and Python would look for those of the machine. Polars is asked once when a
zone's clocks were set: to ask it for each question took half of the time of a question online.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import numpy as np

from pipeline_assets.processing.features.columns import Ints
from pipeline_assets.spec.features import RequestFeature, Transform

SECOND, DAY = 1_000_000, 86_400
# Between these years the settings of clocks are known, in seconds since the epoch; Polars is asked for other instants one by one.
FIRST, LAST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1900, 2200))
# No zone has set its clocks twice within so many seconds.
APART: Final = 6 * 3600
CLOCK: Mapping[Transform, Callable[[Ints], Ints]] = {
    "hour": lambda local: local // 3600 % 24,
    "weekday": lambda local: (local // DAY + 3) % 7 + 1,
    "minute_of_day": lambda local: local // 60 % 1440,
    "day_of_year": lambda local: _day_of_year(local // DAY),
}


def shown(transform: Transform, at: Ints, time_zone: str) -> Ints:
    """What `transform` is at instants in microseconds since the epoch: `hour` 0 to 23, `weekday` 1 (Monday) to 7, and so on."""
    return CLOCK[transform](local_seconds(at, time_zone))


def warm(features: Iterable[RequestFeature]) -> None:
    """Has the time zones of some features known before the first question, which would wait for it."""
    for zone in {feature.time_zone for feature in features if feature.transform != "value"}:
        local_seconds(np.zeros(1, np.int64), zone)


def local_seconds(at: Ints, time_zone: str) -> Ints:
    """The seconds since the epoch, as if in UTC, of what the clocks of a zone show at instants in microseconds, fractions dropped."""
    seconds = at // SECOND
    if time_zone == "UTC":
        return seconds
    if len(seconds) and not (seconds.min() >= FIRST and seconds.max() < LAST):
        return seconds + _offsets(seconds, time_zone)
    since, offsets = _settings(time_zone)
    found: Ints = seconds + offsets[np.searchsorted(since, seconds, side="right") - 1]
    return found


@lru_cache
def _settings(time_zone: str) -> tuple[Ints, Ints]:
    """From which seconds on the clocks of a zone were how far from UTC: found on a grid, then by halving what lies between."""
    grid = np.arange(FIRST, LAST + APART, APART)
    offsets = _offsets(grid, time_zone)
    before = np.flatnonzero(np.diff(offsets))
    low, high = grid[before], grid[before + 1]
    while (high - low > 1).any():
        middle = (low + high) // 2
        is_old = _offsets(middle, time_zone) == offsets[before]
        low, high = np.where(is_old, middle, low), np.where(is_old, high, middle)
    return np.concatenate([grid[:1], high]), np.concatenate([offsets[:1], offsets[before + 1]])


def _offsets(seconds: Ints, time_zone: str) -> Ints:
    """How many seconds the clocks of a zone are ahead of UTC."""
    import polars as pl

    instants = pl.Series(seconds * SECOND).cast(pl.Datetime("us", "UTC"))
    local = instants.dt.convert_time_zone(time_zone).dt.replace_time_zone(None).cast(pl.Int64).to_numpy()
    found: Ints = local // SECOND - seconds
    return found


def _day_of_year(days: Ints) -> Ints:
    dates = days.astype("datetime64[D]")
    found: Ints = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1
    return found
