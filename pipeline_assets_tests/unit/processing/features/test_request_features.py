"""Facts of the request: clock and calendar of a time zone, codes of categories, plain values."""

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.request import request_features
from pipeline_assets.spec.features import Learned, RequestFeature, Transform

NEW_YORK = "America/New_York"
INSTANT = pa.timestamp("us", tz="UTC")
DECIDED_AT = datetime(2013, 1, 2, 12, tzinfo=UTC)


def feature(column: str, transform: Transform = "value", time_zone: str = "UTC", values: tuple[str, ...] | Learned = ()) -> RequestFeature:
    """A request feature named `f`."""
    return RequestFeature(name="f", column=column, description="", transform=transform, time_zone=time_zone, values=values)


def column_of(asked: RequestFeature, values: pa.Array) -> pa.Array:
    """The one column of one feature of a table of observations with that column."""
    decided = pa.array([DECIDED_AT] * len(values), INSTANT)
    table = request_features((asked,), pa.table({asked.column: values, "decision_at": decided}))
    assert table.column_names == ["request__f"]
    return table.column(0).combine_chunks()


@pytest.mark.parametrize(
    ("transform", "expected"),
    [("hour", [23, 1]), ("minute_of_day", [23 * 60 + 30, 60 + 30]), ("weekday", [6, 7]), ("day_of_year", [68, 69])],
)
def test_clock_and_calendar_are_those_of_the_time_zone(transform: Transform, expected: list[int]) -> None:
    """On either side of midnight in New York, in the night before its clocks change; Monday is 1, Sunday 7."""
    times = pa.array([datetime(2013, 3, 10, 4, 30, tzinfo=UTC), datetime(2013, 3, 10, 6, 30, tzinfo=UTC), None], INSTANT)
    found = column_of(feature("at", transform, NEW_YORK), times)

    assert found.to_pylist() == [*expected, None]
    assert found.type == pa.int64()


def test_the_clock_jumps_with_daylight_saving() -> None:
    """An hour apart, but two hours apart on the wall."""
    times = pa.array([datetime(2013, 3, 10, 6, 59, tzinfo=UTC), datetime(2013, 3, 10, 7, 59, tzinfo=UTC)], INSTANT)

    assert column_of(feature("at", "hour", NEW_YORK), times).to_pylist() == [1, 3]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_category_is_its_place_among_the_declared_values(kind: pa.DataType) -> None:
    """Codes count from 0 in the order of the declaration; what is not declared, and null, is null."""
    found = column_of(feature("c", values=("EWR", "JFK")), pa.array(["JFK", "EWR", "BOS", None], pa.string()).cast(kind))

    assert found.to_pylist() == [1, 0, None, None]
    assert found.type == pa.int64()


@pytest.mark.parametrize(
    ("values", "expected"),
    [(pa.array([3, None]), [3.0, None]), (pa.array([1.5, None]), [1.5, None]), (pa.array([True, False]), [1.0, 0.0])],
)
def test_a_plain_value_is_a_float(values: pa.Array, expected: list[float | None]) -> None:
    """Integers, floats and booleans become float64, so that the type does not depend on the data."""
    found = column_of(feature("v"), values)

    assert found.to_pylist() == expected
    assert found.type == pa.float64()


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (pa.array([DECIDED_AT - timedelta(minutes=1), DECIDED_AT + timedelta(microseconds=1), None], INSTANT), [60.0, -1e-6, None]),
        (pa.array([date(2013, 1, 2), date(2013, 1, 3), None]), [43_200.0, -43_200.0, None]),
    ],
)
def test_a_time_is_the_seconds_from_it_to_the_decision(values: pa.Array, seconds: list[float | None]) -> None:
    """Positive before the decision, negative after it; a date counts from its first instant in UTC."""
    found = column_of(feature("t"), values)

    assert found.to_pylist() == seconds
    assert found.type == pa.float64()


def test_a_learned_category_is_the_text_itself() -> None:
    """Training chooses the categories, so nothing is dropped before it."""
    found = column_of(feature("c", values=Learned()), pa.array(["JFK", None, ""]).dictionary_encode())

    assert found.to_pylist() == ["JFK", None, ""]
    assert found.type == pa.string()


def test_no_rows_give_no_rows() -> None:
    """An empty table of observations gives empty columns of the right types."""
    table = pa.table({"decision_at": pa.array([], INSTANT), "at": pa.array([], INSTANT), "v": pa.array([], pa.int64())})
    asked = (
        RequestFeature(name="hour", column="at", description="", transform="hour"),
        RequestFeature(name="v", column="v", description=""),
    )

    assert request_features(asked, table).schema == pa.schema({"request__hour": pa.int64(), "request__v": pa.float64()})


@pytest.mark.parametrize(
    ("asked", "values", "problem"),
    [
        (feature("v"), pa.array(["1"]), "has string in column 'v', expected integer, number or boolean"),
        (feature("v"), pa.array([math.inf]), "has 1 NaN or infinite values in column 'v'"),
        (feature("v", values=("a",)), pa.array([1]), "has int64 in column 'v', expected string"),
        (feature("v", "hour"), pa.array([datetime(2013, 1, 1)]), "has timestamp"),  # noqa: DTZ001 - naive on purpose
        (feature("v", "hour"), pa.array([1]), "has int64 in column 'v', expected timestamp"),
    ],
)
def test_an_observation_that_is_not_as_declared_is_refused_by_name(asked: RequestFeature, values: pa.Array, problem: str) -> None:
    """Text for a number, a number for a category, a naive time: an error that names the column."""
    with pytest.raises(TableMismatch) as caught:
        column_of(asked, values)

    assert f"Table 'observations' {problem}" in str(caught.value)


def test_a_missing_column_is_named() -> None:
    """The error says which column the observations lack."""
    with pytest.raises(TableMismatch, match="Table 'observations' lacks column 'gate'"):
        request_features((feature("gate"),), pa.table({"v": [1], "decision_at": [DECIDED_AT]}))


@pytest.mark.parametrize(
    ("values", "default", "column", "expected"),
    [
        ((), 5, pa.array([1, None], pa.int64()), [1.0, 5.0]),
        ((), 2.5, pa.array([1.0, None]), [1.0, 2.5]),
        ((), True, pa.array([False, None]), [0.0, 1.0]),
        ((), 5, pa.nulls(2), [5.0, 5.0]),
        (("EWR", "JFK"), "JFK", pa.array(["EWR", None]), [0, 1]),
        (("EWR", "JFK"), "JFK", pa.array(["BOS", None]), [None, 1]),
        (Learned(), "JFK", pa.array(["BOS", None]), ["BOS", "JFK"]),
    ],
)
def test_a_default_is_taken_for_null_and_for_a_column_that_is_missing(
    values: tuple[str, ...] | Learned, default: float | str, column: pa.Array, expected: list[object]
) -> None:
    """It is a value of the column, which becomes the feature as any other; a category that is not listed stays null."""
    asked = replace(feature("c", values=values), default=default)
    decided = pa.table({"decision_at": pa.array([DECIDED_AT] * 2, INSTANT)})

    assert column_of(asked, column).to_pylist() == expected
    assert request_features((asked,), decided)["request__f"].to_pylist() == [expected[1]] * 2
