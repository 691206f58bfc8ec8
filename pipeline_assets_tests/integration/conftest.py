"""Worlds of their own for tests that share the services of the session."""

from secrets import token_hex

import pytest

from pipeline_assets.core.settings import Settings
from pipeline_assets_tests.readings import World


@pytest.fixture
def world(stores: Settings) -> World:
    """A source of readings under a name that no other test has."""
    return World(settings=stores, name=f"readings_{token_hex(6)}")
