"""The bytes that stand for a row where its source gave values and no bytes: a JSON object that reads back to the same values."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from pipeline_assets.core.versions import DELETED_AT


def row_bytes(batch: pa.RecordBatch, row: int) -> bytes:
    """A row of a batch by its index; a time outside of the years 1 to 9999 as its microseconds since 1970."""
    values: dict[str, object] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[row].as_py()
        except (OverflowError, ValueError):
            values[name] = column[row].value
    return json_bytes(values)


def json_bytes(values: Mapping[str, object]) -> bytes:
    """Values by field as a JSON object; times in UTC, NaN and infinities by the names that Python gives them.

    `_deleted_at` is left out, which no source has.
    """
    own = {name: value for name, value in values.items() if name != DELETED_AT}
    return json.dumps(own, default=_written, ensure_ascii=False).encode()


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"A row has no value of type {type(value).__name__}.")
