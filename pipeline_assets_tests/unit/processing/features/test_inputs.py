"""What the rows of a day were made from: a digest that follows the view and its events, and nothing else."""

from dataclasses import replace
from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_assets.processing.features.inputs import digests, first_event_day
from pipeline_assets.spec.features import FeatureView, Latest
from pipeline_assets_tests.feature_tables import DAY, EVENTS, HOUR, MINUTE, NOON, event_tables, events, view_of, windowed

TODAY = NOON.date()
YESTERDAY, TOMORROW = TODAY - DAY, TODAY + DAY
VIEW = view_of(windowed("sum", "amount", 3 * HOUR), Latest(name="color", column="color", values=("red",), ttl=HOUR))
READ = ["place", "event_at", "known_at", "amount", "color", "serial"]


def digest(table: pa.Table, view: FeatureView = VIEW, day: date = TODAY) -> str:
    """The digest of one day alone."""
    return digests(view, table.select(READ), [day])[day]


@settings(max_examples=60, deadline=None)
@given(table=event_tables(), data=st.data())
def test_the_order_of_events_makes_no_difference(table: pa.Table, data: st.DataObject) -> None:
    """The same events in another order, and other days asked for beside, give the same digest of a day."""
    order = data.draw(st.permutations(range(table.num_rows)))
    shuffled = table.take(pa.array(order, pa.int64()))

    assert digest(shuffled) == digest(table)
    assert digests(VIEW, table.select(READ), [YESTERDAY, TODAY, TOMORROW])[TODAY] == digest(table)


@settings(max_examples=60, deadline=None)
@given(table=event_tables(), position=st.integers(0, 10_000))
def test_events_that_the_day_can_see_make_a_difference(table: pa.Table, position: int) -> None:
    """Without one of the events the digest is another one, if the event is of a day that the view looks back to."""
    if table.num_rows == 0:
        return
    gone = position % table.num_rows
    without = pa.concat_tables([table.slice(0, gone), table.slice(gone + 1)])
    happened = table["event_at"][gone].as_py().date()
    first = first_event_day(VIEW, TODAY)
    assert first is not None

    assert (digest(without) != digest(table)) == (first <= happened <= TODAY)


@pytest.mark.parametrize("changed", [{"amount": 2.0}, {"amount": None}, {"color": "green"}, {"known_at": NOON + MINUTE}, {"serial": 1}])
def test_every_column_that_is_read_makes_a_difference(changed: dict[str, object]) -> None:
    """A correction of a value, a category, a time or a tie-breaker is another input."""
    row = {"event_at": NOON, "amount": 1.0, "color": "red", "serial": 0}

    assert digest(events(row | changed)) != digest(events(row))


@pytest.mark.parametrize(
    "changed",
    [
        replace(VIEW, features=VIEW.features[:1]),
        replace(VIEW, source=replace(VIEW.source, known_at="event_at")),
        replace(VIEW, name="w"),
    ],
)
def test_the_declaration_makes_a_difference(changed: FeatureView) -> None:
    """Rows of an older definition are never kept, though the events are the same."""
    table = events({"event_at": NOON, "amount": 1.0})

    assert digest(table, changed) != digest(table)


def test_words_make_no_difference() -> None:
    """Another owner or description computes nothing anew."""
    table = events({"event_at": NOON, "amount": 1.0})

    assert digest(table, replace(VIEW, owner="team:other", description="Other words.")) == digest(table)


def test_a_view_without_a_limit_sees_all_that_happened() -> None:
    """A latest value that never gets too old depends on events of any day before."""
    view = view_of(Latest(name="color", column="color", values=("red",)))
    old = events({"event_at": NOON - 4000 * DAY, "color": "red"})

    assert first_event_day(view, TODAY) is None
    assert digest(old, view) != digest(pa.Table.from_pylist([], schema=EVENTS), view)


def test_the_first_event_day_is_that_of_the_oldest_event_that_counts() -> None:
    """Three hours and a tile before midnight is the day before; a day and more is the day before that."""
    assert first_event_day(VIEW, TODAY) == YESTERDAY
    assert first_event_day(view_of(windowed("count", None, DAY)), TODAY) == TODAY - timedelta(days=2)
