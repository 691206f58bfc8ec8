"""The line of versions: what a roll back returns to."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.model_lifecycle.registry.ledger import Action, Entry, ancestry, live

NOW = datetime(2013, 5, 1, tzinfo=UTC)


def _entries(*decisions: tuple[Action, int]) -> list[Entry]:
    return [
        Entry(
            sequence=number,
            version=version,
            previous_version=None,
            action=action,
            actor="a test",
            reason="",
            rules=(),
            run_id=None,
            live_from=NOW,
            recorded_at=NOW,
        )
        for number, (action, version) in enumerate(decisions, start=1)
    ]


@pytest.mark.parametrize(
    ("decisions", "line"),
    [
        ([], ()),
        ([("reject", 1)], ()),
        ([("promote", 1), ("promote", 2), ("promote", 3)], (1, 2, 3)),
        ([("promote", 1), ("reject", 2), ("promote", 3)], (1, 3)),
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2)], (1, 2)),
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2), ("rollback", 1)], (1,)),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 3)], (1, 3)),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("rollback", 2)], (1, 2)),
        ([("promote", 1), ("promote", 2), ("promote", 1)], (2, 1)),
    ],
)
def test_the_line_of_versions(decisions: list[tuple[Action, int]], line: tuple[int, ...]) -> None:
    """Going back twice goes further back; a version that was left by a roll back is out of the line."""
    assert ancestry(_entries(*decisions)) == line


DECISIONS = st.lists(st.tuples(st.sampled_from(["promote", "rollback", "reject"]), st.integers(1, 5)), max_size=20)


@given(DECISIONS)
def test_the_line_ends_with_the_live_version_and_holds_each_version_once(decisions: list[tuple[Action, int]]) -> None:
    """Whatever was decided, in whatever order."""
    entries = _entries(*decisions)
    line = ancestry(entries)

    assert (line[-1] if line else None) == live(entries)
    assert len(set(line)) == len(line)
