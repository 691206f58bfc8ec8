"""A demo with nothing new to do is recognized, and one that would come out otherwise is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_assets.local_stack.demo_again import code_hash, is_settled, made_alike

STATE = {"code": "1f", "offsets": {"flight.departures/0": 4}, "rows_written": {"airline_ops": 9}, "live": {"flight_delay": 1}}
MADE = {"made_from": STATE, "online": [{"differing_values": 0}], "live": [{"differing": 0}], "stream": {"audited": {"a": {"passed": True}}}}


def kept(home: Path, made: object) -> Path:
    """A home with this summary."""
    (home / "demo.json").write_text(json.dumps(made))
    return home


def test_a_demo_made_from_the_same_is_known(tmp_path: Path) -> None:
    """Its summary is given as it was."""
    assert made_alike(kept(tmp_path, MADE), STATE) == MADE


@pytest.mark.parametrize(
    "change",
    [
        {"made_from": {**STATE, "code": "2f"}},
        {"made_from": {**STATE, "offsets": {"flight.departures/0": 5}}},
        {"made_from": {**STATE, "live": {"flight_delay": 2}}},
        {"stream": {"audited": {"a": {"passed": True}, "b": {"passed": False}}}},
        {"online": [{"differing_values": 1}]},
        {"live": [{"differing": 1}]},
        {"live": None},
    ],
)
def test_another_demo_and_a_wrong_one_are_made_again(tmp_path: Path, change: dict[str, Any]) -> None:
    """Other code, other events, another version that is live, a loss that the audit found, and values that differed."""
    assert made_alike(kept(tmp_path, {**MADE, **change}), STATE) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "{}"])
def test_without_a_summary_there_is_no_demo(tmp_path: Path, text: str) -> None:
    """None, a damaged one, and one of an earlier version."""
    assert made_alike(tmp_path, STATE) is None
    (tmp_path / "demo.json").write_text(text)
    assert made_alike(tmp_path, STATE) is None


def test_the_code_counts_and_what_runs_leave_behind_does_not(tmp_path: Path) -> None:
    """Another text of a Python file or a dbt model changes the hash, moved text as well; dbt's own output and tests do not."""
    files = {"pipeline_assets/a.py": "a", "dbt_project/models/x/one.sql": "select 1", "simulator/w/world.toml": "", "uv.lock": "1"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = code_hash(tmp_path)
    (tmp_path / "dbt_project/target").mkdir()
    (tmp_path / "dbt_project/target/manifest.json").write_text("{}")
    assert code_hash(tmp_path) == before
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text} ")
        assert code_hash(tmp_path) != before
        (tmp_path / name).write_text(text)
    (tmp_path / "pipeline_assets/a.py").rename(tmp_path / "pipeline_assets/b.py")
    assert code_hash(tmp_path) != before


def test_what_changed_while_a_demo_was_made_is_no_part_of_it() -> None:
    """Rows of its databases; its own events and versions are what it made."""
    assert is_settled(STATE, {**STATE, "offsets": {"flight.departures/0": 9}, "live": {"flight_delay": 2}})
    assert not is_settled(STATE, {**STATE, "rows_written": {"airline_ops": 10}})
