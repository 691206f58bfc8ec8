"""The record of a prediction: it keeps its contract, and says bit for bit what was answered."""

import json
import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader, Share
from pipeline_assets.serving.realtime.log.record import Logged
from pipeline_assets_tests.landings import Landed, table_of
from pipeline_assets_tests.logged_predictions import ASKED_AT, logged

RECEIVED_AT = datetime(2026, 6, 30, 12, 0, 1, tzinfo=UTC)


def typed(*records: Logged, received_at: datetime = RECEIVED_AT) -> list[dict[str, Any]]:
    """Records as the rows that typing makes of them; an AssertionError for one that breaks the contract."""
    landed = [Landed(offset=number, payload=one.to_json(), received_at=received_at) for number, one in enumerate(records)]
    checked = RecordReader(prediction_log, Share()).read(table_of(landed)).checked
    assert [one.fault for one in checked.broken] == []
    rows: list[dict[str, Any]] = checked.good.to_pylist()
    return rows


def test_a_prediction_keeps_the_contract_of_its_stream() -> None:
    """Every field of the contract is there, in its type; times are instants, and what has parts is JSON."""
    (row,) = typed(logged(4))

    assert row.keys() == {field.name for field in prediction_log.contract.fields}
    assert (row["prediction_id"], row["model_version"], row["asked_at"], row["logged_at"]) == ("prediction-4", 3, ASKED_AT, RECEIVED_AT)
    assert json.loads(row["keys"]) == {"origin": "JFK", "carrier": "B6"}
    assert json.loads(row["positions"]) == [
        {
            "feed": "departures_history", "hash": "ab12", "watermark": 1, "snapshot_id": 2**62 + 4, "is_between": False,
            "offsets": {"0": 4, "1": 7},
        }
    ]  # fmt: skip


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_every_float_has_its_bits_again(values: list[float]) -> None:
    """Features and scores are the same to the last bit after topic and table, -0.0 and subnormal ones too."""
    (row,) = typed(logged(1, features={str(place): value for place, value in enumerate(values)}, scores={"score": sum(values, 0.0) / 7}))

    found = json.loads(row["features"])
    assert [struct.pack("<d", found[str(place)]) for place in range(len(values))] == [struct.pack("<d", value) for value in values]


@pytest.mark.parametrize("value", [2**70, -(2**70), "\ud800", "a\0b", "ä€😀", [{"deep": [1, None, True]}]])
def test_a_request_is_logged_as_it_was_asked(value: object) -> None:
    """Numbers beyond 64 bits, lone surrogates and NUL, which no table holds, are kept as JSON writes them."""
    (row,) = typed(logged(1, request={"asked": value}))

    assert json.loads(row["request"]) == {"asked": value}


def test_what_is_no_finite_number_is_null() -> None:
    """JSON has no NaN and no infinity; the store has null there."""
    (row,) = typed(logged(1, features={"a": float("nan"), "b": float("inf"), "c": None, "d": 1.5}))

    assert json.loads(row["features"]) == {"a": None, "b": None, "c": None, "d": 1.5}


def test_a_clock_that_was_set_back_breaks_no_record() -> None:
    """A record may reach its topic hours before it was asked, by a clock that was set back, or months after, from an old spool."""
    early, late = datetime(2026, 6, 30, 3, tzinfo=UTC), datetime(2027, 3, 1, tzinfo=UTC)

    assert [row["logged_at"] for at in (early, late) for row in typed(logged(1), received_at=at)] == [early, late]


def test_records_of_one_id_have_one_key() -> None:
    """So that they are in one partition, in order; an id that is no Unicode has a key too."""
    assert logged(3).key == logged(3, model_version=4).key == b"prediction-3"
    assert logged(3, prediction_id="\ud800").key == b"?"
