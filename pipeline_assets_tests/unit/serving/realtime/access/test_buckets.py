"""How often somebody may ask or fail, held against a count by hand."""

import math

from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.serving.realtime.access.buckets import FAILURES_AT_ONCE, Buckets, Failures, Rate, network_of, rate_of
from pipeline_assets.serving.realtime.access.callers import NO_LIMITS, Limits


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        """The time that it was set to."""
        return self.at


def test_a_burst_passes_and_then_the_rate() -> None:
    """Three at once, then one every half a second; the wait is exact."""
    clock = Clock()
    buckets, rate = Buckets(clock=clock), Rate(per_second=2, burst=3)

    first = [buckets.take("a", rate) for _ in range(4)]
    clock.at += 0.5
    later = [buckets.take("a", rate) for _ in range(2)]

    assert first == [0, 0, 0, 0.5]
    assert later == [0, 0.5]
    assert buckets.take("b", rate) == 0


@given(st.lists(st.integers(0, 3000), max_size=60), st.integers(1, 20), st.integers(1, 5))
def test_no_more_pass_than_a_bucket_has(gaps_ms: list[int], per_second: int, burst: int) -> None:
    """As many as a bucket that is filled drop by drop would give, at each moment; a wait that is waited for ends in a pass."""
    clock, level = Clock(), float(burst)
    buckets, rate = Buckets(clock=clock), Rate(per_second=per_second, burst=burst)
    for gap in gaps_ms:
        clock.at += gap / 1000
        level = min(burst, level + gap / 1000 * per_second)
        wait = buckets.take("a", rate)
        if abs(level - 1) < 1e-6:
            level = level - 1 if wait == 0 else level
            continue
        assert (wait == 0) == (level >= 1)
        if wait:
            assert math.isclose(wait, (1 - level) / per_second, abs_tol=1e-6)
        level -= wait == 0


def test_memory_is_bounded_by_forgetting_the_oldest() -> None:
    """Whoever was seen longest ago is as new."""
    buckets, rate = Buckets(most=2, clock=Clock()), Rate(per_second=0.001, burst=1)

    assert [buckets.take(name, rate) for name in "abc"] == [0, 0, 0]
    assert buckets.take("c", rate) > 0
    assert buckets.take("a", rate) == 0


def test_limits_say_a_rate_and_a_burst() -> None:
    """Where one of the two is given it is the other, too."""
    assert rate_of(NO_LIMITS) is None
    assert rate_of(Limits(requests_per_second=2.5)) == Rate(per_second=2.5, burst=3)
    assert rate_of(Limits(requests_per_second=0.1)) == Rate(per_second=0.1, burst=1)
    assert rate_of(Limits(burst=7)) == Rate(per_second=7, burst=7)


def test_failures_are_counted_per_machine() -> None:
    """Addresses of one network of IPv6 are one, one of IPv4 is one however it is written; another one is not held up."""
    failures = Failures(Buckets(clock=Clock()))
    waits = [failures.count(f"2001:db8::{place:x}") for place in range(FAILURES_AT_ONCE + 1)]

    assert waits[:-1] == [0] * FAILURES_AT_ONCE
    assert waits[-1] > 0
    assert failures.count("2001:db8:0:1::1") == 0
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1")
    assert network_of("a socket") == network_of("") == "unknown"
