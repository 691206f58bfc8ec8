"""A broker for the tests of this folder alone, which stop and kill it."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.local_stack import stack as local_stack
from pipeline_assets.local_stack.plan import KAFKA
from pipeline_assets_tests.stack_services import start


@pytest.fixture(scope="session")
def kafka_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a broker that runs beside that of the session."""
    home = tmp_path_factory.mktemp("kafka")
    try:
        yield home
    finally:
        local_stack.down(home, purge=True)


@pytest.fixture
def kafka(kafka_home: Path) -> Settings:
    """A broker that runs."""
    return start(kafka_home, KAFKA)


@pytest.fixture
def topic(kafka: Settings) -> str:
    """A topic of two partitions that no other test has."""
    name = f"log-{token_hex(6)}"
    ensure_topics(kafka, [Topic(name=name, partitions=2)])
    return name
