"""Identifiers that begin with a time: UUIDs of version 7 (RFC 9562), so that what has one is found by its day."""

from uuid import UUID

RANDOM_BITS = 74
LENGTH = 36
_LOW_BITS, _VERSION, _OTHER, _VARIANT = 62, 7, 8, 2


def timed_id(at_ms: int | None, random: int) -> str:
    """The identifier of a moment in milliseconds of Unix' time, with the last `RANDOM_BITS` of a number.

    Without a moment it is one of version 8, with more bits of the number in its place.
    """
    high, low = random >> _LOW_BITS & 0xFFF, random & (1 << _LOW_BITS) - 1
    time, version = (random >> RANDOM_BITS & (1 << 48) - 1, _OTHER) if at_ms is None else (at_ms & (1 << 48) - 1, _VERSION)
    return str(UUID(int=time << 80 | version << 76 | high << 64 | _VARIANT << _LOW_BITS | low))


def ms_of(identifier: str) -> int | None:
    """The moment that an identifier begins with, whatever follows it; None for one that has none."""
    try:
        found = UUID(identifier[:LENGTH])
    except ValueError:
        return None
    is_timed = found.version == _VERSION and str(found) == identifier[:LENGTH].lower()
    return found.int >> 80 if is_timed else None
