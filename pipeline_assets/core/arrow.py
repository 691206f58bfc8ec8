"""Arrow rows in a schema that may have grown since they were written, read from wherever they are: the one null-filling reader."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def columns_in(rows: pa.RecordBatch | pa.Table, schema: pa.Schema) -> list[pa.Array | pa.ChunkedArray]:
    """The columns of a schema, in its order and types; null in those that the rows lack. Raises ArrowInvalid where a value does not fit."""
    present = set(rows.schema.names)
    return [rows.column(one.name).cast(one.type) if one.name in present else pa.nulls(len(rows), one.type) for one in schema]


def batches_in(
    parquet: "pq.ParquetFile", schema: pa.Schema, batch_rows: int = 65_536, row_groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in a schema, in batches of at most so many rows; null in the columns that the file lacks.

    row_groups: those that are read; None: all.
    """
    written = set(parquet.schema_arrow.names)
    present = [name for name in schema.names if name in written]
    for batch in parquet.iter_batches(batch_rows, row_groups, columns=present, use_threads=False):
        if batch.num_rows:
            yield pa.RecordBatch.from_arrays(columns_in(batch, schema), schema=schema)
