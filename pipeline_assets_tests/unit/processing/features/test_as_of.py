"""The as-of join: the newest row known at the time asked, row for row."""

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.as_of import as_of_join
from pipeline_assets.processing.features.timeline import Columns
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.spec.features import Latest
from pipeline_assets_tests.feature_tables import DAY, HOUR, MINUTE, NOON, asked, event_tables, events, request_tables, view_of
from pipeline_assets_tests.oracles import oracle_newest

COLUMNS = Columns(keys=("place",), asked_at="decision_at", event_at="event_at", known_at="known_at", order_by=("serial",))


@settings(max_examples=200, deadline=None)
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
