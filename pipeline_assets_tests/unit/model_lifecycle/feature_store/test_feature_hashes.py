"""The hash of a row's features: one definition, which can be computed again anywhere."""

import struct
from collections.abc import Sequence
from hashlib import sha256

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.model_lifecycle.feature_store.fingerprint import feature_hashes

TEXTS = st.none() | st.text(max_size=8)
NUMBERS = st.none() | st.floats(allow_nan=False) | st.integers(-(2**53), 2**53).map(float)
ROWS = st.integers(1, 20).flatmap(lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=8))


def eight_bytes(value: float | str | None) -> bytes:
    """The bytes of one value as the docstring defines them."""
    if isinstance(value, str):
        return sha256(value.encode()).digest()[:8]
    return struct.pack("<d", 0.0 if value is None or value == 0 else value)


def by_hand(row: Sequence[float | str | None]) -> str:
    """The hash as the docstring defines it, one value at a time."""
    values = b"".join(map(eight_bytes, row))
    bits = "".join("1" if value is None else "0" for value in row).ljust(-(-len(row) // 8) * 8, "0")
    return sha256(values + bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))).hexdigest()


def columns_of(rows: Sequence[Sequence[float | None]]) -> pa.Table:
    """Rows as a table of floats."""
    return pa.table({f"f{place}": pa.array([row[place] for row in rows], pa.float64()) for place in range(len(rows[0]))})


@given(ROWS)
def test_a_hash_is_the_sha256_of_values_and_null_bits(rows: list[list[float | None]]) -> None:
    """The vectorised hash equals the one computed value by value, for any width, nulls and signed zeros included."""
    table = columns_of(rows)

    assert feature_hashes(table, table.column_names).to_pylist() == [by_hand(row) for row in rows]


@given(st.lists(st.tuples(NUMBERS, TEXTS, NUMBERS), min_size=1, max_size=8))
def test_a_text_counts_by_the_first_bytes_of_its_own_hash(rows: list[tuple[float | None, str | None, float | None]]) -> None:
    """Texts beside numbers, the empty one and null differ, however the column is encoded."""
    table = pa.table({"a": [row[0] for row in rows], "b": pa.array([row[1] for row in rows], pa.string()), "c": [row[2] for row in rows]})
    table = table.set_column(0, "a", table["a"].cast(pa.float64())).set_column(2, "c", table["c"].cast(pa.float64()))
    encoded = table.set_column(1, "b", table["b"].cast(pa.large_string()).dictionary_encode())

    assert feature_hashes(table, ["a", "b", "c"]).to_pylist() == [by_hand(row) for row in rows]
    assert feature_hashes(encoded, ["a", "b", "c"]).equals(feature_hashes(table, ["a", "b", "c"]))


def test_integers_and_booleans_count_as_the_float_they_equal() -> None:
    """A count of 1, a true and a 1.0 are the same value."""
    whole = pa.table({"n": pa.array([1, None], pa.int64()), "is_so": pa.array([True, False])})
    floats = pa.table({"n": pa.array([1.0, None]), "is_so": pa.array([1.0, 0.0])})

    assert feature_hashes(whole, ["n", "is_so"]).equals(feature_hashes(floats, ["n", "is_so"]))


def test_order_and_nulls_make_a_difference() -> None:
    """Another order of the columns, and null in the place of zero, give another hash."""
    table = pa.table({"a": [1.0, 0.0], "b": [2.0, 0.0], "c": pa.array([2.0, None])})

    assert feature_hashes(table, ["a", "b"])[0] != feature_hashes(table, ["b", "a"])[0]
    assert feature_hashes(table, ["a", "b"])[0] == feature_hashes(table, ["a", "c"])[0]
    assert feature_hashes(table, ["a", "b"])[1] != feature_hashes(table, ["a", "c"])[1]


def test_a_hash_does_not_depend_on_how_the_table_is_chunked() -> None:
    """Chunks, slices and columns besides change nothing; no rows give no hashes."""
    table = pa.table({"a": [1.0, None, 3.0], "other": ["x", "y", "z"]})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])

    assert feature_hashes(chunked, ["a"]).equals(feature_hashes(table.select(["a"]), ["a"]))
    assert feature_hashes(table.slice(1), ["a"]).to_pylist() == feature_hashes(table, ["a"]).to_pylist()[1:]
    assert len(feature_hashes(table.slice(3), ["a"])) == 0


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (pa.table({"a": [1.0, float("nan")]}), "holds NaN in a"),
        (pa.table({"b": [1.0]}), "lacks a"),
    ],
)
def test_nan_and_missing_columns_are_errors(table: pa.Table, problem: str) -> None:
    """NaN has many bit patterns and stands for no value; a column that is not there cannot be hashed."""
    with pytest.raises(TableMismatch, match=problem):
        feature_hashes(table, ["a"])
