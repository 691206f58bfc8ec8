"""Worlds of their own for tests that share the services of the session."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import pytest

from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning.dbt import PARSED
from pipeline_assets_tests.readings import World
from pipeline_assets_tests.stack_env import write_stack_env


@pytest.fixture
def world(stores: Settings) -> World:
    """A source of readings under a name that no other test has."""
    return World(settings=stores, name=f"readings_{token_hex(6)}")


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the last test of the module had dbt parse, for the next one: half of the time that a run of dbt takes."""
    return tmp_path_factory.mktemp("parsed") / PARSED


@pytest.fixture
def platform(isolated: Settings, tmp_path: Path, parsed: Path) -> Iterator[Platform]:
    """The platform of this test's own stores."""
    write_stack_env(isolated, tmp_path)
    left = tmp_path / "dbt" / PARSED
    left.parent.mkdir()
    with suppress(FileNotFoundError):
        shutil.copy(parsed, left)
    yield Platform(home=str(tmp_path))
    with suppress(FileNotFoundError):
        shutil.copy(left, parsed)
