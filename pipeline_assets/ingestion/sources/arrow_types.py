"""The Arrow types that the types of contracts stand for."""

from collections.abc import Mapping

import pyarrow as pa

from pipeline_assets.spec.contracts import Field, FieldType

ARROW_TYPES: Mapping[FieldType, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def arrow_type(field: Field) -> pa.DataType:
    """The type of the column of a field."""
    return pa.decimal128(field.precision or 0, field.scale or 0) if field.type == "decimal" else ARROW_TYPES[field.type]
