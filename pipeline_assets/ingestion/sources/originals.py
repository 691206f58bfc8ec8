"""The bytes that stand for a row where its source gave values and no bytes: a JSON object that reads back to the same values."""

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa

from pipeline_assets.core.versions import DELETED_AT
from pipeline_assets.ingestion.sources.typed_columns import from_floats


def row_bytes(batch: pa.RecordBatch, row: int, numbers: Collection[str] = ()) -> bytes:
    """A row of a batch by its index; a time outside of the years 1 to 9999 as its microseconds since 1970, no text as its bytes.

    numbers: columns whose texts are numbers, and are written as such.
    """
    values: dict[str, object] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            value = (from_floats(column.slice(row, 1))[0] if pa.types.is_float32(column.type) else column[row]).as_py()
            values[name] = Decimal(value) if name in numbers and value is not None else value
        except UnicodeDecodeError:
            values[name] = column[row].as_buffer().to_pybytes().decode(errors="surrogateescape")
        except (OverflowError, ValueError):
            values[name] = column[row].value
    return json_bytes(values)


def json_bytes(values: Mapping[str, object]) -> bytes:
    """Values by field as a JSON object; times in UTC, NaN and infinities by the names that Python gives them.

    `_deleted_at` is left out, which no source has.
    """
    own = (f"{_text(name)}: {_text(value)}" for name, value in values.items() if name != DELETED_AT)
    return f"{{{', '.join(own)}}}".encode(errors="surrogateescape")


def _text(value: object) -> str:
    """A value as JSON; a decimal with all of its digits."""
    return str(value) if isinstance(value, Decimal) else json.dumps(value, default=_written, ensure_ascii=False)


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"A row has no value of type {type(value).__name__}.")
