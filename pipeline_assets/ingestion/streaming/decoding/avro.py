"""Records of Avro as the values of a JSON object, read with the schema that they were written with where a registry has that."""

import io
import json
import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cache, partial
from typing import Any

from pipeline_assets.ingestion.sources.json_objects import Fault
from pipeline_assets.ingestion.streaming.decoding.frames import FRAME_BYTES, schema_id
from pipeline_assets.ingestion.streaming.decoding.schema_registry import AVRO, SchemaOf
from pipeline_assets.spec.sources import Avro


def avro_values(written: Avro, schema_of: SchemaOf) -> Callable[[bytes], dict[str, Any]]:
    """A function from the bytes of a record to its values; it raises Fault for bytes that are none of the format."""
    import fastavro
    from fastavro.read import SchemaResolutionError

    declared = fastavro.parse_schema(json.loads(written.schema))
    writers = cache(partial(_writer_schema, schema_of))

    def read(payload: bytes) -> dict[str, Any]:
        number = schema_id(payload) if written.is_framed else 0
        content = io.BytesIO(payload)
        content.seek(FRAME_BYTES if written.is_framed else 0)
        writer = declared if written.registry is None else writers(number)
        if writer is None:
            raise Fault("unknown schema id")
        try:
            found = fastavro.schemaless_reader(content, writer, None if writer is declared else declared)
        # What fastavro raises for bytes of another schema depends on where it gets lost.
        except (
            ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError, StopIteration, struct.error, SchemaResolutionError,
            RecursionError,
        ) as error:  # fmt: skip
            raise Fault("not this Avro schema") from error
        if not isinstance(found, dict) or content.read(1):
            raise Fault("not this Avro schema")
        return {name: _json_value(value) for name, value in found.items()}

    return read


def _writer_schema(schema_of: SchemaOf, number: int) -> Any | None:
    """The schema of an id as fastavro reads it, with all that it refers to; None where there is none that it can read."""
    import fastavro
    from fastavro.schema import SchemaParseException

    found = schema_of(number)
    if found is None or found.kind != AVRO:
        return None
    named: dict[str, Any] = {}
    try:
        for _, text in found.references:
            fastavro.parse_schema(json.loads(text), named)
        main = _with_definitions(json.loads(found.text), dict(named))
        return fastavro.parse_schema(main, named)
    except (SchemaParseException, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _with_definitions(schema: Any, named: Mapping[str, Any]) -> Any:
    """A schema, or a union of some, in which names alone stand for what they name: fastavro looks them up within records only."""
    if isinstance(schema, list):
        return [_with_definitions(one, named) for one in schema]
    if isinstance(schema, str) and schema in named:
        return {**named[schema], "__fastavro_parsed": True, "__named_schemas": named}
    return schema


def _json_value(value: Any) -> Any:
    """A value of Avro's logical types as JSON would have it."""
    return value.isoformat() if isinstance(value, datetime | date) else value
