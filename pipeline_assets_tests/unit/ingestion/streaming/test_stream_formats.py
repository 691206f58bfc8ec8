"""What records of each format become, and that poison never harms its neighbours."""

import gc
import json
import struct
import weakref
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.plain_json import plain_json
from pipeline_assets.ingestion.streaming.decoding.formats import decoder, headers_of
from pipeline_assets.ingestion.streaming.decoding.records import CheckedRecords, RecordReader, Share, share_of
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.spec.sources import Avro, CloudEvent, CsvLine, DebeziumChange, EventStream, JsonObject, Route
from pipeline_assets_tests.landings import Landed, event, plain, stream_of, table_of
from pipeline_assets_tests.readings import READINGS, reading

GOOD = {**reading(), "read_at": "2013-05-01T12:00:00Z", "sent_at": "2013-05-01T12:05:00+00:00"}


def written(**changed: object) -> bytes:
    """A good reading as JSON but for what is changed."""
    return json.dumps({**GOOD, **changed}).encode()


def read(stream: EventStream, *payloads: bytes | None, share: Share | None = None) -> CheckedRecords:
    """What a stream makes of records."""
    landed = [Landed(offset=number, payload=payload) for number, payload in enumerate(payloads)]
    return RecordReader(stream, share or Share()).read(table_of(landed))


def faults(found: CheckedRecords) -> dict[int, str]:
    """The faults of broken records by their places."""
    return {row.position: row.fault for row in found.checked.broken}


