"""Bodies of requests as records: plain JSON byte for byte, and CloudEvents in each of their modes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.serving.realtime.log.bodies import MOST_ROWS, NOT_CLOUD_EVENT, rows_of
from pipeline_assets.serving.realtime.log.checks import Incoming
from pipeline_assets.serving.realtime.service.problems import Problem
from pipeline_assets.spec.sources import CloudEvent, JsonObject

PLAIN, STRUCTURED, BINARY = JsonObject(), CloudEvent(), CloudEvent(is_binary=True)
ATTRIBUTES = {"specversion": "1.0", "id": "7", "source": "/gates", "type": "departure", "datacontenttype": "application/json"}
HEADERS = {
    "ce-specversion": "1.0", "ce-id": "7", "ce-source": "/gates", "ce-type": "departure", "ce-subject": "caf%C3%A9",
    "content-type": "application/json; charset=utf-8",
}  # fmt: skip
KAFKA_HEADERS = {
    "ce_specversion": b"1.0", "ce_id": b"7", "ce_source": b"/gates", "ce_type": b"departure", "content-type": b"application/json",
}  # fmt: skip
DATA = b'{"value": 1.10, "deep": {"a": [1, 2]}}'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def values(written: Any, kind: str, body: bytes) -> list[bytes]:
    """The values of the records of a body of some type; an AssertionError where a row is none."""
    rows = rows_of(written, {"content-type": kind}, body)
    assert all(isinstance(row, Incoming) for row in rows)
    return [row.value for row in rows if isinstance(row, Incoming)]


def event(**changed: object) -> bytes:
    """A structured CloudEvent."""
    return json.dumps(ATTRIBUTES | changed).encode()[:-1] + b', "data": ' + DATA + b"}"


@given(st.lists(VALUES, min_size=1, max_size=5), st.booleans())
def test_rows_are_kept_byte_for_byte(rows: list[Any], is_ascii: bool) -> None:  # noqa: FBT001 - Hypothesis gives it
    """Numbers keep their digits, whatever a list or its lines have around them."""
    texts = [json.dumps(row, ensure_ascii=is_ascii).encode() for row in rows]

    assert values(PLAIN, "application/json", b" [ " + b" ,\n".join(texts) + b"]\n") == texts
    assert values(PLAIN, "application/x-ndjson", b"\n\r\n".join(texts) + b"\n") == texts
    assert values(PLAIN, "application/json; charset=utf-8", b'{"one": 1.10}') == [b'{"one": 1.10}']


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"[1, 2", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/cloudevents-batch+json", b"{}", 400),
        ("application/json", b"[]", 422),
        ("application/x-ndjson", b"\n\n", 422),
        ("text/plain", b"{}", 415),
        ("", b"{}", 415),
        ("application/json", b"[" + b"0," * MOST_ROWS + b"0]", 413),
    ],
)
def test_a_body_that_has_no_rows_is_refused(kind: str, body: bytes, status: int) -> None:
    """What is no list, has none or too many rows, or is of a type that nobody reads."""
    with pytest.raises(Problem) as refused:
        rows_of(PLAIN, {"content-type": kind}, body)

    assert refused.value.status == status


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_a_stream_of_cloud_events_takes_nothing_else(kind: str) -> None:
    """Plain rows have no envelope."""
    with pytest.raises(Problem) as refused:
        rows_of(STRUCTURED, {"content-type": kind}, DATA)

    assert refused.value.status == 415


def test_a_structured_event_is_a_record_as_it_is() -> None:
    """In a stream of CloudEvents the record is the event; in one of JSON objects its data, with the attributes as headers."""
    (whole,) = rows_of(STRUCTURED, {"content-type": "application/cloudevents+json; charset=utf-8"}, event())
    (data,) = rows_of(PLAIN, {"content-type": "application/cloudevents+json"}, event())

    assert whole == Incoming(value=event(), headers={"content-type": b"application/cloudevents+json"})
    assert data == Incoming(value=DATA, headers=KAFKA_HEADERS)


def test_a_batch_has_an_event_for_each_row() -> None:
    """One that is none is the fault of its row alone."""
    rows = rows_of(PLAIN, {"content-type": "application/cloudevents-batch+json"}, b"[" + event() + b"," + event(id="") + b"]")

    assert [row.value if isinstance(row, Incoming) else row for row in rows] == [DATA, NOT_CLOUD_EVENT]


def test_a_binary_event_has_its_attributes_in_headers() -> None:
    """They become headers of the record, decoded; a stream of structured events gets the event in one piece, its data byte for byte."""
    expected = KAFKA_HEADERS | {"ce_subject": "café".encode(), "content-type": b"application/json; charset=utf-8"}
    for written in (PLAIN, BINARY):
        assert rows_of(written, HEADERS, DATA) == [Incoming(value=DATA, headers=expected)]
    (row,) = rows_of(STRUCTURED, HEADERS, DATA)

    assert isinstance(row, Incoming)
    assert DATA in row.value
    assert json.loads(row.value) == {
        **ATTRIBUTES, "datacontenttype": "application/json; charset=utf-8", "subject": "café", "data": json.loads(DATA)
    }  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [{"ce-id": ""}, {"ce-specversion": "0.3"}, {"content-type": "text/xml"}, {"ce-type": ""}, {"ce-source": ""}],
)
def test_what_lacks_an_attribute_is_no_event(changed: dict[str, str]) -> None:
    """Version 1.0, an id, a source, a type, and JSON."""
    assert rows_of(PLAIN, HEADERS | changed, DATA) == [NOT_CLOUD_EVENT]


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"{}", b"not json", event(specversion="2.0"), event(type=7), event().replace(b'"data"', b'"data_base64"')]
)
def test_what_is_no_cloud_event_is_the_fault_of_its_row(body: bytes) -> None:
    """As is one whose data is bytes."""
    assert rows_of(STRUCTURED, {"content-type": "application/cloudevents+json"}, body) == [NOT_CLOUD_EVENT]


def test_a_binary_event_whose_data_is_no_json_is_none() -> None:
    """It cannot be part of a structured one."""
    assert rows_of(STRUCTURED, HEADERS, b"{broken") == [NOT_CLOUD_EVENT]
