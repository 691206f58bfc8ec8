"""A broker that answers nobody for a while; shared by the tests of what the service gives to Kafka."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from pipeline_assets.core.settings import Settings
from pipeline_assets.local_stack.plan import KAFKA
from pipeline_assets_tests.stack_services import pid_of
from pipeline_assets_tests.stream_records import until


@contextmanager
def silent(settings: Settings) -> Iterator[None]:
    """A broker that stands still: it answers nobody, and does not close its connections either."""
    process = psutil.Process(pid_of(settings, KAFKA))
    process.send_signal(signal.SIGSTOP)
    try:
        until(process.status, lambda found: found == psutil.STATUS_STOPPED, 10)
        yield
        assert process.status() == psutil.STATUS_STOPPED
    finally:
        process.send_signal(signal.SIGCONT)
