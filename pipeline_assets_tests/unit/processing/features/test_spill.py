"""Rows that are put aside on disk: each is in the bucket of its key, in its order, and a view over them has the same bytes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.keys import bucket_of
from pipeline_assets.processing.features.spill import spilled

KEYS = st.one_of(st.none(), st.text(max_size=3))


def reader(batches: list[list[tuple[str | None, int | None]]]) -> pa.RecordBatchReader:
    """Rows of two key columns and a number that counts them."""
    schema, count, found = pa.schema([("a", pa.string()), ("b", pa.int64()), ("number", pa.int64())]), 0, []
    for rows in batches:
        numbers = range(count, count := count + len(rows))
        columns = [[a for a, _ in rows], [b for _, b in rows], numbers]
        found.append(pa.record_batch([pa.array(each, field.type) for each, field in zip(columns, schema, strict=True)], schema=schema))
    return pa.RecordBatchReader.from_batches(schema, found)


@given(st.lists(st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(0, 3)))), max_size=5), st.integers(1, 7))
def test_each_row_is_in_the_bucket_of_its_key(batches: list[list[tuple[str | None, int | None]]], buckets: int) -> None:
    """Nulls, empty batches and buckets without rows included: the rows of a bucket are those of the whole table, in its order."""
    whole = reader(batches).read_all()
    bucket = bucket_of(whole, "rows", ("a", "b"), buckets)
    with spilled(reader(batches), "rows", ("a", "b"), buckets) as found:
        assert found.rows == whole.num_rows
        for number in range(buckets):
            assert found.of(number).to_pydict() == whole.filter(pa.array(bucket == number)).to_pydict()
            assert found.of(number).schema == whole.schema


def test_nothing_is_left_on_disk_and_the_files_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows are read back the folder is empty, so a killed process leaves nothing either."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    keys = pa.array([f"k{number % 97}" for number in range(50_000)])
    rows = pa.table({"a": keys, "number": np.arange(50_000)})
    with spilled(rows.to_reader(1_000), "rows", ("a",), 5) as found:
        read = sum(pc.sum(found.of(number)["number"]).as_py() for number in range(5))
        assert list(tmp_path.iterdir()) == []

    assert read == 50_000 * 49_999 // 2


def test_a_key_that_is_no_key_is_refused_by_name() -> None:
    """A float is neither text nor a whole number."""
    with pytest.raises(TableMismatch, match="rows"), spilled(pa.table({"a": [1.5]}).to_reader(), "rows", ("a",), 2):
        pass
