"""Orders to stop, which the waits of a thread hear."""

from concurrent.futures import CancelledError
from threading import Event

import pytest

from pipeline_assets.core.waits import check_stop, ending_at


def test_an_order_to_stop_holds_after_an_inner_one() -> None:
    """Regression: once a block within a block had ended, nothing of the outer one heard that it was to stop."""
    outer, inner = Event(), Event()
    with ending_at(outer):
        with ending_at(inner):
            outer.set()
            check_stop()
        with pytest.raises(CancelledError):
            check_stop()
    check_stop()
