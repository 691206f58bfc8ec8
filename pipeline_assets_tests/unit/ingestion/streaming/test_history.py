"""All versions of a table's rows from its change log, held against a table whose versions are written down one by one."""

from collections.abc import Sequence
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.ingestion.streaming.staged.changes import UNAVAILABLE
from pipeline_assets.ingestion.streaming.staged.checks import checked
from pipeline_assets.ingestion.streaming.staged.history import versions
from pipeline_assets.spec.sources import Source
from pipeline_assets_tests.followed_tables import (
    BY_COMMIT,
    SCHEMA,
    THINGS,
    UNREAD,
    Row,
    Shown,
    facts_of,
    minute,
    played,
    record,
    surveyed,
    thing,
)


def merged(records: Sequence[Row], source: Source = THINGS) -> list[Shown]:
    """The versions of a log that keep the contract, by key and time."""
    log = pa.Table.from_pylist(list(records), schema=SCHEMA)
    found = checked(source.contract, versions(log, source, facts_of(log, source))).good
    return [(row["id"], row["size"], row["text"], row["updated_at"], row["_deleted_at"]) for row in found.to_pylist()]


def broken(records: Sequence[Row], source: Source = THINGS) -> list[tuple[int, str, str]]:
    """The versions of a log that break the contract: offset, field and reason."""
    log = pa.Table.from_pylist(list(records), schema=SCHEMA)
    found = checked(source.contract, versions(log, source, facts_of(log, source))).broken
    return sorted((row.position, row.field, row.reason) for row in found)


