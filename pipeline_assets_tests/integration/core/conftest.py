"""Authorities for the tests of encrypted connections."""

import pytest

from pipeline_assets_tests.tls import Authority, make_authority


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that signed the certificates of the servers."""
    return make_authority(tmp_path_factory.mktemp("trusted"), "trusted")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that signed nothing."""
    return make_authority(tmp_path_factory.mktemp("stranger"), "stranger")
