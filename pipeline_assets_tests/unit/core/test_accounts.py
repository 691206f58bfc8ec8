"""The name of who does something by hand: that of the account, or its number."""

import os
from getpass import getuser

import pytest

from pipeline_assets.core.accounts import account_name

NOBODYS = 2_000_054_321


def test_an_account_is_called_by_its_name() -> None:
    """As the system has it."""
    assert account_name() == getuser()


def test_an_account_without_a_name_is_called_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: in a container that runs under any number, a training ended in KeyError after the model was learned."""
    for named_by in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(named_by, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: NOBODYS)
    with pytest.raises((KeyError, OSError)):
        getuser()

    assert account_name() == f"uid {NOBODYS}"
