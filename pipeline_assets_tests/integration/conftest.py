"""Worlds of their own for tests that share the services of the session."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.local_stack import processes
from pipeline_assets.local_stack.plan import CONNECT
from pipeline_assets.processing.cleaning.dbt import PARSED
from pipeline_assets_tests.readings import World
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.stream_pipelines import end_connectors


@pytest.fixture(scope="session", autouse=True)
def without_journeys(request: pytest.FixtureRequest, stack_home: Path) -> None:
    """No connector of a journey before them runs beside these tests: each costs time for as long as the session lasts."""
    if processes.running(stack_home, CONNECT) is not None:
        end_connectors(request.getfixturevalue("streams"))


@pytest.fixture
def world(stores: Settings) -> World:
    """A source of readings under a name that no other test has."""
    return World(settings=stores, name=f"readings_{token_hex(6)}")


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests had dbt parse, by the contents of their projects, for those after them: half of the time that a run of dbt takes."""
    return tmp_path_factory.mktemp("parsed")


@pytest.fixture
def platform(isolated: Settings, tmp_path: Path, parsed: Path) -> Iterator[Platform]:
    """The platform of this test's own stores."""
    write_stack_env(isolated, tmp_path)
    own = tmp_path / "dbt"
    shutil.copytree(parsed, own)
    yield Platform(home=str(tmp_path))
    for file in own.glob(f"*{PARSED}"):
        shutil.copy(file, parsed)
