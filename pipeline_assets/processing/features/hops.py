"""How finely a window slides: the size of the tiles at its tail."""

from datetime import timedelta

HOPS = (
    (timedelta(hours=12), timedelta(minutes=5)),
    (timedelta(days=10), timedelta(hours=1)),
)
LONGEST_HOP = timedelta(days=1)


def hop_of(window: timedelta, declared: timedelta | None = None) -> timedelta:
    """The size of the tiles at a window's tail: as declared, else 5 min up to 12 h, 1 h up to 10 d, 1 d beyond."""
    if declared is not None:
        return declared
    return next((hop for longest, hop in HOPS if window <= longest), LONGEST_HOP)
