"""Instants as microseconds since the epoch, as states and kernels count them, and as aware times."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def instant_at(us: int) -> datetime:
    """The instant so many microseconds after the epoch, in UTC; raises OverflowError beyond the years 1 to 9999."""
    return EPOCH + us * MICROSECOND


def microseconds_at(at: datetime) -> int:
    """The microseconds from the epoch to an aware time."""
    return (at - EPOCH) // MICROSECOND
