"""A hash of the values that a score was made from, so that a prediction can be held against them later."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import TableMismatch

FEATURE_HASH = "feature_hash"


def feature_hashes(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """The SHA-256 of each row's values, as 64 hexadecimal digits; one string per row, in the order of the rows.

    A row's bytes are its values in the order of `columns` as little-endian 64-bit floats, then one bit per column (the first in the
    highest bit of the first byte) that is set where the value is null; a null's float is zero, and so is a negative zero. Integers and
    booleans count as the float they equal.
    Raises TableMismatch if a column is missing or holds NaN.
    """
    values, is_null = _matrix(table, columns)
    bits = np.packbits(is_null, axis=1)
    rows = np.concatenate([values.view(np.uint8).reshape(table.num_rows, 8 * len(columns)), bits], axis=1)
    width = rows.shape[1]
    data = memoryview(rows.tobytes())
    return pa.array([sha256(data[start : start + width]).hexdigest() for start in range(0, len(data), width)], pa.string())


def _matrix(table: pa.Table, columns: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Values (rows × columns, nulls as zero) and where they are null."""
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise TableMismatch("features", f"lacks {', '.join(missing)}", table.column_names)
    values = np.zeros((table.num_rows, len(columns)), dtype="<f8")
    is_null = np.zeros(values.shape, dtype=np.bool_)
    for position, column in enumerate(columns):
        numbers = table[column].cast(pa.float64()).combine_chunks()
        is_null[:, position] = pc.is_null(numbers).to_numpy(zero_copy_only=False)
        # Adding zero turns a negative zero into a zero.
        values[:, position] = pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False) + 0.0
    holding = [columns[int(position)] for position in np.flatnonzero(np.isnan(values).any(axis=0))]
    if holding:
        raise TableMismatch("features", f"holds NaN in {', '.join(holding)}, where null was expected", table.column_names)
    return values, is_null
