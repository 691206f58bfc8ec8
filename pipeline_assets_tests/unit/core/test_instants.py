"""Instants as microseconds and back."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.instants import instant_at, microseconds_at


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_instant_comes_back_to_the_microsecond(at: datetime) -> None:
    """Also far from the epoch, where a float of seconds has no room for microseconds."""
    assert instant_at(microseconds_at(at)) == at


def test_microseconds_count_from_the_epoch() -> None:
    """One more than a day, and one less than the epoch."""
    assert microseconds_at(datetime(1970, 1, 2, 0, 0, 0, 1, UTC)) == 86_400_000_001
    assert instant_at(-1) == datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)
