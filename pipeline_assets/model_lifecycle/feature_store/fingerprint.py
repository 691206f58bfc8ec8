"""A hash of the values that a score was made from, so that a prediction can be held against them later."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.columns import Bools, Floats, is_text, plain_column, present_in

FEATURE_HASH = names.FEATURE_HASH
# Bytes of one value.
WIDTH = 8


def feature_hashes(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """The SHA-256 of each row's values, as 64 hexadecimal digits; one string per row, in the order of the rows.

    A row's bytes are eight per column in the order of `columns`, then one bit per column (the first in the highest bit of the first byte)
    that is set where the value is null. The eight bytes are the value as a little-endian 64-bit float, where integers and booleans count
    as the float they equal and a negative zero as zero; of a text the first eight bytes of the SHA-256 of its UTF-8 bytes; zero for null.
    Raises TableMismatch if a column is missing or holds NaN.
    """
    values, is_null = _matrix(table, columns)
    bits = np.packbits(is_null, axis=1)
    rows = np.concatenate([values.view(np.uint8).reshape(table.num_rows, WIDTH * len(columns)), bits], axis=1)
    width = rows.shape[1]
    data = rows.reshape(-1).data
    return pa.array([sha256(data[start : start + width]).hexdigest() for start in range(0, len(data), width)], pa.string())


def _matrix(table: pa.Table, columns: Sequence[str]) -> tuple[Floats, Bools]:
    """Values (rows × columns, the bytes of texts as if they were floats, nulls as zero) and where they are null."""
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise TableMismatch("features", f"lacks {', '.join(missing)}", table.column_names)
    values = np.zeros((table.num_rows, len(columns)), dtype="<f8")
    is_null = np.zeros(values.shape, dtype=np.bool_)
    for position, column in enumerate(columns):
        found = plain_column(table, "features", column)
        is_null[:, position] = ~present_in(found)
        values[:, position] = _text_bytes(found) if is_text(found.type) else _floats(found, table, column)
    return values, is_null


def _floats(found: pa.Array, table: pa.Table, column: str) -> Floats:
    # Adding zero turns a negative zero into a zero.
    floats: Floats = pc.fill_null(found.cast(pa.float64(), safe=False), 0.0).to_numpy(zero_copy_only=False) + 0.0
    if np.isnan(floats).any():
        raise TableMismatch("features", f"holds NaN in {column}, where null was expected", table.column_names)
    return floats


def _text_bytes(found: pa.Array) -> Floats:
    encoded = found.cast(pa.string()).dictionary_encode()
    starts = [sha256(text.encode()).digest()[:WIDTH] for text in encoded.dictionary.to_pylist()]
    of_texts = np.frombuffer(b"".join((bytes(WIDTH), *starts)), dtype="<f8")
    chosen: Floats = of_texts[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1]
    return chosen
