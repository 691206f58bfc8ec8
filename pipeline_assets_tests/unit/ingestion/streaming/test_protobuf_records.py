"""What records of Protobuf become: each type exactly, with the declared schema or that of a registry; poison breaks itself alone."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.core import protobuf_schemas
from pipeline_assets.core.protobuf_schemas import NotProtobufError, messages_of
from pipeline_assets.ingestion.streaming.decoding.records import CheckedRecords, RecordReader, Share
from pipeline_assets.ingestion.streaming.decoding.schema_registry import schema_of
from pipeline_assets.spec.contracts import Field
from pipeline_assets.spec.sources import EventStream, JsonObject, Protobuf
from pipeline_assets_tests.landings import Landed, stream_of, table_of
from pipeline_assets_tests.protobuf_readings import FORMAT, FRAME, IMPORTS, KINDS, MESSAGE, PLACE, READING, message, register, written
from pipeline_assets_tests.readings import READINGS, reading
from pipeline_assets_tests.schema_registries import Registry, reference, registry


def read(*payloads: bytes | None, as_written: Protobuf | JsonObject = FORMAT, kept: Registry | None = None) -> CheckedRecords:
    """What a stream makes of records."""
    return read_of(replace(stream_of(), format=as_written), *payloads, kept=kept)


def read_of(stream: EventStream, *payloads: bytes | None, kept: Registry | None = None) -> CheckedRecords:
    """What a stream of any contract makes of records."""
    landed = table_of([Landed(offset=number, payload=payload) for number, payload in enumerate(payloads)])
    if kept is None:
        return RecordReader(stream, Share()).read(landed)
    return RecordReader(stream, Share(), lambda number: schema_of("plant", kept.settings, number)).read(landed)


def of_fields(as_written: Protobuf, *names: str) -> EventStream:
    """A stream of some of the fields, known at the time of its records."""
    fields = tuple(field for field in READINGS.fields if field.name in names)
    contract = replace(READINGS, fields=fields, event_at="sent_at")
    return replace(stream_of(), contract=contract, known_at_record_time=True, format=as_written)


def faults(found: CheckedRecords) -> dict[int, str]:
    """The faults of broken records by their places."""
    return {row.position: row.fault for row in found.checked.broken}


@pytest.fixture
def kept() -> Iterator[Registry]:
    """A registry with the schema of a reading under 7, which refers to another, and one that is none under 8."""
    with registry() as kept:
        register(kept, 7)
        kept.has_text(8, "PROTOBUF", "message {", reference("common/kinds.proto", "kinds"))
        yield kept


def test_messages_are_rows() -> None:
    """Enums are names, wrappers and optional fields may be null, what has no presence is its default, times are instants."""
    found = read(written(), written(level=None, value=None, kind="outdoor", is_valid=False), written(sensor=None))

    assert faults(found) == {}
    assert found.checked.good.to_pylist() == [
        reading(),
        reading(level=None, value=None, kind="outdoor", is_valid=False),
        reading(sensor=""),
    ]


def test_bytes_that_stand_in_the_specification_are_read() -> None:
    """Written by hand from the rules of the encoding, without its library."""
    stamp = b"\x08" + bytes([0x80, 0xF5, 0x83, 0x8C, 0x05])
    found = read(b"\x0a\x02a1\x10\x01\x1a\x02\x08\x03\x21" + struct.pack("<d", 0.25) + b"\x32\x06" + stamp + b"\x3a\x06" + stamp)

    assert faults(found) == {}
    row = reading(kind="outdoor", value=0.25, is_valid=False)
    assert found.checked.good.to_pylist() == [row | dict.fromkeys(["read_at", "sent_at"], datetime.fromtimestamp(0x518_0FA80, UTC))]


def test_framed_messages_are_read_with_the_schema_that_a_registry_has(kept: Registry) -> None:
    """With what it refers to; the frame says which of its messages it is, and entries of maps are none of them."""
    framed = replace(FORMAT, schema=None, imports=(), is_framed=True, registry="plant")
    found = read(FRAME + PLACE + written(), FRAME + PLACE + written(value=2), as_written=framed, kept=kept)

    assert faults(found) == {}
    assert found.checked.good.column("value").to_pylist() == [0.5, 2.0]
    assert kept.asked == ["/schemas/ids/7", "/subjects/kinds/versions/1?deleted=true"]
    assert faults(read(FRAME + PLACE + written(), as_written=replace(FORMAT, is_framed=True))) == {}


def test_the_first_message_has_a_short_place(kept: Registry) -> None:
    """A zero alone, as most producers write it; the long form is the same."""
    kept.has_text(9, "PROTOBUF", 'syntax = "proto2"; message One { required string sensor = 1; } message Two { }')
    stream = of_fields(Protobuf(message="One", is_framed=True, registry="plant"), "sensor", "sent_at")
    head, body = b"\0\0\0\0\x09", b"\x0a\2a1"
    found = read_of(stream, head + b"\0" + body, head + b"\2\0" + body, head + b"\2\2", head + b"\0", kept=kept)

    assert faults(found) == dict.fromkeys((2, 3), "not this Protobuf message")
    assert found.checked.good.column("sensor").to_pylist() == ["a1", "a1"]


POISON = [
    (None, "empty record"),
    (b"", "no schema id"),
    (FRAME[:4], "no schema id"),
    (b"\1" + FRAME[1:] + PLACE + written(), "no schema id"),
    (FRAME, "not this Protobuf message"),
    (FRAME + b"\4\0", "not this Protobuf message"),
    (FRAME + b"\4\0\x80", "not this Protobuf message"),
    (FRAME + b"\4\0" + b"\xff" * 9 + written(), "not this Protobuf message"),
    (FRAME + b"\4\0\2" + written(), "not this Protobuf message"),
    (FRAME + b"\0" + written(), "not this Protobuf message"),
    (FRAME + b"\1" + written(), "not this Protobuf message"),
    (FRAME + b"\xfe\xff\xff\xff\x0f" + written(), "not this Protobuf message"),
    (FRAME + PLACE + written()[:-1], "not this Protobuf message"),
    (FRAME + PLACE + written() + b"\0", "not this Protobuf message"),
    (FRAME + PLACE + written() + b"\x3a\xff\xff\xff\xff\x0f", "not this Protobuf message"),
    (FRAME + PLACE + written() + b"\x0a\2\xff\xfe", "not this Protobuf message"),
    (FRAME + PLACE + written() + b"\x78\1", "unknown field"),
    (FRAME + PLACE + written() + b"\x1a\2\x10\1", "unknown field"),
    (FRAME + PLACE + written(kind=7), "kind wrong type"),
    (FRAME + PLACE + written(level=99), "level out of range"),
    (FRAME + PLACE + written(value=float("nan")), "value not finite"),
    (FRAME + PLACE + written(read_at=None), "read_at missing"),
    (FRAME + PLACE + written(sensor="in\0door"), "sensor wrong type"),
    (FRAME + PLACE + written() + b"\x32\x0b\x08" + b"\xff" * 8 + b"\x7f\x10", "not this Protobuf message"),
    (FRAME + PLACE + written() + b"\x32\x0a\x08" + b"\xff" * 8 + b"\x7f", "read_at out of range"),
    (FRAME + PLACE + written() + b"\x32\2\x10\1" + b"\x32\x0b\x10" + b"\xff" * 9 + b"\1", "read_at wrong type"),
    (b"\0\0\0\0\x08" + PLACE + written(), "unknown schema id"),
    (b"\0\0\0\0\x63" + PLACE + written(), "unknown schema id"),
]


@pytest.mark.parametrize(("poison", "fault"), POISON, ids=lambda value: str(value)[:40])
def test_poison_breaks_itself_alone(kept: Registry, poison: bytes | None, fault: str) -> None:
    """Between two good records stands one with its reason and its bytes."""
    good = FRAME + PLACE + written()
    found = read(good, poison, good, as_written=replace(FORMAT, schema=None, imports=(), is_framed=True, registry="plant"), kept=kept)

    assert faults(found) == {1: fault}
    assert found.checked.broken[0].original == (poison or b"")
    assert found.checked.good.num_rows == 2


@pytest.mark.parametrize("name", ["plant.Reading", "plant.Envelope", "common.Kind", "plant.Envelope.ByNameEntry"])
def test_a_message_that_the_registry_does_not_have_breaks_its_records(kept: Registry, name: str) -> None:
    """It is not this message, whatever is."""
    asked = Protobuf(message=name, is_framed=True, registry="plant")

    assert faults(read(FRAME + PLACE + written(), as_written=asked, kept=kept)) == {0: "not this Protobuf message"}


TYPES = """
syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "confluent/meta.proto";
import "confluent/type/decimal.proto";
message Inner { string text = 1; }
enum Colour { option allow_alias = true; RED = 0; CRIMSON = 0; BLUE = 5; }
message Types {
  option (confluent.message_meta).doc = "All types.";
  int32 a_int32 = 1; int64 a_int64 = 2; uint32 a_uint32 = 3; uint64 a_uint64 = 4; sint32 a_sint32 = 5; sint64 a_sint64 = 6;
  fixed32 a_fixed32 = 7; fixed64 a_fixed64 = 8; sfixed32 a_sfixed32 = 9; sfixed64 a_sfixed64 = 10;
  float a_float = 11; double a_double = 12; bool a_bool = 13; string a_string = 14; Colour a_enum = 15;
  optional int64 o_int64 = 16; oneof either { string o_string = 17; uint64 o_uint64 = 18; }
  google.protobuf.UInt64Value w_uint64 = 19; google.protobuf.StringValue w_string = 20; google.protobuf.BoolValue w_bool = 21;
  google.protobuf.FloatValue w_float = 22; google.protobuf.Timestamp at = 23; confluent.type.Decimal price = 24; string price_text = 25;
  bytes raw = 30; repeated int32 list = 31; map<string, int32> map = 32; Inner inner = 33; google.protobuf.BytesValue w_bytes = 34;
}
"""
INTEGERS = {
    "a_int32": (-(2**31), 2**31), "a_int64": (-(2**63), 2**63), "a_uint32": (0, 2**32), "a_uint64": (0, 2**64),
    "a_sint32": (-(2**31), 2**31), "a_sint64": (-(2**63), 2**63), "a_fixed32": (0, 2**32), "a_fixed64": (0, 2**64),
    "a_sfixed32": (-(2**31), 2**31), "a_sfixed64": (-(2**63), 2**63), "o_int64": (-(2**63), 2**63), "o_uint64": (0, 2**64),
    "w_uint64": (0, 2**64),
}  # fmt: skip
FLOATS = {"a_float": 32, "w_float": 32, "a_double": 64}
BOOLEANS, STRINGS = ("a_bool", "w_bool"), ("a_string", "o_string", "w_string")
KINDS_OF_FIELDS: dict[str, Any] = {
    **dict.fromkeys(INTEGERS, "integer"), **dict.fromkeys(FLOATS, "number"), **dict.fromkeys(BOOLEANS, "boolean"),
    **dict.fromkeys((*STRINGS, "a_enum"), "string"), "at": "timestamp", "price": "decimal", "price_text": "decimal",
}  # fmt: skip
WITHOUT_TIMES = datetime(2024, 1, 1, tzinfo=UTC)
CONTRACT = replace(
    READINGS,
    fields=(
        *(
            Field(name=name, type=kind, description=name, precision=38, scale=6) if kind == "decimal"
            else Field(name=name, type=kind, description=name)
            for name, kind in KINDS_OF_FIELDS.items()
        ),
        Field(name="sent_at", type="timestamp", description="sent", required=True),
    ),
    primary_key=("a_int64",), event_at="sent_at", known_at="sent_at",
)  # fmt: skip
STREAM = replace(stream_of(), contract=CONTRACT, known_at_record_time=True, format=Protobuf(message="Types", schema=TYPES))
TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(low, high - 1) for name, (low, high) in INTEGERS.items()},
    **{name: st.floats(allow_nan=False, allow_infinity=False, width=width) for name, width in FLOATS.items()},  # type: ignore[arg-type]
    **dict.fromkeys(BOOLEANS, st.booleans()),
    **dict.fromkeys(STRINGS, TEXTS),
    "a_enum": st.sampled_from(["RED", "BLUE"]),
    "at": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    "price": st.decimals(-(10**31), 10**31, places=6),
    "price_text": st.decimals(-(10**31), 10**31, places=6),
}
MESSAGES = st.fixed_dictionaries({}, optional=VALUES).filter(lambda values: not {"o_string", "o_uint64"} <= values.keys())
DEFAULTS: dict[str, Any] = {
    **{name: 0 for name in INTEGERS if name.startswith("a_")}, "a_float": 0.0, "a_double": 0.0, "a_bool": False, "a_string": "",
    "a_enum": "RED",
}  # fmt: skip


def typed(values: dict[str, Any]) -> bytes:
    """A message with these values."""
    found = message(TYPES, (), "Types")
    for name, value in values.items():
        if name.startswith("w_"):
            getattr(found, name).value = value
        elif name == "at":
            microseconds = (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            found.at.seconds, found.at.nanos = microseconds // 10**6, microseconds % 10**6 * 1000 + 7
        elif name == "price":
            unscaled = int(value.scaleb(6, Context(prec=60)))
            found.price.value = unscaled.to_bytes(unscaled.bit_length() // 8 + 1, signed=True)
            found.price.scale, found.price.precision = 6, 38
        elif name == "a_enum":
            found.a_enum = {"RED": 0, "BLUE": 5}[value]
        else:
            setattr(found, name, format(value, "f") if isinstance(value, Decimal) else value)
    return bytes(found.SerializeToString())


@settings(max_examples=150)
@given(MESSAGES)
def test_each_type_is_read_as_it_was_written(values: dict[str, Any]) -> None:
    """Exactly; what is beyond 64 bits is out of range, and what was not written is its default, or null where that can be said."""
    found = read_of(STREAM, typed({"price_text": Decimal(0), **values}))
    beyond = [name for name, value in values.items() if name in INTEGERS and value >= 2**63]
    if beyond:
        assert faults(found) in [{0: f"{name} out of range"} for name in beyond]
        return

    assert faults(found) == {}
    (row,) = found.checked.good.to_pylist()
    expected = {**dict.fromkeys(KINDS_OF_FIELDS), **DEFAULTS, "price_text": Decimal(0), **values}
    assert {name: row[name] for name in KINDS_OF_FIELDS} == expected


@settings(max_examples=200)
@given(MESSAGES, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3), st.integers(0, 400))
def test_no_bytes_stop_the_reading(values: dict[str, Any], flipped: list[tuple[int, int]], end: int) -> None:
    """Flipped or cut anywhere they are a row or a broken one, framed and bare."""
    payload = bytearray(FRAME + b"\2\2" + typed({"price_text": Decimal(0), **values}))
    for place, byte in flipped:
        payload[place % len(payload)] = byte
    framed = replace(STREAM, format=Protobuf(message="Types", schema=TYPES, is_framed=True))
    for stream, bare in ((framed, bytes(payload[:end])), (STREAM, bytes(payload[7 : 7 + end]))):
        found = read_of(stream, bare)
        assert found.checked.good.num_rows + len(found.checked.broken) == 1


@given(st.binary(max_size=200), st.integers(-(2**31), 2**31 - 1))
def test_decimals_of_any_scale_are_read_exactly_or_not_at_all(value: bytes, scale: int) -> None:
    """However far their digits are from the point."""
    found = message(TYPES, (), "Types")
    found.price.value, found.price.scale, found.price_text = value, scale, "0"
    checked = read_of(STREAM, found.SerializeToString()).checked
    exact = Fraction(int.from_bytes(value, signed=True)) * Fraction(10) ** (-scale if abs(scale) < 600 else 600)
    fits = exact == 0 or (abs(exact) < 10**32 and (exact * 10**6).denominator == 1)

    assert len(checked.broken) == (not fits)
    assert [Fraction(row["price"]) for row in checked.good.to_pylist()] == [exact] * fits


@pytest.mark.parametrize("kind", ["integer", "number", "decimal", "boolean", "timestamp", "string"])
@pytest.mark.parametrize("name", ["raw", "list", "map", "inner", "w_bytes"])
def test_what_no_field_can_be_is_never_taken_for_nothing(name: str, kind: Any) -> None:
    """A list, a map, bytes and a message break their record, and are not null even where they are empty."""
    digits: dict[str, Any] = {"precision": 9, "scale": 2} if kind == "decimal" else {}
    fields = (*CONTRACT.fields, Field(name=name, type=kind, description=name, **digits))
    stream = replace(STREAM, contract=replace(CONTRACT, fields=fields))
    found = message(TYPES, (), "Types")
    found.price_text = "0"
    found.w_bytes.value = b"x"

    assert faults(read_of(stream, found.SerializeToString())) == {0: f"{name} wrong type"}


def test_a_text_of_proto2_that_is_no_text_and_a_message_that_lacks_what_it_requires() -> None:
    """The one breaks its field, as the library lets it pass; so it does the other, which is no message."""
    text = 'syntax = "proto2"; message One { optional string sensor = 1; required int32 level = 3; }'
    stream = replace(STREAM, contract=replace(READINGS, event_at="sent_at"), format=Protobuf(message="One", schema=text))
    fields = tuple(field for field in READINGS.fields if field.name in {"sensor", "level", "sent_at"})
    found = read_of(
        replace(stream, contract=replace(stream.contract, fields=fields)), b"\x0a\2\xff\xfe\x18\3", b"\x0a\2a1", b"\x0a\2a1\x18\3"
    )

    assert faults(found) == {0: "sensor wrong type", 1: "not this Protobuf message"}
    assert found.checked.good.column("level").to_pylist() == [3]


@pytest.mark.parametrize(
    ("text", "imports", "says"),
    [
        ("message {", (), "schema.proto:1:9"),
        ('syntax = "proto3"; import "gone.proto";', (), "gone.proto"),
        ('syntax = "proto3"; import "a.proto";', (("a.proto", 'import "a.proto";'),), "a.proto"),
        ('syntax = "proto3"; message A { B b = 1; }', (), '"B" is not defined'),
        ('syntax = "proto3";', (("../a.proto", ""),), "'../a.proto'"),
        ('syntax = "proto3";', (("/etc/a.proto", ""),), "'/etc/a.proto'"),
        ('syntax = "proto3";', (("a", ""), ("a/b.proto", "")), "'a/b.proto'"),
        ('syntax = "proto3";', (("-a.proto\0", ""),), "-a.proto"),
        ("message A {" * 1000, (), "schema.proto"),
        ('syntax = "proto3"; // \ud800', (), "schema.proto"),
    ],
)
def test_a_text_that_does_not_compile_says_where(text: str, imports: tuple[tuple[str, str], ...], says: str) -> None:
    """Texts come from outside too: none leaves its folder, and none ends the process."""
    with pytest.raises(NotProtobufError) as found:
        messages_of(text, imports)

    assert says in str(found.value)


def test_a_text_that_takes_too_long_to_compile_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is ended with its time."""
    monkeypatch.setattr(protobuf_schemas, "COMPILE_SECONDS", 0.001)
    with pytest.raises(NotProtobufError, match="longer than"):
        messages_of('syntax = "proto3"; message Slow { }')


