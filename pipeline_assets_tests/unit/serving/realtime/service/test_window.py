"""Counts of the last five minutes, and those of several processes put together."""

import numpy as np
import pytest

from pipeline_assets.serving.realtime.service.window import SLOT_SECONDS, WINDOW_SECONDS, Window, percentile_ms, share_of


class Clock:
    """A clock that a test sets."""

    now = 1_000.0

    def __call__(self) -> float:
        """Its time."""
        return self.now


def test_what_is_older_than_five_minutes_does_not_count() -> None:
    """A count is there for five minutes, and gone a slot later; a window that was idle for long is empty."""
    clock = Clock()
    window = Window(clock)
    window.add("ok", 3)
    clock.now += WINDOW_SECONDS - SLOT_SECONDS
    window.add("ok", 4)
    first = window.counts()
    clock.now += SLOT_SECONDS
    second = window.counts()
    clock.now += 10 * WINDOW_SECONDS

    assert (first["ok"], second["ok"], dict(window.counts())) == (7, 4, {})


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 1.0])
def test_percentiles_of_added_windows_are_those_of_all_latencies(share: float) -> None:
    """Of latencies from tenths of a millisecond to seconds, in three windows: within 5 % of the exact one."""
    chance = np.random.default_rng(7)
    taken = np.exp(chance.normal(2.0, 1.5, 6_000))
    windows = [Window() for _ in range(3)]
    for place, one in enumerate(taken.tolist()):
        windows[place % 3].took(one)
    found = percentile_ms(windows[0].counts() + windows[1].counts() + windows[2].counts(), share)
    exact = float(np.quantile(taken, share, method="inverted_cdf"))

    assert found == pytest.approx(exact, rel=0.05)


def test_nothing_has_no_percentile_and_no_share() -> None:
    """None, and 0, rather than a made-up number; a latency of 0 is counted as one."""
    window = Window()
    none = percentile_ms(window.counts(), 0.5), share_of(window.counts(), "error", ("ok", "error"))
    window.took(0.0)
    some = percentile_ms(window.counts(), 0.5)

    assert none == (None, 0.0)
    assert some is not None
    assert 0 < some < 0.1
