"""Whether a primary key is unique."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.processing.lake.keys import doubled_keys

KEYS = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 3)), max_size=12)


def reader(keys: list[tuple[str | None, int]]) -> pa.RecordBatchReader:
    """The keys as a stream of small batches."""
    table = pa.table({"name": [name for name, _ in keys], "number": [number for _, number in keys]}, schema=SCHEMA)
    return pa.RecordBatchReader.from_batches(SCHEMA, table.to_batches(max_chunksize=3))


SCHEMA = pa.schema([("name", pa.string()), ("number", pa.int64())])


@given(keys=KEYS)
def test_surplus_rows_are_counted_over_all_batches(keys: list[tuple[str | None, int]]) -> None:
    """As many rows are too many as there are rows beyond the distinct keys; null equals null."""
    found = doubled_keys(lambda: reader(keys), ["name", "number"])

    assert found.surplus == len(keys) - len(set(keys))
    assert all(keys.count((example["name"], example["number"])) == example["rows"] for example in found.examples)  # type: ignore[arg-type]


def test_the_worst_keys_are_shown_first() -> None:
    """Examples say which keys are doubled and how often, the most frequent first."""
    found = doubled_keys(lambda: reader([("a", 1), ("b", 2), ("b", 2), ("c", 3), ("c", 3), ("c", 3)]), ["name", "number"])

    assert found.surplus == 3
    assert list(found.examples) == [{"name": "c", "number": 3, "rows": 3}, {"name": "b", "number": 2, "rows": 2}]
