"""A stream worker as a process of its own, which a test can kill: `python -m pipeline_assets_tests.online_worker <topic> <partitions>`."""

import sys
from contextlib import ExitStack
from dataclasses import replace

from pipeline_assets.core.settings import load_settings
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.worker import Worker
from pipeline_assets_tests.online_departures import feed


def departures_of(topic: str) -> Feed:
    """The departures of the reference use case, from another topic."""
    declared = feed("departures_history")
    assert declared.stream is not None
    return replace(declared, stream=replace(declared.stream, topic=topic))


def main() -> None:
    """Takes what comes, until it is killed."""
    declared = departures_of(sys.argv[1])
    assert declared.stream is not None
    with ExitStack() as stack:
        worker = Worker(load_settings(), [declared], [declared.stream], stack)
        while True:
            worker.step()


if __name__ == "__main__":
    main()
