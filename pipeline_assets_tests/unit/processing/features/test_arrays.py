"""Features as arrays hold what the same features hold as a table, to the bit."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.errors import ValueUnfit
from pipeline_assets.model_lifecycle.training.contract import ModelFeature
from pipeline_assets.model_lifecycle.training.matrix import array_values, feature_values
from pipeline_assets.processing.features.arrays import Defaults, FeatureArrays, side_by_side
from pipeline_assets.processing.features.catalogue import FeatureColumn
from pipeline_assets.processing.features.defaults import with_defaults
from pipeline_assets.processing.features.request import request_arrays, request_features
from pipeline_assets.spec.features import Learned, RequestFeature

INSTANT = pa.timestamp("us", tz="UTC")
INTEGERS = st.none() | st.integers(-(2**63), 2**63 - 1)
FLOATS = st.none() | st.floats(-1e30, 1e30)
CODES = st.none() | st.integers(0, 2)
TEXTS = st.none() | st.sampled_from(["a", "b", "ü", "none of them"])
TIMES = st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - naive bounds are asked for


def column(name: str, dtype: str, default: float | str | None = None) -> FeatureColumn:
    """A feature of some view."""
    of = {"view": "v", "source": "s", "column": "c", "aggregate": "latest", "window": None, "description": ""}
    return FeatureColumn(name=name, dtype=dtype, default=default, **of)  # type: ignore[arg-type]


COLUMNS = [
    column("count", "int64"),
    column("mean", "float64"),
    column("code", "int64"),
    column("word", "string"),
    column("age", "float64", 2.5),
    column("rank", "int64", 7),
    column("tag", "string", "b"),
]
FEATURES = [
    ModelFeature(name="word", type="text", categories=("a", "ü")),
    ModelFeature(name="mean", type="number"),
    ModelFeature(name="code", type="category", categories=("x", "y", "z")),
    ModelFeature(name="count", type="integer"),
]


def table_of(columns: list[FeatureColumn], rows: list[tuple[object, ...]]) -> pa.Table:
    """Rows as a table."""
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    arrays = [pa.array(list(one), pa.type_for_alias(of.dtype)) for one, of in zip(values, columns, strict=True)]
    return pa.table(arrays, names=[one.name for one in columns])


TABLES = st.lists(st.tuples(INTEGERS, FLOATS, CODES, TEXTS, FLOATS, INTEGERS, TEXTS), max_size=6).map(lambda rows: table_of(COLUMNS, rows))


@given(TABLES, st.data())
def test_a_table_and_its_arrays_are_the_same(table: pa.Table, data: st.DataObject) -> None:
    """Back as a table, as rows, in parts and side by side."""
    arrays = FeatureArrays.of_table(table)
    first = data.draw(st.integers(0, table.num_rows))
    rows = data.draw(st.integers(0, table.num_rows - first))
    other = table.rename_columns([f"other_{name}" for name in table.column_names])
    joined = side_by_side([arrays, FeatureArrays.of_table(other)])

    assert arrays.table().equals(table)
    assert arrays.rows() == table.to_pylist()
    assert arrays.part(first, rows).table().equals(table.slice(first, rows))
    assert joined.rows() == [one | two for one, two in zip(table.to_pylist(), other.to_pylist(), strict=True)]


@given(TABLES)
def test_defaults_are_the_same(table: pa.Table) -> None:
    """Numbers of both kinds and text."""
    filled = Defaults(COLUMNS).fill(FeatureArrays.of_table(table))

    assert filled.table().equals(with_defaults(COLUMNS, table))


@given(TABLES)
def test_a_model_gets_the_same_numbers(table: pa.Table) -> None:
    """Of integers, floats, codes and learned texts, in another order than the columns."""
    found = array_values(FeatureArrays.of_table(table), FEATURES)

    assert found.tobytes() == feature_values(table, FEATURES).tobytes()
    assert found.shape == (table.num_rows, len(FEATURES))


@pytest.mark.parametrize(("code", "mean"), [(3, 1.0), (-1, 1.0), (1, 1e39), (1, np.inf), (1, np.nan)])
def test_what_a_model_cannot_take_is_refused_the_same(code: int, mean: float) -> None:
    """A code beyond the categories, a number beyond 32-bit floats or none: with the words of a table."""
    table = table_of(COLUMNS, [(1, 0.5, 0, "a", 1.0, 1, "b"), (1, mean, code, "a", 1.0, 1, "b")])
    with pytest.raises(ValueUnfit) as of_arrays:
        array_values(FeatureArrays.of_table(table), FEATURES)
    with pytest.raises(ValueUnfit) as of_table:
        feature_values(table, FEATURES)

    assert str(of_arrays.value) == str(of_table.value)


REQUEST = tuple(
    RequestFeature(name=name, column=column_, description="", **how)  # type: ignore[arg-type]
    for name, column_, how in [
        ("hour", "at", {"transform": "hour", "time_zone": "America/New_York"}),
        ("day", "at", {"transform": "day_of_year", "time_zone": "Asia/Kathmandu"}),
        ("minute", "until", {"transform": "minute_of_day", "time_zone": "Australia/Lord_Howe"}),
        ("weekday", "until", {"transform": "weekday", "time_zone": "UTC"}),
        ("amount", "amount", {}),
        ("pieces", "pieces", {"default": 4.0}),
        ("origin", "word", {"values": ("ü", "a")}),
        ("word", "word", {"values": Learned(most=3)}),
        ("since", "at", {}),
    ]
)


@given(st.lists(st.tuples(TIMES, TIMES, FLOATS, INTEGERS, TEXTS), max_size=5))
def test_features_of_the_request_are_the_same(rows: list[tuple[object, ...]]) -> None:
    """Clocks of several zones, plain values, listed and learned categories, moments, defaults."""
    kinds = {"at": INSTANT, "until": INSTANT, "amount": pa.float64(), "pieces": pa.int64(), "word": pa.string()}
    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    asked = {name: pa.array(list(values), kind) for (name, kind), values in zip(kinds.items(), columns, strict=True)}
    observations = pa.table({**asked, "decision_at": pa.array([datetime(2013, 1, 2, tzinfo=UTC)] * len(rows), INSTANT)})

    assert request_arrays(REQUEST, observations).table().equals(request_features(REQUEST, observations))
