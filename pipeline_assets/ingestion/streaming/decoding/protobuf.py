"""Records of Protobuf as the values of a JSON object, read with the schema that they were written with, or with the declared one."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.protobuf_schemas import Kind, Messages, NotProtobufError, kind_of, messages_of
from pipeline_assets.ingestion.sources.json_objects import HUGE, Fault
from pipeline_assets.ingestion.sources.numbers import EXACT
from pipeline_assets.ingestion.streaming.decoding.frames import message_place, schema_id
from pipeline_assets.ingestion.streaming.decoding.schema_registry import PROTOBUF, SchemaOf
from pipeline_assets.spec.sources import Protobuf

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NANOSECONDS = 1_000_000_000
# A decimal of more bytes has more places than any field of a contract.
DECIMAL_BYTES = 200
# How times are given that are too far away for Python to hold them: the check of the contract finds them out of range.
TOO_LATE = "+99999-01-01"
# What no type of a contract can be, as JSON would have it.
NO_VALUE: Mapping[str, Any] = {}

ReadMessage = Callable[[bytes], dict[str, Any]]
Reader = tuple[tuple[int, ...], ReadMessage]


def protobuf_values(written: Protobuf, schema_of: SchemaOf) -> ReadMessage:
    """A function from the bytes of a record to its values; it raises Fault for bytes that are none of the format."""
    declared = None if written.schema is None else _reader(written.message, messages_of(written.schema, written.imports))
    writers = cache(partial(_writer, written.message, schema_of))

    def read(payload: bytes) -> dict[str, Any]:
        if not written.is_framed:
            return _known(declared)[1](payload)
        number = schema_id(payload)
        place, start = message_place(payload)
        own, values = _known(declared if written.registry is None else writers(number))
        if place != own:
            raise Fault("not this Protobuf message")
        return values(payload[start:])

    return read


def _known(reader: Reader | None) -> Reader:
    if reader is None:
        raise Fault("unknown schema id")
    return reader


def _writer(message: str, schema_of: SchemaOf, number: int) -> Reader | None:
    """How a message of the schema of an id is read; None where that is no schema of Protobuf that can be compiled."""
    found = schema_of(number)
    if found is None or found.kind != PROTOBUF:
        return None
    try:
        return _reader(message, messages_of(found.text, found.references))
    except NotProtobufError:
        return None


def _reader(message: str, messages: Messages) -> Reader:
    """The place of a message in its schema, and how it is read; no place where the schema does not have it."""
    if message not in messages.places:
        return (), lambda _: {}
    return messages.places[message], _message_reader(messages.descriptors[message])


def _message_reader(descriptor: "Descriptor") -> ReadMessage:
    from google.protobuf.message import DecodeError
    from google.protobuf.message_factory import GetMessageClass

    message_class = GetMessageClass(descriptor)
    values = {field.name: _value_reader(field) for field in descriptor.fields}

    def read(payload: bytes) -> dict[str, Any]:
        message = message_class()
        try:
            message.ParseFromString(payload)
        except DecodeError as error:
            raise Fault("not this Protobuf message") from error
        if not message.IsInitialized():
            raise Fault("not this Protobuf message")
        size = message.ByteSize()
        # At any depth: the message is smaller without them.
        message.DiscardUnknownFields()
        if message.ByteSize() != size:
            raise Fault("unknown field")
        return {name: value(message) for name, value in values.items()}

    return read


def _value_reader(field: "FieldDescriptor") -> Callable[["Message"], Any]:
    """How the value of a field is taken out of a message: as JSON has it, so that the contract's own rules read it."""
    name, kind = field.name, kind_of(field)
    if kind in {"list", "message"}:
        return lambda _: NO_VALUE
    as_json = _as_json(field, kind)
    if not field.has_presence:
        return lambda message: as_json(getattr(message, name))
    return lambda message: as_json(getattr(message, name)) if message.HasField(name) else None


def _as_json(field: "FieldDescriptor", kind: Kind) -> Callable[[Any], Any]:
    if kind == "timestamp":
        return _instant
    if kind == "decimal":
        return _decimal
    if field.message_type is not None:
        return lambda wrapper: wrapper.value
    if field.enum_type is not None:
        # Of several names of one number the first that is declared.
        named = {value.number: value.name for value in reversed(list(field.enum_type.values))}
        # A number without a name stays one, which is no text.
        return lambda number: named.get(number, number)
    return lambda value: value


def _instant(value: Any) -> Any:
    if not 0 <= value.nanos < NANOSECONDS:
        return NO_VALUE
    try:
        return (EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)).isoformat()
    except OverflowError:
        return TOO_LATE


def _decimal(value: Any) -> Decimal:
    if len(value.value) > DECIMAL_BYTES:
        return HUGE
    return EXACT.scaleb(Decimal(int.from_bytes(value.value, signed=True)), -value.scale)