POISON = [
    (b"{", "not a JSON object"),
    (b"42", "not a JSON object"),
    (b"[1, 2]", "not a JSON object"),
    (b'"text"', "not a JSON object"),
    (b"null", "not a JSON object"),
    (b"", "not a JSON object"),
    (None, "empty record"),
    (b"\xff\xfe\x00", "not a JSON object"),
    (b"\x00" * 100, "not a JSON object"),
    (written(kind="in\x00door"), "kind wrong type"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (written()[:-1] + b',"sensor":"b"}', "sensor repeated field"),
    (written()[:-1] + b',"sens\\u006fr":"b"}', "sensor repeated field"),
    (written()[:-1] + b',"extra":{"x":1,"x":2}}', "x repeated field"),
    (written()[:-1] + b",}", "not a JSON object"),
    (written()[:-1] + b',"extra":nan}', "not a JSON object"),
    (written() + b"\n" + written(), "not a JSON object"),
    (written().replace(b"indoor", b"in\ndoor"), "not a JSON object"),
    (written(level=2**63), "level out of range"),
    (written(level=2**64), "level out of range"),
    (written(level="3"), "level wrong type"),
    (written(level=3.5), "level wrong type"),
    (written(level=True), "level wrong type"),
    (written(level=11), "level out of range"),
    (written(value="0.5"), "value wrong type"),
    (written(value=float("nan")), "value not finite"),
    (written(value=float("-inf")), "value not finite"),
    (written(is_valid=1), "is_valid wrong type"),
    (written(is_valid="true"), "is_valid wrong type"),
    (written(sensor=None), "sensor missing"),
    (written(sensor=7), "sensor wrong type"),
    (written(sensor=["a"]), "sensor wrong type"),
    (written(sensor="too long"), "sensor too long"),
    (written(kind="elsewhere"), "kind not allowed"),
    (written(kind="\ud800"), "kind wrong type"),
    (written(read_at="2013-05-01T12:00:00"), "read_at without zone"),
    (written(read_at="2013-02-30T12:00:00Z"), "read_at wrong type"),
    (written(read_at=1367409600), "read_at wrong type"),
    (written(sent_at="2013-05-01T13:00:00.000001Z"), "sent_at too late"),
    (written(note="x" * 5_000_000)[:-1], "not a JSON object"),
    (b"x" * 5_000_000, "not a JSON object"),
]
UNUSUAL_BUT_GOOD = [
    json.dumps(GOOD, indent=2).encode(),
    b"  " + written(),
    b"\xef\xbb\xbf" + written(),
    written(extra={"nested": [1, {"deep": None}]}),
    written(extra="text with :{ and ,] and :nan in it"),
    written(note="x" * 5_000_000),
    written(level=3.0),
    written(level=None),
    written(value=3),
    written(value=2**70),
    written(read_at="2013-05-01T08:00:00-04:00"),
    written(read_at="2013-05-01 12:00Z"),
    written(read_at="20130501T120000Z"),
    written(read_at="2013-05-01t12:00:00z"),
    b"\xef\xbb\xbf" + written(),
    written(kind=None),
]


@pytest.mark.parametrize(("poison", "fault"), POISON, ids=lambda value: str(value)[:40])
def test_poison_is_told_with_its_reason_and_its_bytes_and_its_neighbours_pass(poison: bytes | None, fault: str) -> None:
    """Between two good records stands one that breaks the format or the contract: it alone is broken, and keeps its bytes."""
    found = read(stream_of(), plain(1), poison, plain(2))

    assert faults(found) == {1: fault}
    assert found.checked.broken[0].original == (poison or b"")
    assert found.checked.good.column("value").to_pylist() == [1.0, 2.0]
    assert found.checked.positions.tolist() == [0, 2]


@pytest.mark.parametrize("payload", UNUSUAL_BUT_GOOD, ids=lambda value: str(value)[:40])
def test_an_unusual_record_that_keeps_the_contract_passes(payload: bytes) -> None:
    """What the quick reading leaves aside is read one by one, and stands in its place."""
    found = read(stream_of(), plain(1), payload, plain(2))

    assert faults(found) == {}
    assert found.checked.good.num_rows == 3
    assert found.checked.good.column("sensor").to_pylist() == ["a1"] * 3


def test_all_poison_at_once() -> None:
    """A thousand records of which each second is poison: every good one passes, every other has its own reason."""
    payloads = [payload for number in range(500) for payload in (plain(number), POISON[number % len(POISON)][0])]
    found = read(stream_of(), *payloads)

    assert found.checked.good.column("value").to_pylist() == [float(number) for number in range(500)]
    assert faults(found) == {2 * number + 1: POISON[number % len(POISON)][1] for number in range(500)}


TIMES = ["2013-05-01T12:00:00Z", "2013-05-01t12:00:00z", "2013-05-01T12:00:00.123+01:00", "2013-05-01T12:00:00", "2013-13-01T12:00:00Z"]
NUMBERS = st.integers(-(2**65), 2**65) | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from([*TIMES, "indoor", "a"])
OBJECTS = st.dictionaries(
    st.sampled_from([*(field.name for field in READINGS.fields), "extra", "ü", 'q"']), SCALARS | st.lists(SCALARS, max_size=2), max_size=9
)

SPLINTERS = [b"", b",", b"}", b'"', b"\\", b" ", b"0", b"-", b"e", b":", b"\n", b"\x00", b"\xff", b"N"]


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A record that is nearly good: some fields changed, then perhaps some bytes."""
    base = {**GOOD, **draw(OBJECTS)}
    for name in draw(st.sets(st.sampled_from(sorted(base)), max_size=2)):
        del base[name]
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    text = bytearray(json.dumps(base, ensure_ascii=draw(st.booleans()), separators=separators).encode(errors="replace"))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        text[place : place + draw(st.integers(0, 1))] = draw(st.sampled_from(SPLINTERS))
    return bytes(text)


# The alphabet of all texts is made at the first draw, which takes a second.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(texts(), max_size=8))
def test_the_quick_reading_says_what_the_reading_one_by_one_says(payloads: list[bytes]) -> None:
    """Rows, positions and faults are those of the code that reads pages of an API, whatever the records are."""
    found = read(stream_of(), *payloads).checked
    wanted = check_json_rows(READINGS, payloads)

    assert found.good.equals(wanted.good) or str(found.good.to_pylist()) == str(wanted.good.to_pylist())
    assert found.positions.tolist() == wanted.positions.tolist()
    assert list(found.broken) == list(wanted.broken)


def test_plain_records_are_read_as_columns() -> None:
    """The quick reading takes what producers write; if it took nothing all would still be right, but slow."""
    quick = plain_json(READINGS)
    assert quick is not None
    payloads = [plain(1), written(), event(3), written(extra="a word"), b"{", written(extra={})]

    assert quick.read(pa.array(payloads, pa.binary())).places.tolist() == [0, 1, 2, 3]


def test_a_broken_record_keeps_nothing_in_memory() -> None:
    """Regression: the error that reported it kept the whole batch until garbage was looked for, so memory grew with the backlog."""
    records = table_of([Landed(offset=0, payload=b"{"), Landed(offset=1, payload=plain(1))])
    kept = weakref.ref(records)
    reader = RecordReader(stream_of(), Share())
    gc.disable()
    try:
        found = reader.read(records)
        del records
        left = kept()
    finally:
        gc.enable()

    assert faults(found) == {0: "not a JSON object"}
    assert left is None


def test_framed_records_are_read_as_bare_ones_are() -> None:
    """Behind a frame the same objects are rows and the same ones are broken, for the same reasons."""
    payloads = [payload for payload, _ in POISON if payload is not None] + UNUSUAL_BUT_GOOD + [plain(number) for number in range(20)]
    bare = read(stream_of(), *payloads)
    framed = read(with_format(JsonObject(is_framed=True)), *(b"\0\0\0\0\1" + payload for payload in payloads))

    assert faults(framed) == faults(bare)
    assert framed.checked.good.equals(bare.checked.good)
    assert framed.checked.broken[0].original == b"\0\0\0\0\1" + bare.checked.broken[0].original


def with_format(written_as: Any, **changed: object) -> EventStream:
    """A stream of readings in another format."""
    return replace(stream_of(), format=written_as, **changed)  # type: ignore[arg-type]


CSV = CsvLine(columns=("sensor", "kind", "level", "value", "is_valid", "read_at", "sent_at", "note"))


def test_lines_of_values() -> None:
    """Values stand in the declared order; an empty one is null, a quoted one may hold the delimiter and a line's end."""
    line = b'a1,indoor,3,0.5,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,"a, ""b""\nc"\r\n'
    found = read(with_format(CSV), line, b"a1,,,,,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,")

    assert faults(found) == {}
    assert found.checked.good.to_pylist() == [reading(), reading() | dict.fromkeys(["kind", "level", "value", "is_valid"])]


@pytest.mark.parametrize("line", [b"a1,indoor", b'"a1",indoor'])
def test_a_byte_order_mark_before_a_line_is_no_part_of_its_first_value(line: bytes) -> None:
    """Programs for tables put one before the first line of a file; the key is the same with it as without."""
    rest = b",3,0.5,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,"
    found = read(with_format(CSV), b"\xef\xbb\xbf" + line + rest, line + rest)

    assert faults(found) == {}
    assert found.checked.good.column("sensor").to_pylist() == ["a1", "a1"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"a1,indoor", "not a CSV line"),
        (b"", "not a CSV line"),
        (b"\xff,indoor,3,0.5,true,x,y,z", "not a CSV line"),
        (b'"a1,indoor,3,0.5,true,x,y,z', "not a CSV line"),
        (b"a1,indoor,3,0.5,true,x,y,z\na1,indoor,3,0.5,true,x,y,z", "not a CSV line"),
        (None, "empty record"),
        (b"a1,indoor,3.5,0.5,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,", "level wrong type"),
        (b"a1,indoor,9223372036854775808,0.5,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,", "level out of range"),
        (b"a1,indoor,3,1_0,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,", "value wrong type"),
        (b"a1,indoor,3,nan,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,", "value not finite"),
        (b"a1,indoor,3,0.5,yes,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,", "is_valid wrong type"),
        (b"a1,indoor,3,0.5,true,2013-05-01T12:00:00,2013-05-01T12:05:00Z,", "read_at without zone"),
    ],
)
def test_a_line_that_breaks_the_contract(line: bytes | None, fault: str) -> None:
    """Texts are read as strictly as JSON, and a line has exactly the declared columns."""
    assert faults(read(with_format(CSV), line)) == {0: fault}


