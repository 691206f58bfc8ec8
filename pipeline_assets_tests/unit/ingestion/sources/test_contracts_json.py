"""The check of JSON rows against a contract."""

import json
from datetime import UTC, date, datetime
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.sources.json_objects import DEEPEST, end_of_value, is_too_deep
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.use_cases.nyc_flights.sources import weather

DAY = date(2013, 5, 1)
FINE = {
    "origin": "EWR",
    "observed_at": "2013-05-01T12:00:00Z",
    "temperature_f": 50.0,
    "published_at": "2013-05-01T12:10:00+00:00",
}


def row(**changed: object) -> bytes:
    """A row that is fine but for what is changed."""
    return json.dumps(FINE | changed).encode()


def test_good_rows_come_back_typed_and_broken_ones_as_the_bytes_they_were() -> None:
    """Every row stands on one side, in order, with its position; the bytes of a broken row are those that came."""
    warm = b'{ "temperature_f":"warm", "origin":"EWR", "observed_at":"2013-05-01T13:00:00Z", "published_at":"2013-05-01T13:10:00Z" }'
    checked = check_json_rows(weather.contract, [row(), warm, row(origin="JFK")], first_position=500, day=DAY)

    assert checked.good.schema == arrow_schema(weather.contract)
    assert checked.good.column("origin").to_pylist() == ["EWR", "JFK"]
    assert checked.good.column("observed_at").to_pylist()[0] == datetime(2013, 5, 1, 12, tzinfo=UTC)
    assert checked.positions.tolist() == [500, 502]
    assert [(one.position, one.fault, one.original) for one in checked.broken] == [(501, "temperature_f wrong type", warm)]


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (b"{", "not a JSON object"),
        (b"42", "not a JSON object"),
        (b"[1, 2]", "not a JSON object"),
        (b"", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"origin": "EWR", "origin": "JFK"}', "origin repeated field"),
        (row(temperature_f="50"), "temperature_f wrong type"),
        (row(temperature_f=True), "temperature_f wrong type"),
        (row(temperature_f=float("nan")), "temperature_f not finite"),
        (row(temperature_f=10**400), "temperature_f out of range"),
        (row(temperature_f=999.0), "temperature_f out of range"),
        (row(origin=1), "origin wrong type"),
        (row(origin="E\0R"), "origin wrong type"),
        (row(origin="\ud800"), "origin wrong type"),
        (row(origin="XXX"), "origin not allowed"),
        (row(origin=None), "origin missing"),
        (row(observed_at="2013-05-01T12:00:00"), "observed_at without zone"),
        (row(observed_at="yesterday"), "observed_at wrong type"),
        (row(observed_at=1367409600), "observed_at wrong type"),
        (row(published_at="2013-05-01T15:00:01Z"), "published_at too late"),
        (row(observed_at="2013-05-02T00:00:00Z", published_at="2013-05-02T00:00:00Z"), "observed_at outside the day"),
    ],
)
def test_nothing_is_guessed(broken: bytes, fault: str) -> None:
    """Text is no number, a time without a zone no instant, and a field that stands twice no value."""
    (found,) = check_json_rows(weather.contract, [broken], day=DAY).broken

    assert found.fault == fault
    assert found.original == broken


def test_a_time_in_another_zone_is_the_same_instant() -> None:
    """Offsets are converted to UTC, and the day is that of the instant."""
    checked = check_json_rows(weather.contract, [row(observed_at="2013-05-01T08:00:00-04:00")], day=DAY)

    assert checked.good.column("observed_at").to_pylist() == [datetime(2013, 5, 1, 12, tzinfo=UTC)]


def test_an_absent_field_is_null_and_an_unknown_one_is_left_out() -> None:
    """What is not required may be absent; what the contract does not know is reported and not kept."""
    checked = check_json_rows(weather.contract, [row(colour="red")], day=DAY)

    assert checked.good.column("wind_gust_mph").to_pylist() == [None]
    assert "colour" in checked.fields
    assert "wind_gust_mph" not in checked.fields


def test_good_rows_keep_their_bytes_for_the_case_that_their_key_comes_again() -> None:
    """A row may still go to quarantine when the partition is complete, and then with the bytes that it came as."""
    rows = [row(), b"42", row(origin="JFK")]

    assert check_json_rows(weather.contract, rows, day=DAY).originals == [rows[0], rows[2]]


def test_no_rows_are_no_faults() -> None:
    """An empty page is fine."""
    checked = check_json_rows(weather.contract, [], day=DAY)

    assert checked.good.num_rows == 0
    assert list(checked.broken) == []


@given(
    st.fixed_dictionaries(
        {
            "origin": st.sampled_from(["EWR", "JFK", "LGA"]),
            "observed_at": st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 (the zone is drawn)
            "temperature_f": st.none() | st.floats(-60, 130),
            "wind_speed_mph": st.none() | st.integers(0, 150).map(float),
        }
    )
)
def test_a_row_written_as_json_reads_back_to_the_same_values(values: dict[str, object]) -> None:
    """What quarantine keeps of a row without bytes can be replayed without loss."""
    whole = {field.name: None for field in weather.contract.fields} | values | {"published_at": values["observed_at"]}

    checked = check_json_rows(weather.contract, [json_bytes(whole)])

    assert list(checked.broken) == []
    assert checked.good.to_pylist() == [whole]


@pytest.mark.parametrize(
    "text", ['\\"' * 500_000, "\\" * 1_000_001, "x" * 1_000_000, '\\"x' * 300_000 + '"'], ids=["quotes", "odd", "plain", "ended"]
)
def test_a_megabyte_of_text_is_passed_over_at_once(text: str) -> None:
    """Regression: a text without an end was gone through anew from each of its quotes, which took an hour."""
    row, began = "[]" * (DEEPEST + 1) + '"' + text, process_time()

    assert not is_too_deep(row.encode())
    assert end_of_value("[" + row, 0) is None
    assert process_time() - began < 1.0


values = st.recursive(st.none() | st.text() | st.integers(), lambda own: st.lists(own) | st.dictionaries(st.text(), own), max_leaves=30)


@given(values, st.text())
def test_a_value_ends_where_it_was_written_to(value: object, after: str) -> None:
    """Whatever its texts hold, and whatever comes after it."""
    written = json.dumps([value], ensure_ascii=False)

    assert end_of_value(f"{written}{after}", 0) == len(written)
    assert end_of_value(written[:-1], 0) is None
