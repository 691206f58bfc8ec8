"""What a run of dbt receives, and what it leaves behind."""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from threading import Event

import pytest

from pipeline_assets.core.settings import in_environment
from pipeline_assets.processing.cleaning.dbt import PARSED, between, read_ahead, run_folder


def test_days_reach_dbt_with_an_end_that_is_exclusive() -> None:
    """The last of the asked days belongs to them, the day at which dbt ends does not."""
    assert between(date(2013, 1, 1), date(2013, 1, 31)) == ["--event-time-start", "2013-01-01", "--event-time-end", "2013-02-01"]


def test_a_run_leaves_its_parse_to_the_next_and_its_folder_only_when_it_failed(tmp_path: Path) -> None:
    """The next run finds what dbt parsed; the folder of a failed run stays with its log."""
    project = project_in(tmp_path / "project")
    with run_folder(tmp_path, project) as first:
        (first / PARSED).write_text("parsed")
    with suppress(RuntimeError), run_folder(tmp_path, project) as second:
        (second / "dbt.log").write_text("why")
        raise RuntimeError

    assert not first.exists()
    assert (second / PARSED).read_text() == "parsed"
    assert (second / "dbt.log").exists()


def project_in(folder: Path) -> Path:
    """A project with one model."""
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "orders.yml").write_text("models: []")
    return folder


def test_what_was_parsed_of_other_contents_is_not_taken_whatever_their_time_of_change(tmp_path: Path) -> None:
    """Regression: a project that was put back as it had been, times included, was run as it was in between."""
    project = project_in(tmp_path / "project")
    model = project / "models" / "orders.yml"
    with run_folder(tmp_path, project) as first:
        (first / PARSED).write_text("parsed")
    before = model.stat()
    model.write_text("models: {}")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    with run_folder(tmp_path, project) as second:
        was_taken = (second / PARSED).exists()
        (second / PARSED).write_text("parsed since")

    assert not was_taken
    assert [file.read_text() for file in tmp_path.glob(f"*{PARSED}")] == ["parsed since"]


def test_variables_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that was there has its old value again, one that was not is gone, also after an error."""
    monkeypatch.setenv("DBT_TEST_OLD", "old")
    with suppress(RuntimeError), in_environment({"DBT_TEST_OLD": "new", "DBT_TEST_NEW": "new"}):
        seen = os.environ["DBT_TEST_OLD"], os.environ["DBT_TEST_NEW"]
        raise RuntimeError

    assert seen == ("new", "new")
    assert os.environ["DBT_TEST_OLD"] == "old"
    assert "DBT_TEST_NEW" not in os.environ


def test_items_are_read_before_they_are_taken() -> None:
    """Who makes the items goes on while the first is still looked at, and they come in their order."""
    made: list[int] = []
    all_made = Event()

    def make() -> Iterator[int]:
        for number in range(1_000):
            made.append(number)
            yield number
        all_made.set()

    items = read_ahead(make())
    first = next(items)

    assert all_made.wait(timeout=60)
    assert [first, *items] == made == list(range(1_000))


def test_an_error_comes_after_the_items_before_it() -> None:
    """What failed in the thread fails where the items are taken, once those that were made are taken."""

    def make() -> Iterator[int]:
        yield 1
        raise ValueError("no second item")

    items = read_ahead(make())

    assert next(items) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(items)


def test_nobody_waits_for_items_that_are_not_taken() -> None:
    """Who stops taking goes on at once, though the next item is still being made."""
    may_end = Event()

    def make() -> Iterator[int]:
        yield 1
        may_end.wait(timeout=60)

    items = read_ahead(make())
    next(items)
    items.close()

    assert not may_end.is_set()
    may_end.set()
