"""What a run of dbt receives, and what it leaves behind."""

import os
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest

from pipeline_assets.core.settings import in_environment
from pipeline_assets.processing.cleaning.dbt import PARSED, between, run_folder


def test_days_reach_dbt_with_an_end_that_is_exclusive() -> None:
    """The last of the asked days belongs to them, the day at which dbt ends does not."""
    assert between(date(2013, 1, 1), date(2013, 1, 31)) == ["--event-time-start", "2013-01-01", "--event-time-end", "2013-02-01"]


def test_a_run_leaves_its_parse_to_the_next_and_its_folder_only_when_it_failed(tmp_path: Path) -> None:
    """The next run finds what dbt parsed; the folder of a failed run stays with its log."""
    with run_folder(tmp_path) as first:
        (first / PARSED).write_text("parsed")
    with suppress(RuntimeError), run_folder(tmp_path) as second:
        (second / "dbt.log").write_text("why")
        raise RuntimeError

    assert not first.exists()
    assert (second / PARSED).read_text() == "parsed"
    assert (second / "dbt.log").exists()


def test_variables_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that was there has its old value again, one that was not is gone, also after an error."""
    monkeypatch.setenv("DBT_TEST_OLD", "old")
    with suppress(RuntimeError), in_environment({"DBT_TEST_OLD": "new", "DBT_TEST_NEW": "new"}):
        seen = os.environ["DBT_TEST_OLD"], os.environ["DBT_TEST_NEW"]
        raise RuntimeError

    assert seen == ("new", "new")
    assert os.environ["DBT_TEST_OLD"] == "old"
    assert "DBT_TEST_NEW" not in os.environ
