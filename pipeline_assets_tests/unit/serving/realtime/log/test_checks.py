"""The check at the door: what typing would put into quarantine is refused, with the field and what it takes."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline_assets.ingestion.streaming.decoding.records import RecordReader, share_of
from pipeline_assets.serving.realtime.log.checks import NOT_OURS, Checker, Fault, Incoming
from pipeline_assets.spec.sources import CloudEvent, Route
from pipeline_assets.use_cases.bundesliga import use_case as league
from pipeline_assets_tests.landings import Landed, event, records, stream_of, table_of
from pipeline_assets_tests.readings import at

STREAM = stream_of()
NOW = at(0) + timedelta(minutes=10)
WITHOUT_ZONE = json.dumps(json.loads(event(1)) | {"read_at": "2013-05-01T12:00:00"}).encode()


def check(*rows: bytes) -> list[bytes | Fault]:
    """What the door says of rows of the readings."""
    return Checker(STREAM, (STREAM,)).check([Incoming(value=row) for row in rows], NOW)


@pytest.mark.parametrize(
    ("row", "field", "detail"),
    [
        (event(1, sensor="s12345"), "sensor", "'sensor': too long. Expected string, at most 4 characters."),
        (event(1, kind="under water"), "kind", "'kind': not allowed. Expected string or null, one of indoor, outdoor."),
        (event(1, level=11), "level", "'level': out of range. Expected integer or null, from 0 to 10."),
        (event(1, value="warm"), "value", "'value': wrong type. Expected number or null, from -1.5 to any."),
        (event(1, read_at=None), "read_at", "'read_at': missing. Expected timestamp, ISO 8601 with a zone."),
        (WITHOUT_ZONE, "read_at", "'read_at': without zone. Expected timestamp, ISO 8601 with a zone."),
        (event(1, sent_at=at(1).isoformat()), "sent_at", "'sent_at': from the future. Expected timestamp, ISO 8601 with a zone."),
        (b"{broken", None, "The row is no event of readings: not a JSON object."),
        (b"7", None, "The row is no event of readings: not a JSON object."),
        (b'{"a": 1, "a": 2}', "a", "'a': repeated field."),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused(row: bytes, field: str | None, detail: str) -> None:
    """With its field, what is wrong, and what the field takes; rows beside it pass."""
    assert check(event(0), row, event(2)) == [b"a1-" + at(0).isoformat().encode(), Fault(field=field, detail=detail), check(event(2))[0]]


def test_the_door_refuses_what_typing_would_quarantine() -> None:
    """Over records of all kinds of faults both judge alike."""
    broken = {1: b"{", 3: event(3, level=-1), 4: None, 6: event(6, is_valid="yes"), 7: event(7, extra=[1])}
    landed = [Landed(offset=one.offset, payload=one.payload, received_at=NOW) for one in records(0, 9, broken=broken)]
    typed = RecordReader(STREAM, share_of(STREAM, (STREAM,))).read(table_of(landed)).checked
    found = check(*(one.payload or b"" for one in landed))

    assert [place for place, one in enumerate(found) if isinstance(one, bytes)] == typed.positions.tolist() == [0, 2, 5, 7, 8]


def test_a_key_of_several_fields_is_that_of_the_leagues_producer() -> None:
    """Values of the primary key with a hyphen between them."""
    stream = league.streams[1]
    result = {
        "season": 2003, "match_number": 17, "home_id": 1, "away_id": 2, "home_goals": 0, "away_goals": 0,
        "finished_at": "2003-08-01T20:00:00Z", "recorded_at": "2003-08-01T20:30:00Z",
    }  # fmt: skip

    assert Checker(stream, league.streams).check([Incoming(value=json.dumps(result).encode())]) == [b"2003-17"]


def test_events_of_another_stream_of_the_topic_are_refused() -> None:
    """Each stream has a door of its own."""
    one, other = (replace(stream_of(f"readings_{kind}"), route=Route(field="kind", value=kind)) for kind in ("indoor", "outdoor"))
    rows = [Incoming(value=event(number, kind=kind)) for number, kind in enumerate(("indoor", "outdoor"))]

    assert [isinstance(found, bytes) for found in Checker(one, (one, other)).check(rows, NOW)] == [True, False]
    assert Checker(one, (one, other)).check(rows, NOW)[1] == Fault(field=None, detail=NOT_OURS)


def test_a_cloud_event_in_binary_mode_is_read_with_its_headers() -> None:
    """The attributes that fields come from are in the headers of the record."""
    stream = replace(STREAM, format=CloudEvent(attributes=(("subject", "sensor"),), is_binary=True))
    headers = {"ce_specversion": b"1.0", "ce_id": b"7", "ce_source": b"/x", "ce_type": b"t", "ce_subject": b"s9"}
    rows = [Incoming(value=event(1), headers=headers), Incoming(value=event(1), headers=headers | {"ce_id": b""})]
    found = Checker(stream, (stream,)).check(rows, NOW)

    assert found[0] == b"s9-" + at(0).isoformat().encode()
    assert isinstance(found[1], Fault)


def test_the_time_of_the_record_is_that_of_the_check() -> None:
    """Of a stream whose events are known by it, which none of them says."""
    stream = replace(STREAM, known_at_record_time=True)
    row = json.dumps({name: value for name, value in json.loads(event(1)).items() if name != "sent_at"}).encode()

    assert isinstance(Checker(stream, (stream,)).check([Incoming(value=row)], NOW)[0], bytes)
    assert isinstance(Checker(stream, (stream,)).check([Incoming(value=row)], datetime(2013, 7, 1, tzinfo=UTC))[0], Fault)
