"""The bytes that stand for a row where its source gave values and no bytes: a JSON object that reads back to the same values."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from pipeline_assets.core.versions import DELETED_AT


def row_bytes(batch: pa.RecordBatch, row: int) -> bytes:
    """A row of a batch by its index, as its source told it; a time outside of the years 1 to 9999 as its microseconds since 1970."""
    values: dict[str, object] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name == DELETED_AT:
            continue
        try:
            values[name] = column[row].as_py()
        except (OverflowError, ValueError):
            values[name] = column[row].value
    return json_bytes(values)


def json_bytes(values: Mapping[str, object]) -> bytes:
    """Values by field as a JSON object; times in UTC, NaN and infinities by the names that Python gives them."""
    return json.dumps(values, default=_written, ensure_ascii=False).encode()


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"A row has no value of type {type(value).__name__}.")
