"""What a record of a topic says: its bytes read as a declared format, one record at a time.

Whatever the format, a record becomes the values of a JSON object by field, so that the contract is enforced by the same code as for the
pages of an API. Headers are read of CloudEvents in binary mode alone, which keep their attributes there.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

from pipeline_assets.ingestion.sources.json_objects import Fault, json_object
from pipeline_assets.ingestion.sources.values import NUMERIC, value_of
from pipeline_assets.ingestion.streaming.decoding.avro import avro_values
from pipeline_assets.ingestion.streaming.decoding.frames import FRAME_BYTES, schema_id
from pipeline_assets.ingestion.streaming.decoding.protobuf import protobuf_values
from pipeline_assets.ingestion.streaming.decoding.schema_registry import JSON, SchemaOf, nobody
from pipeline_assets.ingestion.streaming.staged.change_log import BROKEN, BROKEN_FIELD
from pipeline_assets.spec.contracts import Contract, FieldType
from pipeline_assets.spec.sources import Avro, CloudEvent, CsvLine, DebeziumChange, Format, JsonObject, Protobuf, RecordStream

# A byte order mark before a line is no part of its first value.
WITHOUT_MARK = "utf-8-sig"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_WIDTHS: Mapping[str, int] = {}
TRUNCATE = "t"
# The attributes that an event must have, and the header of the one that is no `ce_…`.
REQUIRED = ("specversion", "id", "source", "type")
CONTENT_TYPE, DATA_CONTENT_TYPE, ATTRIBUTE = "content-type", "datacontenttype", "ce_"
# What an event in structured mode says that it is, whatever stands in its other headers.
STRUCTURED = b"application/cloudevents"
ROW_OPERATIONS = {"c": "after", "u": "after", "r": "after", "d": "before"}
# After these there is a row, of which Debezium emits all columns.
STANDING = ("c", "u", "r")


@dataclass(frozen=True, kw_only=True)
class Event:
    """The values of a record by field, as JSON has them, and what surrounds them; the values themselves where nothing does."""

    values: Mapping[str, Any]
    envelope: Mapping[str, Any]


# The headers of a record by name, as far as it has them: those of `headers_of`.
Headers = Mapping[str, bytes]
Decode = Callable[[bytes | None, Headers], Event | None]


def headers_of(stream: RecordStream) -> tuple[str, ...]:
    """The headers that the records of a stream are read by; none unless they may be CloudEvents in binary mode."""
    if not isinstance(stream.format, CloudEvent) or not stream.format.is_binary:
        return ()
    routed = () if stream.route is None else (stream.route.field,)
    named = (*REQUIRED, *(attribute for attribute, _ in stream.format.attributes), *routed)
    return tuple(dict.fromkeys((CONTENT_TYPE, *(_header_of(attribute) for attribute in named))))


def _header_of(attribute: str) -> str:
    return CONTENT_TYPE if attribute == DATA_CONTENT_TYPE else f"{ATTRIBUTE}{attribute}"


def decoder(contract: Contract, written: Format, schema_of: SchemaOf = nobody, widths: Mapping[str, int] = NO_WIDTHS) -> Decode:
    """A function from the bytes and headers of a record to its event; None for a record that is no event and no fault.

    `schema_of` asks the registry that the format names, if any; `widths` as for `RecordReader`. The function raises Fault for bytes that
    are not of the format, and whatever `schema_of` raises where it cannot know.
    """
    types = {field.name: field.type for field in contract.fields}
    match written:
        case JsonObject():
            return _bare(_json_values(written, schema_of))
        case CsvLine():
            return _bare(partial(_csv_values, written, types))
        case Avro():
            return _bare(avro_values(written, schema_of))
        case Protobuf():
            return _bare(protobuf_values(written, schema_of))
        case CloudEvent():
            return _with_bytes(lambda payload, headers: _cloud_event(written, payload, headers))
        case DebeziumChange():
            # Nobody but the check of a change knows what is broken in it.
            unsaid = [BROKEN] if BROKEN_FIELD in contract.fields else []
            changed = Changed(types=types, widths=widths)
            return lambda payload, _: None if payload is None else _change(written, changed, unsaid, payload)


def _with_bytes(decode: Callable[[bytes, Headers], Event]) -> Decode:
    """The same for records that must not be null."""

    def read(payload: bytes | None, headers: Headers) -> Event:
        if payload is None:
            raise Fault("empty record")
        return decode(payload, headers)

    return read


def _bare(values_of: Callable[[bytes], Mapping[str, Any]]) -> Decode:
    """The same for records that are nothing but their values."""

    def read(payload: bytes, _: Headers) -> Event:
        values = values_of(payload)
        return Event(values=values, envelope=values)

    return _with_bytes(read)


def _csv_values(written: CsvLine, types: Mapping[str, FieldType], payload: bytes) -> dict[str, Any]:
    try:
        lines = list(csv.reader(io.StringIO(payload.decode(WITHOUT_MARK), newline=""), delimiter=written.delimiter, strict=True))
    except (ValueError, csv.Error) as error:
        raise Fault("not a CSV line") from error
    if len(lines) != 1 or len(lines[0]) != len(written.columns):
        raise Fault("not a CSV line")
    return {name: value_of(types.get(name), text) for name, text in zip(written.columns, lines[0], strict=True)}


def _json_values(written: JsonObject, schema_of: SchemaOf) -> Callable[[bytes], dict[str, Any]]:
    check = json_frame(written, schema_of)

    def read(payload: bytes) -> dict[str, Any]:
        check(payload[:FRAME_BYTES])
        return json_object(payload[FRAME_BYTES:])

    return read if written.is_framed else json_object


def json_frame(written: JsonObject, schema_of: SchemaOf) -> Callable[[bytes], None]:
    """A function that raises Fault for the first bytes of a record that are no frame, or one whose id is of no JSON Schema."""
    is_known = cache(lambda number: (found := schema_of(number)) is not None and found.kind == JSON)

    def check(frame: bytes) -> None:
        number = schema_id(frame)
        if written.registry is not None and not is_known(number):
            raise Fault("unknown schema id")

    return check


def _cloud_event(written: CloudEvent, payload: bytes, headers: Headers) -> Event:
    is_binary = _header_of("specversion") in headers and not headers.get(CONTENT_TYPE, b"").lower().startswith(STRUCTURED)
    envelope = _attributes(headers) if is_binary else json_object(payload)
    required = [envelope.get(name) for name in REQUIRED]
    kind = envelope.get(DATA_CONTENT_TYPE, "application/json")
    is_json = isinstance(kind, str) and kind.partition(";")[0].strip().lower().endswith(("/json", "+json"))
    if not all(isinstance(value, str) and value for value in required) or not is_json:
        raise Fault("not a CloudEvent")
    data = json_object(payload) if is_binary else envelope.get("data")
    if not isinstance(data, dict):
        raise Fault("not a CloudEvent")
    return Event(values=data | {field: envelope.get(name) for name, field in written.attributes}, envelope=envelope)


def _attributes(headers: Headers) -> dict[str, Any]:
    """The attributes of an event in binary mode."""
    try:
        texts = {name: value.decode() for name, value in headers.items()}
    except ValueError as error:
        raise Fault("not a CloudEvent") from error
    return {DATA_CONTENT_TYPE if name == CONTENT_TYPE else name.removeprefix(ATTRIBUTE): value for name, value in texts.items()}


def _change(written: DebeziumChange, changed: "Changed", unsaid: Sequence[str], payload: bytes) -> Event:
    found = json_object(payload)
    # The converter puts the schema beside the change unless it is configured not to.
    change = found["payload"] if found.keys() == {"schema", "payload"} else found
    if not isinstance(change, dict):
        raise Fault("not a change event")
    operation, source = change.get("op"), change.get("source")
    row = {} if operation == TRUNCATE else change.get(ROW_OPERATIONS.get(operation, "")) if isinstance(operation, str) else None
    if not isinstance(row, dict) or not isinstance(source, dict):
        raise Fault("not a change event")
    about: dict[str | None, Any] = {
        written.operation: operation,
        written.lsn: source.get("lsn"),
        written.committed_at: _committed_at(source),
        written.transaction: source.get("txId"),
        written.snapshot: source.get("snapshot"),
        written.absent: None,
        **dict.fromkeys(unsaid),
    }
    if operation in STANDING:
        lacking = sorted(changed.types.keys() - row.keys() - about.keys())
        about[written.absent] = json.dumps(lacking) if lacking else None
    values = {name: changed.value(name, value) for name, value in row.items()}
    return Event(values=values | {field: value for field, value in about.items() if field is not None}, envelope=source)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What is known of the columns of a followed table: the types of their fields, and which are filled up with blanks."""

    types: Mapping[str, FieldType]
    widths: Mapping[str, int]

    def value(self, name: str, value: Any) -> Any:
        """The value of a column; decimals come as text, so that nothing of them is lost, and blanks that only fill up are no part of it."""
        if not isinstance(value, str):
            return value
        kind = self.types.get(name)
        if kind in NUMERIC and value:
            return value_of(kind, value)
        return value.rstrip(" ") if len(value) == self.widths.get(name) else value


def _committed_at(source: Mapping[str, Any]) -> str | None:
    """When the source committed the change; to the microsecond where it has that."""
    for name, unit in (("ts_us", timedelta(microseconds=1)), ("ts_ms", timedelta(milliseconds=1))):
        value = source.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                return (EPOCH + value * unit).isoformat()
            except OverflowError as error:
                raise Fault("not a change event") from error
    return None
