"""Days that would lose rows: held up while something behind the table still has them, and never otherwise."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.lake_errors import LostRows, RowsLost
from pipeline_assets.processing.lake.shrinking import COPY, DERIVED, Limit, check_kept

TABLE, STAGED, OTHER = ("raw", "trips"), ("staged", "trips"), ("staged", "fares")
FIRST, SECOND = date(2013, 5, 1), date(2013, 5, 2)
COUNTS = st.dictionaries(st.integers(0, 3).map(lambda on: FIRST + timedelta(days=on)), st.integers(0, 40))


def test_an_emptied_day_is_named_with_what_is_behind_it() -> None:
    """Table, day, rows before and after, and each asset that has more; a day that keeps its rows is not in it."""
    with pytest.raises(RowsLost) as caught:
        check_kept(TABLE, {FIRST: 24, SECOND: 24}, {SECOND: 24}, lambda _: {STAGED: {FIRST: 24}, OTHER: {FIRST: 1}}, COPY)

    assert caught.value.days == (LostRows(day=FIRST, before=24, after=0, behind={"staged/trips": 24, "staged/fares": 1}),)
    assert "raw.trips would lose rows" in str(caught.value)
    assert "2013-05-01 from 24 to 0, and staged/trips has 24, staged/fares has 1" in str(caught.value)
    assert "`may_shrink: true`" in str(caught.value)


def test_a_day_that_one_of_its_sources_was_corrected_down_to_may_shrink() -> None:
    """Of a join the other source still has more, such as the weather of a day on which half of the flights were cancelled."""
    check_kept(TABLE, {FIRST: 24}, {FIRST: 6}, lambda _: {STAGED: {FIRST: 6}, OTHER: {FIRST: 72}}, DERIVED)


def test_what_is_behind_is_asked_for_days_that_lose_rows_alone() -> None:
    """A load that loses nothing asks for nothing."""
    check_kept(TABLE, {FIRST: 24, SECOND: 3}, {FIRST: 24, SECOND: 4}, lambda days: pytest.fail(f"asked for {days}"), COPY)


@pytest.mark.parametrize(
    ("before", "after", "is_lost"), [(21, 11, False), (21, 10, True), (10, 0, False), (11, 0, True), (200, 100, False)]
)
def test_a_derived_day_may_lose_half_of_its_rows_and_a_few_in_any_case(before: int, after: int, *, is_lost: bool) -> None:
    """A correction may move the rows of a small day to another one; a day of many rows that is nearly empty is no correction."""

    def check() -> None:
        check_kept(TABLE, {FIRST: before}, {FIRST: after}, lambda _: {STAGED: {FIRST: before}}, DERIVED)

    if is_lost:
        with pytest.raises(RowsLost):
            check()
    else:
        check()


@given(before=COUNTS, after=COUNTS, behind=COUNTS, limit=st.sampled_from([COPY, DERIVED]))
def test_a_day_is_held_up_if_and_only_if_its_rows_are_still_behind_it(
    before: dict[date | None, int], after: dict[date | None, int], behind: dict[date | None, int], limit: Limit
) -> None:
    """Against each day judged by itself; whatever the source has lost too passes."""
    lost: set[date | None] = {
        on
        for on, rows in before.items()
        if rows - after.get(on, 0) > limit.rows and rows - after.get(on, 0) > limit.share * rows and behind.get(on, 0) > after.get(on, 0)
    }
    found: set[date | None] = set()
    try:
        check_kept(TABLE, before, after, lambda _: {STAGED: behind}, limit)
    except RowsLost as error:
        found = {lost.day for lost in error.days}
    assert found == lost
