"""How far a table was read: where the next reading may begin, and where it begins anew."""

from dataclasses import replace

import pytest

from pipeline_assets.ingestion.batch.incremental import MOST_TRANSACTIONS, Horizon

BEFORE = Horizon(place="database 1", rules="declared", ended=5_000_000_000, next=5_000_000_007, reached=None)


@pytest.mark.parametrize(
    "changed",
    [{}, {"ended": BEFORE.ended + 9, "next": BEFORE.next + 9}, {"next": BEFORE.ended + MOST_TRANSACTIONS - 1}],
    ids=["nothing happened", "a little later", "just near enough"],
)
def test_a_reading_begins_where_the_one_before_ended(changed: dict[str, object]) -> None:
    """The same table of the same database, and numbers of transactions that are near enough."""
    assert BEFORE.precedes(replace(BEFORE, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"next": BEFORE.ended + MOST_TRANSACTIONS},
        {"ended": 700, "next": 701},
        {"place": "database 2"},
        {"rules": "declared anew"},
    ],
    ids=["too long ago", "an older state of the database", "elsewhere", "another declaration"],
)
def test_a_reading_begins_anew_where_numbers_say_nothing(changed: dict[str, object]) -> None:
    """Another database, table or declaration, numbers that went back, and numbers whose lower 32 bits are ambiguous."""
    assert not BEFORE.precedes(replace(BEFORE, **changed))  # type: ignore[arg-type]
