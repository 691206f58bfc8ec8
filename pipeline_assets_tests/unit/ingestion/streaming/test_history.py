"""All versions of a table's rows from its change log, held against a table whose versions are written down one by one."""

from collections.abc import Sequence
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.ingestion.streaming.staged.history import Versions, versions
from pipeline_assets.spec.sources import Source
from pipeline_assets_tests.followed_tables import BY_COMMIT, SCHEMA, THINGS, Row, Shown, facts_of, minute, played, record, surveyed, thing


def merged(records: Sequence[Row], source: Source = THINGS) -> list[Shown]:
    """The versions of a log, by key and time."""
    log = pa.Table.from_pylist(list(records), schema=SCHEMA)
    return shown(versions(log, source, facts_of(log, source)))


def shown(found: Versions) -> list[Shown]:
    """What a test looks at of some versions."""
    return [(row["id"], row["size"], row["text"], row["updated_at"], row["_deleted_at"]) for row in found.rows.to_pylist()]


@settings(max_examples=300)
@given(seed=st.integers(0, 10**9), steps=st.integers(0, 60), by_commit=st.booleans())
def test_every_version_counts_from_when_it_was_known_to_the_next_one(seed: int, steps: int, *, by_commit: bool) -> None:
    """Snapshots that are cut off or taken again, lost slots, truncations, changed keys, in any order with repeats: as written down."""
    random = Random(seed)  # noqa: S311 - rows for a test, not secrets
    table = played(random, steps, by_commit=by_commit)
    log = table.emitted + random.choices(table.emitted, k=len(table.emitted) // 3)
    random.shuffle(log)

    assert merged(log, BY_COMMIT if by_commit else THINGS) == table.expected()


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

    assert shown(versions(log, source, facts_of(log, source))) == []
    assert surveyed(log, source).epochs() == ()
