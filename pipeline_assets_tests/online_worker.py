"""A stream worker as a process of its own, which a test can end: `python -m pipeline_assets_tests.online_worker <topic> [<port>]`."""

import signal
import sys
from dataclasses import replace
from threading import Event

from pipeline_assets.core.settings import load_settings
from pipeline_assets.model_lifecycle.feature_store.online.commands import say
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.keeper import keep_online
from pipeline_assets_tests.online_departures import feed


def departures_of(topic: str) -> Feed:
    """The departures of the reference use case, from another topic."""
    declared = feed("departures_history")
    assert declared.stream is not None
    return replace(declared, stream=replace(declared.stream, topic=topic))


def main(topic: str, metrics_port: int | None = None) -> bool:
    """Takes what comes, until it is ended."""
    declared, stopped = departures_of(topic), Event()
    assert declared.stream is not None
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    return keep_online(load_settings(), [declared, feed("weather_observations_history")], [declared.stream], stopped, say, metrics_port)


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1], *map(int, sys.argv[2:])) else 1)
