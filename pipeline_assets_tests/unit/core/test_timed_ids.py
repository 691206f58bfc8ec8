"""Identifiers that begin with a time."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.timed_ids import ms_of, timed_id

MOMENTS = st.integers(0, 2**48 - 1)


@given(at_ms=MOMENTS, random=st.integers(0, 2**256 - 1))
def test_an_identifier_has_its_time(at_ms: int, random: int) -> None:
    """A UUID of version 7 whose time is read back, also with more behind it, as the rows of one answer have."""
    found = timed_id(at_ms, random)

    assert (UUID(found).version, UUID(found).variant) == (7, "specified in RFC 4122")
    assert ms_of(found) == ms_of(f"{found}-17") == ms_of(found.upper()) == at_ms


@given(first=st.tuples(MOMENTS, st.integers(0, 2**74 - 1)), second=st.tuples(MOMENTS, st.integers(0, 2**74 - 1)))
def test_identifiers_are_ordered_by_time_and_equal_where_all_is(first: tuple[int, int], second: tuple[int, int]) -> None:
    """As texts, which is how files and indexes order them."""
    one, other = timed_id(*first), timed_id(*second)

    assert (one == other) is (first == second)
    assert first[0] >= second[0] or one < other


@given(random=st.integers(0, 2**256 - 1))
def test_one_without_a_time_says_so(random: int) -> None:
    """A UUID of version 8, of as many bits as there are."""
    found = timed_id(None, random)

    assert UUID(found).version == 8
    assert ms_of(found) is None
    assert timed_id(None, random ^ 1) != found


@pytest.mark.parametrize("text", ["", "order-7", "6f0c2a34-0b1d-4f9e-8a55-3d1f0c9b7e21", "7" * 36, "{" + "0" * 31 + "}", "é" * 36])
def test_other_identifiers_have_no_time(text: str) -> None:
    """Other texts, and UUIDs of another version."""
    assert ms_of(text) is None
