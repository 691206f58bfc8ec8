"""The line of versions: what a roll back returns to, and what is tried beside the live one."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.model_lifecycle.registry.ledger import CHANGES, Action, Entry, Trial, ancestry, live, made_live, trial
from pipeline_assets.model_lifecycle.registry.versions import ALIASES, are_behind

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
            share=number / 100 if action == "canary" else None,
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
        ([("promote", 1), ("shadow", 2), ("canary", 2), ("return", 2)], (1,)),
        ([("promote", 1), ("canary", 2), ("promote", 2), ("shadow", 3)], (1, 2)),
    ],
)
def test_the_line_of_versions(decisions: list[tuple[Action, int]], line: tuple[int, ...]) -> None:
    """Going back twice goes further back; a version that was left by a roll back is out of the line."""
    assert ancestry(_entries(*decisions)) == line


DECISIONS = st.lists(
    st.tuples(st.sampled_from(["promote", "rollback", "reject", "shadow", "canary", "return"]), st.integers(1, 5)), max_size=20
)


@given(DECISIONS)
def test_the_line_ends_with_the_live_version_and_holds_each_version_once(decisions: list[tuple[Action, int]]) -> None:
    """Whatever was decided, in whatever order."""
    entries = _entries(*decisions)
    line = ancestry(entries)

    assert (line[-1] if line else None) == live(entries)
    assert len(set(line)) == len(line)


@given(DECISIONS)
def test_a_trial_is_what_was_decided_last_of_all_but_rejections(decisions: list[tuple[Action, int]]) -> None:
    """It began with the first of the entries of its own kind in a row, and has the share and the number of the last."""
    entries = _entries(*decisions)
    found, decided = trial(entries), [entry for entry in entries if entry.action != "reject"]
    last = decided[-1] if decided else None
    is_tried = last is not None and last.action in {"shadow", "canary"}

    assert (found is not None) == is_tried
    if found is not None and last is not None:
        own = [entry for entry in decided if entry.sequence >= found.began]
        before = [entry for entry in decided if entry.sequence < found.began]
        assert (found.version, found.role, found.share, found.sequence) == (last.version, last.action, last.share, last.sequence)
        assert {(entry.action, entry.version) for entry in own} == {(last.action, last.version)}
        assert not before or (before[-1].action, before[-1].version) != (last.action, last.version)


def test_trials_change_nothing_that_is_live() -> None:
    """Without them, the same versions were live."""
    entries = _entries(("promote", 1), ("canary", 2), ("return", 2), ("reject", 3), ("shadow", 4))

    assert live(entries) == live([entry for entry in entries if entry.action in CHANGES]) == 1
    assert trial(entries) == Trial(version=4, role="shadow", share=None, champion=None, began=5, sequence=5, live_from=NOW)


@pytest.mark.parametrize(
    ("decisions", "found", "is_behind"),
    [
        ([], {}, False),
        ([("reject", 1)], {}, False),
        ([("promote", 1)], {}, True),
        ([("promote", 1)], {"champion": 1}, False),
        ([("promote", 1), ("promote", 2)], {"champion": 1}, True),
        ([("promote", 1), ("promote", 2), ("reject", 3), ("canary", 3)], {"champion": 1}, True),
        ([("promote", 1), ("promote", 2)], {"champion": 2, "previous": 1}, False),
        ([("promote", 1), ("promote", 2)], {"champion": 1, "previous": 1}, False),
        ([("promote", 1), ("promote", 2)], {"champion": 1, "staging": 2}, True),
        ([("promote", 1), ("promote", 2), ("promote", 3)], {"champion": 1, "previous": 2}, False),
        ([("promote", 1), ("promote", 2), ("rollback", 1)], {"champion": 2, "previous": 1}, True),
    ],
)
def test_aliases_are_behind_where_nobody_mirrored_the_newest_decision(
    decisions: list[tuple[Action, int]],
    found: dict[str, int],
    is_behind: bool,  # noqa: FBT001 - what is expected
) -> None:
    """They are those from before it, or there are none; others were changed by somebody, and aliases of people's own do not count."""
    assert are_behind(_entries(*decisions), found) is is_behind


@given(DECISIONS)
def test_aliases_that_were_mirrored_are_not_behind_and_those_of_the_decision_before_are(decisions: list[tuple[Action, int]]) -> None:
    """Whatever was decided, and however often a version that is live already was promoted again."""
    entries = _entries(*decisions)
    last = made_live(entries)
    lines = [ancestry(entries), ancestry(entries[: last.sequence - 1]) if last is not None else ()]
    now, before = (dict(zip(ALIASES, reversed(line), strict=False)) for line in lines)

    assert are_behind(entries, now) is (now == before and last is not None)
    assert are_behind(entries, before) is (last is not None)
