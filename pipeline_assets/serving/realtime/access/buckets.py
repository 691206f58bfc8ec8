"""Token buckets: how often a key may ask, and how often an address may fail.

The clock is the monotonic one, as the wall clock may be stepped back. Memory is bounded: beyond `most` buckets the one that was used
longest ago is forgotten, and is full again if it comes back.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from math import ceil
from time import monotonic

from pipeline_assets.serving.realtime.access.callers import Limits

MOST_BUCKETS = 10_000
# Failures of one address at once, and in the long run; whoever has a wrong key in a script meets it within seconds.
FAILURES_AT_ONCE, FAILURES_PER_SECOND = 20, 0.2
NETWORK_OF_IPV6 = 64
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """`burst` at once, `per_second` in the long run."""

    per_second: float
    burst: int


class Buckets:
    """A bucket for each name; each is full at first."""

    def __init__(self, *, most: int = MOST_BUCKETS, clock: Callable[[], float] = monotonic) -> None:
        self._most, self._clock = most, clock
        # Of each name the moment at which its bucket is full again; one that is past is full. (The generic cell rate algorithm.)
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, name: str, rate: Rate) -> float:
        """0 where a token was taken; else the seconds until there is one, and nothing is taken."""
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now)
        wait = full_at - now - (rate.burst - 1) / rate.per_second
        # A rounding error is no wait.
        if wait > 1e-9:  # noqa: PLR2004
            return wait
        self._full_at[name] = full_at + 1 / rate.per_second
        self._full_at.move_to_end(name)
        if len(self._full_at) > self._most:
            self._full_at.popitem(last=False)
        return 0.0


def rate_of(limits: Limits) -> Rate | None:
    """The rate of a key; None where it has none."""
    if limits.requests_per_second is None and limits.burst is None:
        return None
    per_second = limits.requests_per_second if limits.requests_per_second is not None else float(limits.burst or 1)
    return Rate(per_second=per_second, burst=limits.burst if limits.burst is not None else max(1, ceil(per_second)))


class Failures:
    """Counts failed attempts per address of the client.

    An address with too many of them is answered 429 instead of 401 until it has waited. A valid credential from there passes: guessing 256
    bits is hopeless at any rate, while behind a proxy all callers have one address, and one of them must not lock out the others.
    """

    def __init__(self, buckets: Buckets | None = None) -> None:
        self._buckets = buckets if buckets is not None else Buckets()
        self._rate = Rate(per_second=FAILURES_PER_SECOND, burst=FAILURES_AT_ONCE)

    def count(self, address: str) -> float:
        """Counts one failure; the seconds to wait where there were too many, else 0."""
        return self._buckets.take(network_of(address), self._rate)


def network_of(address: str) -> str:
    """What counts as one client: an address, of IPv6 its network of 64 bits, as one machine has all of it."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return UNKNOWN
    if parsed.version == 4:  # noqa: PLR2004 - the version of the protocol
        return str(parsed)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped) if mapped is not None else str(ip_network((parsed, NETWORK_OF_IPV6), strict=False))
