"""The check of Arrow batches against a contract."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingestion.sources.contracts import arrow_schema, check_batch
from pipeline_assets_tests.readings import READINGS

DAY = date(2013, 5, 1)
NOON = datetime(2013, 5, 1, 12, tzinfo=UTC)
FINE: dict[str, Any] = {
    "sensor": "a1", "kind": "indoor", "level": 3, "value": 0.5, "is_valid": True, "read_at": NOON, "sent_at": NOON + timedelta(minutes=5),
}  # fmt: skip


def batch(*rows: dict[str, Any]) -> pa.RecordBatch:
    """Rows as a batch: those given over a row that is fine, in types that could hold any of the contract's values."""
    schema = pa.schema([pa.field(field.name, field.type) for field in arrow_schema(READINGS)])
    return pa.RecordBatch.from_pylist([FINE | row for row in rows], schema=schema)


def faults(*rows: dict[str, Any], day: date | None = DAY) -> list[tuple[int, str]]:
    """Position and fault of each broken row."""
    return [(row.position, row.fault) for row in check_batch(READINGS, batch(*rows), first_position=0, day=day).broken]


def test_the_schema_has_the_fields_in_their_order_and_null_only_where_not_required() -> None:
    """The lake takes staged files as they are, so names, types and nullability are exactly the contract's."""
    schema = arrow_schema(READINGS)

    assert schema.names == [field.name for field in READINGS.fields]
    assert schema.field("value").type == pa.float64()
    assert schema.field("read_at").type == pa.timestamp("us", tz="UTC")
    assert [field.nullable for field in schema] == [False, True, True, True, True, False, False]
    assert schema.field("level").metadata == {b"description": b"Level."}


def test_rows_that_keep_the_contract_pass_unchanged_in_the_contracts_schema() -> None:
    """A batch without faults comes back whole, with the positions that its rows had."""
    checked = check_batch(READINGS, batch({}, {"sensor": "b2", "kind": None, "level": None}), first_position=7, day=DAY)

    assert checked.good.schema == arrow_schema(READINGS)
    assert checked.good.column("sensor").to_pylist() == ["a1", "b2"]
    assert checked.positions.tolist() == [7, 8]
    assert not checked.broken


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ({"sensor": None}, "sensor missing"),
        ({"sensor": "abcde"}, "sensor too long"),
        ({"kind": "upstairs"}, "kind not allowed"),
        ({"level": -1}, "level out of range"),
        ({"level": 11}, "level out of range"),
        ({"value": -1.6}, "value out of range"),
        ({"value": float("nan")}, "value not finite"),
        ({"value": float("inf")}, "value not finite"),
        ({"read_at": None}, "read_at missing"),
        ({"read_at": datetime(2013, 5, 2, tzinfo=UTC), "sent_at": datetime(2013, 5, 2, tzinfo=UTC)}, "read_at outside the day"),
        ({"read_at": datetime(2013, 4, 30, 23, 59, 59, 999999, tzinfo=UTC)}, "read_at outside the day"),
        ({"sent_at": NOON + timedelta(hours=1, microseconds=1)}, "sent_at too late"),
        ({"sent_at": NOON - timedelta(minutes=5, microseconds=1)}, "read_at from the future"),
    ],
)
def test_each_kind_of_fault_is_found_and_named(broken: dict[str, Any], fault: str) -> None:
    """A broken row among good ones is named by its position, field and reason, and the others stay."""
    checked = check_batch(READINGS, batch({}, broken, {}), first_position=0, day=DAY)

    assert [(row.position, row.fault) for row in checked.broken] == [(1, fault)]
    assert checked.good.num_rows == 2
    assert checked.positions.tolist() == [0, 2]


@pytest.mark.parametrize(
    "edge",
    [
        {"sensor": "üüüü"},
        {"level": 0},
        {"level": 10},
        {"value": -1.5},
        {"value": 1e308},
        {"read_at": datetime(2013, 5, 1, tzinfo=UTC), "sent_at": datetime(2013, 5, 1, tzinfo=UTC)},
        {"read_at": datetime(2013, 5, 1, 23, 59, 59, 999999, tzinfo=UTC), "sent_at": datetime(2013, 5, 2, tzinfo=UTC)},
        {"sent_at": NOON + timedelta(hours=1)},
        {"sent_at": NOON - timedelta(minutes=5)},
    ],
)
def test_values_on_the_edge_keep_the_contract(edge: dict[str, Any]) -> None:
    """Bounds are inclusive, lengths count characters, a day includes its first and last microsecond, clocks may differ by five minutes."""
    assert faults(edge) == []


def test_a_plan_is_known_as_long_ahead_as_its_contract_says() -> None:
    """What is planned happens after it is known; the contract bounds how long after."""
    plans = replace(READINGS, earliness=timedelta(days=2))
    rows = batch({"sent_at": NOON - timedelta(days=2)}, {"sent_at": NOON - timedelta(days=2, microseconds=1)})

    assert [(row.position, row.fault) for row in check_batch(plans, rows, first_position=0).broken] == [(1, "read_at from the future")]


def test_nothing_is_known_after_it_was_received() -> None:
    """Where the time of receipt is known, a row that claims to be of later than that is broken, whatever its own two times say."""
    future = datetime(2099, 1, 1, tzinfo=UTC)
    rows = batch({}, {"read_at": future, "sent_at": future}, {"read_at": future, "sent_at": future}, {})
    received_at = pa.array([NOON, NOON, None, NOON - timedelta(microseconds=1)], pa.timestamp("us", tz="UTC"))
    checked = check_batch(READINGS, rows, first_position=0, received_at=received_at)

    assert [(row.position, row.fault) for row in checked.broken] == [(1, "sent_at from the future"), (3, "sent_at from the future")]