def test_a_file_of_the_compilers_own_cannot_be_replaced() -> None:
    """What a reference calls `google/protobuf/…` is not taken, so that an instant is one."""
    other = 'syntax = "proto3"; package google.protobuf; message Timestamp { string seconds = 1; }'
    found = messages_of(READING, (*IMPORTS, ("google/protobuf/timestamp.proto", other), ("schema.proto", KINDS.replace("common", "c2"))))

    instant = found.descriptors[MESSAGE].fields_by_name["read_at"].message_type
    assert instant is not None
    assert [field.name for field in instant.fields] == ["seconds", "nanos"]
    assert found.places == {"plant.Envelope": (0,), MESSAGE: (0, 0)}


def test_framed_json_is_read_by_the_contract(kept: Registry) -> None:
    """Its id must be one of a JSON Schema, which nothing else is asked of; without a registry the frame is taken off."""
    kept.has_text(1, "JSON", "{}", reference("a.json", "nowhere"))
    row = {**reading(), "read_at": "2013-05-01T12:00:00Z", "sent_at": "2013-05-01T12:05:00Z"}
    good, text = b"\0\0\0\0\1", json.dumps(row).encode()
    payloads = [
        good + text,
        good + b"[1]",
        text,
        good[:3],
        FRAME + text,
        b"\0\0\0\0\x63" + text,
        good + text[:-1],
        None,
        good + text + b"{}",
    ]
    found = read(*payloads, as_written=JsonObject(is_framed=True, registry="plant"), kept=kept)

    object_, number, unknown = "not a JSON object", "no schema id", "unknown schema id"
    assert faults(found) == {1: object_, 2: number, 3: number, 4: unknown, 5: unknown, 6: object_, 7: "empty record", 8: object_}
    assert found.checked.good.to_pylist() == [reading()]
    assert kept.asked.count("/schemas/ids/1") == 1
    assert faults(read(FRAME + text, text, as_written=JsonObject(is_framed=True))) == {1: number}