AVRO_SCHEMA = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "sensor", "type": "string"},
        {"name": "kind", "type": ["null", "string"]},
        {"name": "level", "type": ["null", "int"]},
        {"name": "value", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "is_valid", "type": "boolean"},
        {"name": "read_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "sent_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
AVRO = Avro(schema=json.dumps(AVRO_SCHEMA))


def avro(**changed: object) -> bytes:
    """A reading as Avro."""
    content = BytesIO()
    fastavro.schemaless_writer(content, fastavro.parse_schema(AVRO_SCHEMA), {**reading(value=Decimal("0.50")), **changed})
    return content.getvalue()


def test_avro_records() -> None:
    """Logical types become the contract's: decimals numbers, times instants; the frame of a schema registry is taken off."""
    bare = read(with_format(AVRO), avro(), avro(level=None))
    framed = read(with_format(replace(AVRO, is_framed=True)), b"\0" + struct.pack(">I", 7) + avro())

    assert faults(bare) == faults(framed) == {}
    assert bare.checked.good.to_pylist() == [reading(), reading(level=None)]
    assert framed.checked.good.to_pylist() == [reading()]


@pytest.mark.parametrize("payload", [b"", b"\x02", avro() + b"\0", avro()[:-1], b"\xff" * 40, plain(1)])
def test_bytes_of_another_schema(payload: bytes) -> None:
    """Bytes too few, too many or of something else are one broken record."""
    found = read(with_format(AVRO), avro(), payload, avro())

    assert faults(found) == {1: "not this Avro schema"}
    assert found.checked.good.num_rows == 2
    assert faults(read(with_format(replace(AVRO, is_framed=True)), avro())) == {0: "no schema id"}


@given(st.binary(max_size=60))
def test_no_bytes_stop_the_reading_of_avro(payload: bytes) -> None:
    """Whatever the bytes are, they are a row or a broken one."""
    found = read(with_format(AVRO), payload)

    assert found.checked.good.num_rows + len(found.checked.broken) == 1


def cloud_event(**changed: object) -> bytes:
    """A reading in an envelope; an attribute that is changed to None is left out."""
    data = {name: value for name, value in GOOD.items() if name not in {"sensor", "read_at"}}
    envelope = {"specversion": "1.0", "id": "a1", "source": "/home", "type": "reading", "time": GOOD["read_at"], "data": data, **changed}
    return json.dumps({name: value for name, value in envelope.items() if value is not None}).encode()


CLOUD = CloudEvent(attributes=(("id", "sensor"), ("time", "read_at")))


def test_cloud_events() -> None:
    """The data holds the fields; declared attributes of the envelope are fields too."""
    found = read(with_format(CLOUD), cloud_event(), cloud_event(datacontenttype="application/json; charset=utf-8"))

    assert faults(found) == {}
    assert found.checked.good.to_pylist() == [reading(), reading()]


@pytest.mark.parametrize(
    "payload",
    [
        written(), cloud_event(id=None), cloud_event(source=""), cloud_event(type=1), cloud_event(specversion=None),
        cloud_event(data=None), cloud_event(data="{}"), cloud_event(datacontenttype="text/xml"),
    ],
)  # fmt: skip
def test_what_is_no_cloud_event(payload: bytes) -> None:
    """An event has the required attributes, and data in JSON."""
    assert faults(read(with_format(CLOUD), payload)) == {0: "not a CloudEvent"}


BINARY = with_format(replace(CLOUD, is_binary=True))
ATTRIBUTES = {"specversion": "1.0", "id": "a1", "source": "/home", "type": "reading", "time": GOOD["read_at"]}
DATA = json.dumps({name: value for name, value in GOOD.items() if name not in {"sensor", "read_at"}}).encode()


def in_binary(payload: bytes | None = DATA, content_type: bytes | None = b"application/json", **changed: bytes | str | None) -> Landed:
    """A reading in binary mode; an attribute that is changed to None is left out."""
    attributes = {f"ce_{name}": value.encode() if isinstance(value, str) else value for name, value in {**ATTRIBUTES, **changed}.items()}
    headers = {name: value for name, value in {"content-type": content_type, **attributes}.items() if value is not None}
    return Landed(offset=0, payload=payload, headers=headers)


def read_with_headers(stream: EventStream, *landed: Landed, share: Share | None = None) -> CheckedRecords:
    """What a stream makes of records with the headers that it reads."""
    return RecordReader(stream, share or Share()).read(table_of(landed, headers_of(stream)))


def test_cloud_events_in_binary_mode() -> None:
    """Attributes stand in headers, the value is the data; between them may stand events in structured mode."""
    structured = Landed(offset=0, payload=cloud_event(), headers={"content-type": b"application/cloudevents+json; charset=utf-8"})
    events = [
        in_binary(), in_binary(content_type=None), in_binary(content_type=b"text/json; charset=utf-8"),
        structured, replace(structured, headers={}), replace(in_binary(cloud_event(), b"Application/CloudEvents+JSON", id="other")),
    ]  # fmt: skip
    found = read_with_headers(BINARY, *events)

    assert faults(found) == {}
    assert found.checked.good.to_pylist() == [reading()] * len(events)
    assert headers_of(BINARY) == ("content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time")
    assert headers_of(with_format(CLOUD)) == headers_of(stream_of()) == ()


@pytest.mark.parametrize(
    ("poison", "fault"),
    [
        (in_binary(id=None), "not a CloudEvent"),
        (in_binary(source=""), "not a CloudEvent"),
        (in_binary(type=b"\xff\xfe"), "not a CloudEvent"),
        (in_binary(content_type=b"text/xml"), "not a CloudEvent"),
        (in_binary(content_type=b"\xff"), "not a CloudEvent"),
        (in_binary(specversion=None), "not a CloudEvent"),
        (in_binary(content_type=b"application/cloudevents+json"), "not a CloudEvent"),
        (in_binary(content_type=b"application/cloudevents-batch+json", payload=b"[" + cloud_event() + b"]"), "not a JSON object"),
        (in_binary(payload=b"{"), "not a JSON object"),
        (in_binary(payload=b"42"), "not a JSON object"),
        (in_binary(payload=None), "empty record"),
        (in_binary(time="2013-05-01T12:00:00"), "read_at without zone"),
        (in_binary(time=None), "read_at missing"),
        (in_binary(id="too long by far"), "sensor too long"),
    ],
)
def test_what_is_no_cloud_event_in_binary_mode(poison: Landed, fault: str) -> None:
    """Headers are as strict as an envelope; a broken event keeps its bytes, and its neighbours pass."""
    found = read_with_headers(BINARY, in_binary(), poison, in_binary())

    assert faults(found) == {1: fault}
    assert found.checked.broken[0].original == (poison.payload or b"")
    assert found.checked.good.num_rows == 2


def test_events_in_binary_mode_are_routed_by_their_attributes() -> None:
    """The header of the attribute that streams are routed by is read too."""
    own = replace(BINARY, route=Route(field="kindof", value="reading"))
    events = [in_binary(kindof="reading"), in_binary(kindof="alarm"), in_binary(kindof="noise"), in_binary()]
    found = read_with_headers(own, *events, share=Share(field="kindof", own="reading", others=frozenset({"alarm"})))

    assert headers_of(own)[-1] == "ce_kindof"
    assert (found.checked.good.num_rows, found.left) == (1, 1)
    assert faults(found) == {2: "kindof unknown event type", 3: "kindof unknown event type"}


CHANGE = DebeziumChange(operation="kind", lsn="level", committed_at="sent_at")


def change(operation: str = "u", **changed: object) -> dict[str, object]:
    """A change of a reading as Debezium emits it."""
    row = {"sensor": "a1", "value": "0.50", "is_valid": True, "read_at": "2013-05-01T12:00:00.000000Z"}
    whole = {"before": None, "after": row, "op": operation, "source": {"lsn": 8, "ts_ms": 1367409900000, "table": "readings"}, "ts_ms": 1}
    return {**whole, **({"before": row, "after": None} if operation == "d" else {}), **changed}


def test_changes_of_a_row() -> None:
    """The row is the one after the change, or before a deletion; log position, commit time and operation are fields where declared."""
    fields = tuple(replace(field, allowed=("c", "u", "d", "r")) if field.name == "kind" else field for field in READINGS.fields)
    stream = replace(with_format(CHANGE), contract=replace(READINGS, fields=fields))
    payloads = [json.dumps(change(operation)).encode() for operation in "crud"]
    payloads.append(json.dumps({"schema": {}, "payload": change()}).encode())
    found = read(stream, *payloads, None)

    assert faults(found) == {}
    assert found.skipped == 1
    assert found.checked.good.to_pylist() == [reading(kind=operation, level=8) for operation in "crudu"]


@pytest.mark.parametrize(
    "envelope",
    [
        change("x"),
        change(op=None),
        change(op=[]),
        change(after=None),
        change(source=None),
        change(source={"ts_us": 10**30}),
        {},
    ],
)
def test_what_is_no_change_of_a_row(envelope: dict[str, object]) -> None:
    """Envelopes without a row, or of an operation that nobody knows, are broken, not guessed at."""
    assert faults(read(with_format(CHANGE), json.dumps(envelope).encode())) == {0: "not a change event"}


LOG = replace(
    stream_of(),
    contract=log_contract(READINGS),
    format=DebeziumChange(
        operation="_op", lsn="_lsn", committed_at="_committed_at", transaction="_txid", snapshot="_snapshot", absent="_absent"
    ),
)


def test_a_change_says_which_declared_fields_its_row_lacks() -> None:
    """Of a row that stands after it; one that is null is not lacking, and of a deleted row only the key is known."""
    whole = {**change()["after"], "kind": None, "level": None, "sent_at": None, "colour": "red"}  # type: ignore[dict-item]
    payloads = [change(), change(after=whole), change("d"), change("t")]
    found = read(LOG, *(json.dumps(payload).encode() for payload in payloads))

    assert faults(found) == {}
    assert found.checked.good.column("_absent").to_pylist() == ['["kind", "level", "sent_at"]', None, None, None]


def test_a_truncation_is_a_change_without_a_row() -> None:
    """A change log takes it, as it requires none of the row's own fields."""
    operation = DebeziumChange(operation="_op", lsn="_lsn", committed_at="_committed_at")
    found = read(replace(stream_of(), contract=log_contract(READINGS), format=operation), json.dumps(change("t")).encode())

    assert faults(found) == {}
    assert [(row["_op"], row["sensor"]) for row in found.checked.good.to_pylist()] == [("t", None)]


def test_known_at_may_be_the_records_time_in_the_topic() -> None:
    """Where it is declared so, the field need not be there, and what stands there is not taken; plain records and others alike."""
    received_at = datetime(2013, 5, 1, 12, 10, tzinfo=UTC)
    stream = with_format(stream_of().format, known_at_record_time=True)
    without = json.dumps({name: value for name, value in GOOD.items() if name != "sent_at"}).encode()
    payloads = (written(), without, written(extra={}), written(sent_at="never"))
    landed = [Landed(offset=number, payload=payload, received_at=received_at) for number, payload in enumerate(payloads)]
    found = RecordReader(stream, Share()).read(table_of(landed))

    assert faults(found) == {}
    assert found.checked.good.column("sent_at").to_pylist() == [received_at] * 4


def test_a_record_from_the_future_is_broken() -> None:
    """One whose event was known only after the record was written, plain or not; a record without a time says nothing of it."""
    future = {"read_at": "2099-01-01T00:00:00Z", "sent_at": "2099-01-01T00:00:00Z"}
    landed = [
        Landed(offset=0, payload=written(**future)),
        Landed(offset=1, payload=written(**future, extra={})),
        Landed(offset=2, payload=written(**future), received_at=None),
    ]
    found = RecordReader(stream_of(), Share()).read(table_of(landed))

    assert faults(found) == {0: "sent_at from the future", 1: "sent_at from the future"}


def routed(value: str, name: str) -> EventStream:
    """A stream that takes one type of event of the topic."""
    return replace(stream_of(name), route=Route(field="type", value=value))


def test_one_topic_carries_several_types_of_events() -> None:
    """Each stream takes its own; what none takes, and what nobody can read, is broken in the stream that was declared first, once."""
    streams = [routed("warm", "first"), routed("cold", "second")]
    payloads = [
        written(type="warm"), written(type="cold"), written(type="hot"), written(), b"{", None, written(type=3),
        written(type="warm", extra={}), written(type="cold", extra={}), written(type="hot", extra={}), written(type="cold", level=99),
    ]  # fmt: skip
    first, second = (read(stream, *payloads, share=share_of(stream, streams)) for stream in streams)

    assert (first.checked.positions.tolist(), second.checked.positions.tolist()) == ([0, 7], [1, 8])
    strays = dict.fromkeys([2, 3, 6, 9], "type unknown event type")
    assert faults(first) == strays | {4: "not a JSON object", 5: "empty record"}
    assert faults(second) == {10: "level out of range"}
    assert (first.left, second.left) == (3, 8)


def test_the_envelope_routes_where_there_is_one() -> None:
    """The type of a CloudEvent and the table of a change say whose event it is."""
    cloud = with_format(CLOUD, route=Route(field="type", value="reading"))
    tables = with_format(DebeziumChange(), route=Route(field="table", value="other"))

    assert read(cloud, cloud_event(), share=share_of(cloud, [cloud])).checked.good.num_rows == 1
    assert faults(read(tables, json.dumps(change()).encode(), share=share_of(tables, [tables]))) == {0: "table unknown event type"}


@pytest.mark.parametrize("name", ["it's", "Kind"])
def test_a_topic_may_be_routed_by_a_field_with_a_name_that_sql_would_not_take(name: str) -> None:
    """Such records are read one by one: a name with a quote, and one that differs from a field of the contract in case alone."""
    stream = replace(stream_of(), route=Route(field=name, value="x"))
    found = read(stream, written(**{name: "x"}), share=share_of(stream, [stream]))

    assert plain_json(READINGS, name) is None
    assert found.checked.positions.tolist() == [0]


def test_a_field_that_differs_in_case_is_another_field() -> None:
    """It stands for nothing in the contract, and does not get in the way of the one that does."""
    found = read(stream_of(), plain(1).replace(b'"level"', b'"LEVEL"'), plain(2)[:-1] + b',"LEVEL":9}', b'{"LEVEL":9,' + plain(3)[1:])

    assert found.checked.good.column("level").to_pylist() == [None, 3, 3]


def test_a_decoder_raises_nothing_but_faults() -> None:
    """No records at all are fine too."""
    assert read(stream_of()).checked.good.num_rows == 0
    assert decoder(READINGS, DebeziumChange())(None, {}) is None


def test_what_is_an_event_is_told_with_all_headers_of_a_record() -> None:
    """A broken one is; the mark of a deletion beside changes of a table is none; headers that the format does not read say nothing."""
    binary, changes = RecordReader(BINARY, Share()), RecordReader(with_format(DebeziumChange()), Share())
    headers = dict(in_binary().headers)

    assert binary.is_event(DATA, {**headers, "trace": b"\xff", "other": None})
    assert binary.is_event(DATA, {**headers, "ce_id": None})
    assert binary.is_event(None, {})
    assert changes.is_event(json.dumps(change()).encode(), {})
    assert not changes.is_event(None, {"trace": b"1"})


def of_row(operation: str = "u", **values: object) -> bytes:
    """A change that gives a row these values."""
    whole = change(operation)
    return json.dumps(whole | {name: {**row, **values} for name in ("before", "after") if isinstance(row := whole[name], dict)}).encode()


def test_a_broken_change_is_known_as_far_as_it_can_be_read() -> None:
    """Its row and what it did to it, with all values but those at fault; it is in quarantine no less, by the first of them."""
    bad = of_row(value="NaN", level="many", read_at="infinity")
    found = read(LOG, of_row(), bad, of_row("d", value="-Infinity"), of_row("r", value=float("nan"), _broken="own"))
    assert found.partly is not None
    rows = found.partly.good.select(["sensor", "value", "is_valid", "read_at", "_op", "_lsn", "_broken"]).to_pylist()

    assert found.checked.good.num_rows == 1
    assert list(faults(found)) == list(found.partly.positions) == [1, 2, 3]
    assert [(row["sensor"], row["_op"], row["_lsn"], row["value"]) for row in rows] == [("a1", kind, 8, None) for kind in "udr"]
    assert [set(json.loads(row["_broken"])) for row in rows] == [{"level", "value", "read_at"}, {"value"}, {"value"}]
    assert [found.checked.broken[number].fault for number in range(3)] == [
        " ".join(next(iter(json.loads(row["_broken"]).items()))) for row in rows
    ]
    assert [(row["is_valid"], row["read_at"] is None) for row in rows] == [(True, True), (True, False), (True, False)]


def test_a_key_that_cannot_be_read_is_null_and_an_envelope_that_cannot_leaves_nothing() -> None:
    """Nobody knows which row that is, and it has its place in a snapshot; of what is no change, not even that is known."""
    no_place = change(source={"lsn": "first", "ts_ms": 1367409900000}, after={"value": "NaN"})
    found = read(LOG, of_row("r", sensor=7), json.dumps(no_place).encode(), b"{", json.dumps(change(after=None)).encode())
    assert found.partly is not None

    assert faults(found) == {0: "sensor wrong type", 1: "_lsn wrong type", 2: "not a JSON object", 3: "not a change event"}
    assert [(row["sensor"], row["_op"], row["value"]) for row in found.partly.good.to_pylist()] == [(None, "r", 0.5)]
    assert list(found.partly.positions) == [0]


def test_broken_events_are_in_quarantine_alone() -> None:
    """Only the log of a table has use for what is left of a broken record."""
    found = read(with_format(CHANGE), of_row(value="NaN"))

    assert (found.partly, len(found.parts), list(faults(found))) == (None, 1, [0])