def test_a_row_with_several_faults_is_told_by_the_first_in_the_contracts_order() -> None:
    """One row is one broken row, whatever is wrong with it."""
    assert faults({"level": 99, "kind": "upstairs", "sensor": "abcde"}) == [(0, "sensor too long")]


def test_a_broken_row_keeps_its_values_as_json() -> None:
    """Where a source gives values and no bytes, the row's bytes are its values as JSON, with NaN and times readable."""
    (row,) = check_batch(READINGS, batch({"value": float("nan")}), first_position=0).broken

    found = json.loads(row.original)
    assert found["sensor"] == "a1"
    assert found["read_at"] == "2013-05-01T12:00:00+00:00"
    assert str(found["value"]) == "nan"


def test_times_that_python_cannot_hold_are_out_of_range() -> None:
    """Postgres' infinity comes as an instant outside of all calendars; it breaks the row and nothing else."""
    read_at = pa.array([2**62, int(NOON.timestamp()) * 1_000_000], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    rows = batch({}, {}).set_column(5, "read_at", read_at)

    checked = check_batch(READINGS, rows, first_position=0, day=DAY)

    assert [row.fault for row in checked.broken] == ["read_at out of range"]
    assert json.loads(checked.broken[0].original)["read_at"] == 2**62


def test_numbers_without_a_fraction_are_integers_and_others_are_not() -> None:
    """As in JSON Schema, 3.0 is an integer; 3.5, NaN and what exceeds 64 bits are of the wrong type."""
    levels = pa.array([3.0, 3.5, float("nan"), 1e300, None], pa.float64())
    rows = batch({}, {}, {}, {}, {}).set_column(2, "level", levels)

    checked = check_batch(READINGS, rows, first_position=0, day=DAY)

    assert [(row.position, row.fault) for row in checked.broken] == [(position, "level wrong type") for position in (1, 2, 3)]
    assert checked.good.column("level").to_pylist() == [3, None]


def test_smaller_types_of_a_source_are_widened() -> None:
    """Columns of 32 bits and times of another unit become the contract's types."""
    rows = batch({}).set_column(2, "level", pa.array([3], pa.int32())).set_column(3, "value", pa.array([7], pa.int16()))
    rows = rows.set_column(5, "read_at", pa.array([NOON], pa.timestamp("s", tz="Europe/Zurich")))

    checked = check_batch(READINGS, rows, first_position=0, day=DAY)

    assert checked.good.schema == arrow_schema(READINGS)
    assert checked.good.to_pylist() == [FINE | {"value": 7.0}]


def test_fields_that_the_contract_does_not_know_are_left_out() -> None:
    """An additive change of the source passes, and what came is reported."""
    rows = batch({}).append_column("colour", pa.array(["red"]))

    checked = check_batch(READINGS, rows, first_position=0)

    assert "colour" not in checked.good.schema.names
    assert "colour" in checked.fields


def test_an_empty_batch_has_nothing_to_find() -> None:
    """No rows, no faults, and still the contract's schema."""
    checked = check_batch(READINGS, batch(), first_position=0, day=DAY)

    assert checked.good.num_rows == 0
    assert checked.good.schema == arrow_schema(READINGS)


def _keeps(row: dict[str, Any]) -> bool:
    """The contract again, one value at a time."""
    level, value = row["level"], row["value"]
    return (
        row["sensor"] is not None
        and len(row["sensor"]) <= 4
        and row["kind"] in {None, "indoor", "outdoor"}
        and (level is None or 0 <= level <= 10)
        and (value is None or -1.5 <= value < float("inf"))
        and row["read_at"].date() == DAY
        and -READINGS.earliness <= row["sent_at"] - row["read_at"] <= READINGS.lateness
    )


instants = st.datetimes(datetime(2013, 4, 30, 22), datetime(2013, 5, 2, 2), timezones=st.just(UTC))  # noqa: DTZ001 (the zone is drawn)
rows_of_any_kind = st.fixed_dictionaries(
    {
        "sensor": st.none() | st.text("aé鸟", max_size=6),
        "kind": st.none() | st.sampled_from(["indoor", "outdoor", "", "upstairs"]),
        "level": st.none() | st.integers(-3, 13),
        "value": st.none() | st.floats(),
        "is_valid": st.none() | st.booleans(),
        "read_at": instants,
        "sent_at": instants,
    }
)


@given(rows=st.lists(rows_of_any_kind, max_size=30))
def test_whole_columns_are_checked_as_single_values_would_be(rows: list[dict[str, Any]]) -> None:
    """The check over columns agrees with the contract read value by value, for any mixture of good and broken rows."""
    checked = check_batch(READINGS, batch(*rows), first_position=0, day=DAY)

    kept = [index for index, row in enumerate(rows) if _keeps(row)]
    assert checked.positions.tolist() == kept
    assert checked.good.to_pylist() == [rows[index] for index in kept]
    assert [row.position for row in checked.broken] == [index for index in range(len(rows)) if index not in kept]


def test_a_source_known_and_happening_at_once_has_no_lateness() -> None:
    """Where both times are one field, only the day is asked about."""
    at_once = replace(READINGS, known_at="read_at", lateness=timedelta(0))

    assert not check_batch(at_once, batch({}), first_position=0, day=DAY).broken