@settings(max_examples=300)
@given(seed=st.integers(0, 10**9), steps=st.integers(0, 60), breaks=st.sampled_from([0.0, 0.1, 0.5]), by_commit=st.booleans())
def test_every_version_counts_from_when_it_was_known_to_the_next_one(seed: int, steps: int, breaks: float, *, by_commit: bool) -> None:
    """Snapshots that are cut off or taken again, lost slots, truncations, changed keys, broken changes, in any order with repeats.

    As written down; and as it would have been without any that is broken, once they have all been replayed.
    """
    random, source = Random(seed), BY_COMMIT if by_commit else THINGS  # noqa: S311 - rows for a test, not secrets
    table = played(random, steps, by_commit=by_commit, breaks=breaks)
    log = table.emitted + random.choices(table.emitted, k=len(table.emitted) // 3)
    random.shuffle(log)
    replayed = log + table.replayed
    random.shuffle(replayed)

    assert merged(log, source) == table.expected()
    assert merged(replayed, source) == table.expected(is_replayed=True)


def unread(size: int, updated: int, *fields: str, text: str | None = None) -> Row:
    """A row A of which some fields cannot be read."""
    return thing("A", size, updated, text) | {UNREAD: set(fields)}


def test_a_broken_change_ends_what_the_row_was_until_it_is_replayed_or_changed() -> None:
    """The row is in quarantine from then on; a good change, and a replay of the broken one, make it right and move no time."""
    good = [record("r", 10, 0, thing("A", 1, 5), "last")]
    bad = [*good, record("u", 20, 1, unread(2, 19, "size"))]
    later = [*bad, record("u", 30, 2, thing("A", 3, 29))]
    replayed = [*later, record("u", 20, 1, thing("A", 2, 19))]

    assert (merged(bad), broken(bad)) == ([("A", 1, None, minute(5), minute(19))], [(1, "size", "wrong type")])
    assert merged(later) == [("A", 1, None, minute(5), minute(19)), ("A", 3, None, minute(29), None)]
    assert merged(replayed) == [
        ("A", 1, None, minute(5), None),
        ("A", 2, None, minute(19), None),
        ("A", 3, None, minute(29), None),
    ]
    assert (broken(later), broken(replayed)) == ([(1, "size", "wrong type")], [])


def test_a_change_with_a_time_that_cannot_be_read_is_known_at_its_commit() -> None:
    """What the row was ends then, though nothing else of it has changed."""
    log = [record("r", 10, 0, thing("A", 1, 5), "last"), record("u", 20, 1, unread(1, 19, "updated_at"))]

    assert (merged(log), broken(log)) == ([("A", 1, None, minute(5), minute(20))], [(1, "updated_at", "wrong type")])


def test_a_large_value_that_a_broken_change_did_not_touch_is_still_known() -> None:
    """Only of one that could not itself be read nobody knows what it is after changes that do not touch it."""
    first, touched = record("r", 10, 0, thing("A", 1, 5, "a"), "last"), record("u", 30, 2, thing("A", 3, 29, UNAVAILABLE))
    size = [first, record("u", 20, 1, unread(2, 19, "size", text=UNAVAILABLE)), touched]
    text = [first, record("u", 20, 1, unread(2, 19, "text", text="b")), touched]

    assert merged(size) == [("A", 1, "a", minute(5), minute(19)), ("A", 3, "a", minute(29), None)]
    assert merged(text) == [("A", 1, "a", minute(5), minute(19))]
    assert broken(text) == [(1, "text", "wrong type"), (2, "text", "missing")]


def test_a_row_that_is_deleted_has_ended_whatever_it_was() -> None:
    """A deletion says enough by its key, also where the values of the deleted row cannot be read; and it mends nothing before it."""
    first, gone = record("r", 10, 0, thing("A", 1, 5), "last"), record("d", 30, 2, {"id": "A"})
    unreadable = gone | {"_broken": '{"size": "wrong type"}'}
    log = [first, record("u", 20, 1, unread(2, 19, "size")), gone]

    assert merged([first, unreadable]) == [("A", 1, None, minute(5), minute(30))]
    assert broken([first, unreadable]) == []
    assert merged(log) == [("A", 1, None, minute(5), minute(19))]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("fields", [{"_broken": '{"size": "wrong type"}'}, {"id": None, "_broken": '{"id": "out of range"}'}])
def test_a_snapshot_is_complete_by_all_of_its_records(place: int, fields: Row) -> None:
    """Whichever of them is broken, and also where nobody knows whose row it is: the others count from it on."""
    log = [record("r", 10, number, thing("ABC"[number], 1, 5), mark) for number, mark in enumerate(("first", "true", "last"))]
    log[place] |= {**fields, "size": None}

    assert [epoch.is_complete for epoch in surveyed(pa.Table.from_pylist(log, schema=SCHEMA), THINGS).epochs()] == [True]
    assert [row[0] for row in merged(log)] == [key for number, key in enumerate("ABC") if number != place]


def test_a_change_that_does_not_move_its_field_on_is_known_at_its_commit() -> None:
    """An update that leaves `updated_at`, or sets it back, would else seem to have been known before it was made."""
    log = [
        record("r", 10, 0, thing("A", 1, 5), "last"),
        record("u", 20, 1, thing("A", 2, 5)),
        record("u", 30, 2, thing("A", 3, 2)),
        record("u", 40, 3, thing("A", 4, 35)),
    ]
    assert merged(log) == [
        ("A", 1, None, minute(5), None),
        ("A", 2, None, minute(20), None),
        ("A", 3, None, minute(30), None),
        ("A", 4, None, minute(35), None),
    ]


@pytest.mark.parametrize("field", [20, 15], ids=["left as it was", "set back"])
def test_a_change_after_a_touch_is_known_at_its_commit_too(field: int) -> None:
    """Regression: the field of a row that was only touched was forgotten, so that a change seemed known before it was made, a leak."""
    log = [
        record("r", 10, 0, thing("A", 1, 5), "last"),
        record("u", 20, 1, thing("A", 1, 20)),
        record("u", 40, 2, thing("A", 2, field)),
    ]

    assert merged(log) == [("A", 1, None, minute(5), None), ("A", 2, None, minute(40), None)]


def test_a_field_that_is_later_than_its_commit_hides_no_later_change() -> None:
    """Regression: one `updated_at` in the year 2099 hid all changes of its row until then, and its deletion."""
    log = [
        record("r", 10, 0, thing("A", 1, 5), "last"),
        record("u", 20, 1, thing("A", 2, 45_000_000)),
        record("u", 30, 2, thing("A", 3, 30)),
        record("d", 40, 3, {"id": "A"}),
    ]

    assert merged(log) == [
        ("A", 1, None, minute(5), None),
        ("A", 2, None, minute(20), None),
        ("A", 3, None, minute(30), minute(40)),
    ]


def test_a_change_with_the_place_of_one_before_a_restore_counts() -> None:
    """Regression: a restored database counts its LSNs anew, and a change at one that its row had before was taken for a repeat."""
    log = [
        record("r", 10, 0, thing("A", 1, 5), "last"),
        record("u", 20, 1, thing("A", 2, 20)),
        record("r", 12, 2, thing("A", 1, 5), "last") | {"_committed_at": minute(100)},
        record("u", 20, 3, thing("A", 3, 110)) | {"_committed_at": minute(110)},
    ]

    assert merged(log) == [
        ("A", 1, None, minute(5), None),
        ("A", 2, None, minute(20), None),
        ("A", 1, None, minute(100), None),
        ("A", 3, None, minute(110), None),
    ]


def test_a_restored_table_moves_nothing_that_was_known() -> None:
    """Of a snapshot that is taken again only what differs counts, from that on; what is missing was deleted by then."""
    log = [
        record("r", 10, 0, thing("A", 1, 5), "true"),
        record("r", 10, 1, thing("B", 1, 5), "true"),
        record("r", 10, 2, thing("C", 1, 5), "last"),
        record("u", 20, 3, thing("A", 2, 15)),
        # The restored table has the row as it was before the update, with its time of then.
        record("r", 50, 4, thing("A", 1, 5), "true"),
        record("r", 50, 5, thing("B", 1, 5), "last"),
    ]
    assert merged(log) == [
        ("A", 1, None, minute(5), None),
        ("A", 2, None, minute(15), None),
        ("A", 1, None, minute(50), None),
        ("B", 1, None, minute(5), None),
        ("C", 1, None, minute(5), minute(50)),
    ]


def test_a_row_that_was_changed_and_deleted_at_once_has_ended() -> None:
    """Regression: a version that counted at no time hid the deletion after it, and the one before seemed to count for ever."""
    log = [
        record("r", 10, 0, thing("A", 1, 5), "last"),
        record("u", 26, 1, thing("A", 2, 30)),
        record("d", 28, 2, {"id": "A"}),
    ]

    assert merged(log) == [("A", 1, None, minute(5), minute(30))]


def test_by_commit_nothing_is_known_before_the_first_snapshot() -> None:
    """A table without a time of its own: rows of the snapshot are known from it on, changes and a deletion from their commits."""
    log = [
        record("r", 10, 0, {"id": "A", "size": 1}, "last"),
        record("u", 20, 1, {"id": "A", "size": 2}),
        record("d", 30, 2, {"id": "A"}),
        record("c", 40, 3, {"id": "A", "size": 2}),
    ]
    assert merged(log, BY_COMMIT) == [
        ("A", 1, None, minute(10), None),
        ("A", 2, None, minute(20), minute(30)),
        ("A", 2, None, minute(40), None),
    ]


def test_a_repeat_keeps_the_earliest_time() -> None:
    """A row that was only touched is no new version, whatever its `updated_at` says."""
    log = [record("r", 10, 0, thing("A", 1, 5), "last"), record("u", 20, 1, thing("A", 1, 15))]
    assert merged(log) == [("A", 1, None, minute(5), None)]


@pytest.mark.parametrize("source", [THINGS, BY_COMMIT])
def test_an_empty_log_has_no_versions_and_no_snapshot(source: Source) -> None:
    """Nothing is made up where nothing was emitted."""
    log = SCHEMA.empty_table()

    assert versions(log, source, facts_of(log, source)).rows.num_rows == 0
    assert surveyed(log, source).epochs() == ()
