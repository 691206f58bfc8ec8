"""The as-of join: the newest row known at the time asked, row for row."""

from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.as_of import as_of_join
from pipeline_assets.processing.features.timeline import Columns
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.spec.features import Latest
from pipeline_assets_tests.feature_tables import DAY, HOUR, LATEST, MINUTE, NOON, asked, event_tables, events, request_tables, view_of
from pipeline_assets_tests.oracles import oracle_newest

COLUMNS = Columns(keys=("place",), asked_at="decision_at", event_at="event_at", known_at="known_at", order_by=("serial",))


@settings(max_examples=200)
@given(requests=request_tables(most=12), rows=event_tables())
@pytest.mark.parametrize("ttl", [None, HOUR])
def test_the_newest_known_row_is_the_oracles(ttl: timedelta | None, requests: pa.Table, rows: pa.Table) -> None:
    """Ties, late rows, repeats, nulls, disorder and unknown keys: the same row, column by column, as by looking at all rows."""
    values = ["amount", "pieces", "is_late", "place", "event_at"]
    answer = as_of_join(requests, rows, COLUMNS, values, ttl=ttl)
    newest = oracle_newest(view_of(), requests, rows, ttl)

    assert answer.num_rows == requests.num_rows
    assert answer.to_pylist() == [{value: None if row is None else row[value] for value in values} for row in newest]
    assert answer.schema == rows.select(values).schema


def test_rows_out_are_rows_in() -> None:
    """Requests keep their order and their repeats, whatever the order of the rows."""
    rows = events({"event_at": NOON, "pieces": 2}, {"event_at": NOON - HOUR, "pieces": 1})
    requests = asked(NOON, NOON - MINUTE, NOON, NOON - DAY)

    assert as_of_join(requests, rows, COLUMNS, ["pieces"]).column("pieces").to_pylist() == [2, 1, 2, None]


def test_a_null_in_the_newest_row_stays_null() -> None:
    """An older value never stands in for one that was taken back."""
    rows = events({"event_at": NOON - HOUR, "amount": 1.0}, {"event_at": NOON, "amount": None})

    assert as_of_join(asked(NOON), rows, COLUMNS, ["amount"]).column("amount").to_pylist() == [None]


@pytest.mark.parametrize(("age", "found"), [(HOUR, 1.0), (HOUR + timedelta(microseconds=1), None)])
def test_a_value_counts_up_to_its_age(age: timedelta, found: float | None) -> None:
    """At exactly the time to live a value still counts; a microsecond later it does not. Age is that of the event."""
    rows = events({"event_at": NOON - age, "known_at": NOON - MINUTE, "amount": 1.0})
    view = view_of(Latest(name="fresh", column="amount", ttl=HOUR))

    assert view_features(view, asked(NOON), rows).column("v__fresh").to_pylist() == [found]


def test_a_latest_value_is_taken_by_its_type() -> None:
    """Booleans are 0 or 1, a date or time the seconds since then (negative before it), listed text its place, learned text itself."""
    known = {"is_late": True, "color": "green", "built_on": date(2013, 4, 30), "promised_at": NOON + HOUR, "amount": 1.5, "pieces": 2}
    (row,) = view_features(view_of(*LATEST), asked(NOON), events({"event_at": NOON, **known})).to_pylist()

    assert row == {
        "v__newest": 1.5, "v__fresh": 2.0, "v__was_late": 1.0, "v__color": 1, "v__any_color": "green",
        "v__age": 36 * 3600.0, "v__since_promised": -3600.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("feature", "values", "problem"),
    [
        (Latest(name="f", column="amount", values=("a",)), pa.array([1.0]), "has double in column 'amount', expected string"),
        (Latest(name="f", column="color"), pa.array(["red"]), "has string in column 'color', expected integer, number or boolean"),
        (Latest(name="f", column="promised_at"), pa.array([NOON.replace(tzinfo=None)]), "has naive times in column 'promised_at'"),
        (
            Latest(name="f", column="promised_at"),
            pa.array([1], pa.timestamp("ns", "UTC")),
            "has times finer than a microsecond in column 'promised_at'",
        ),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(feature: Latest, values: pa.Array, problem: str) -> None:
    """Numbers for a category, text without one, naive and too fine times: an error that names table and column."""
    rows = events({"event_at": NOON})
    changed = rows.set_column(rows.column_names.index(feature.column), feature.column, values)
    with pytest.raises(TableMismatch) as caught:
        view_features(view_of(feature), asked(NOON), changed)

    assert f"Table 'events' {problem}" in str(caught.value)


def test_a_correction_of_an_older_moment_does_not_replace_a_newer_one() -> None:
    """Newest is by when it happened; what was recorded last counts among rows of one moment only."""
    rows = events({"event_at": NOON, "amount": 1.0}, {"event_at": NOON - HOUR, "known_at": NOON + MINUTE, "amount": 2.0})

    assert as_of_join(asked(NOON + HOUR), rows, COLUMNS, ["amount"]).column("amount").to_pylist() == [1.0]


def test_of_rows_equal_in_everything_the_last_in_the_table_wins() -> None:
    """Where times and `order_by` leave a tie, the position in the table decides."""
    rows = events({"event_at": NOON, "amount": 1.0, "serial": 1}, {"event_at": NOON, "amount": 2.0, "serial": 1})

    assert as_of_join(asked(NOON), rows, COLUMNS, ["amount"]).column("amount").to_pylist() == [2.0]


def test_columns_that_are_not_there_are_named() -> None:
    """A value column that the rows lack is an error with the name that the caller gave the rows."""
    with pytest.raises(TableMismatch, match="Table 'prices' lacks column 'price'"):
        as_of_join(asked(NOON), events({"event_at": NOON}), COLUMNS, ["price"], name="prices")
