"""Tables of events and requests, and views over them, for the tests of the features."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from pipeline_assets.core.aggregates import AGGREGATES
from pipeline_assets.processing.features.materialize import identity
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.spec.features import Aggregate, CleanedTable, Entity, FeatureView, Latest, Learned, Windowed

NOON = datetime(2013, 5, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
INSTANT = pa.timestamp("us", tz="UTC")
EVENTS = pa.schema(
    {
        "place": pa.string(),
        "gate": pa.int64(),
        "event_at": INSTANT,
        "known_at": INSTANT,
        "superseded_at": INSTANT,
        "amount": pa.float64(),
        "pieces": pa.int64(),
        "is_late": pa.bool_(),
        "color": pa.string(),
        "built_on": pa.date32(),
        "promised_at": INSTANT,
        "serial": pa.int64(),
    }
)
REQUESTS = pa.schema({"place": pa.string(), "gate": pa.int64(), "decision_at": INSTANT})
OTHERS = ("color", "built_on", "promised_at")
COLORS = ("red", "green")
LATEST = (
    Latest(name="newest", column="amount"),
    Latest(name="fresh", column="pieces", ttl=HOUR),
    Latest(name="was_late", column="is_late"),
    Latest(name="color", column="color", values=COLORS),
    Latest(name="any_color", column="color", values=Learned(), ttl=DAY),
    Latest(name="age", column="built_on"),
    Latest(name="since_promised", column="promised_at"),
)
WINDOWS = (5 * MINUTE, 7 * MINUTE, HOUR, 13 * HOUR, 11 * DAY)


def events(*rows: dict[str, Any]) -> pa.Table:
    """Events at place `a`; `known_at` is `event_at` where it is not given."""
    return pa.Table.from_pylist([{"place": "a", "known_at": row.get("event_at"), **row} for row in rows], schema=EVENTS)


def asked(*at: datetime, place: str | None = "a") -> pa.Table:
    """Requests for one place."""
    return pa.Table.from_pylist([{"place": place, "decision_at": one} for one in at], schema=REQUESTS)


def view_of(
    *features: Windowed | Latest, keys: tuple[str, ...] = ("place",), known_at: str = "known_at", superseded_at: str | None = None
) -> FeatureView:
    """A view over the events, named `v`."""
    return FeatureView(
        name="v",
        entity=Entity(name="place", keys=keys, description="A place."),
        source=CleanedTable(name="events", event_at="event_at", known_at=known_at, order_by=("serial",), superseded_at=superseded_at),
        features=features,
        owner="team:test",
        description="What happened at the place.",
        freshness=HOUR,
    )


def windowed(aggregate: Aggregate, column: str | None, *windows: timedelta, hop: timedelta | None = None) -> Windowed:
    """A windowed feature, named after its aggregate."""
    return Windowed(name=aggregate, aggregate=aggregate, column=column, windows=windows or (HOUR,), hop=hop)


def every_aggregate(windows: Sequence[timedelta], hop: timedelta | None) -> tuple[Windowed | Latest, ...]:
    """Each aggregate over each column that it can be had of, and latest values of every kind, with and without an age."""
    columns = {"amount": "amount", "pieces": "pieces", "is_late": "is_late"}
    of_columns = [
        Windowed(name=f"{aggregate}_{column}", aggregate=aggregate, column=column, windows=tuple(windows), hop=hop)
        for aggregate in AGGREGATES
        for column in columns
        if aggregate != "rate" or column == "is_late"
    ]
    of_rows = [windowed("count", None, *windows, hop=hop), windowed("time_since_last", None, *windows, hop=hop)]
    others = [Windowed(name=f"count_{column}", aggregate="count", column=column, windows=tuple(windows), hop=hop) for column in OTHERS]
    return (*of_columns, *of_rows, *others, *LATEST)


def _moments() -> st.SearchStrategy[datetime]:
    """Times that often meet each other and the edges of windows, around a day's noon and around the beginning of the epoch."""
    ticks = st.integers(-40, 40).map(lambda tick: tick * 5 * MINUTE)
    days = st.integers(-12, 12).map(lambda day: day * DAY)
    nudge = st.sampled_from([timedelta(0), timedelta(0), timedelta(microseconds=1), -timedelta(microseconds=1), 17 * MINUTE])
    return st.builds(
        lambda base, *offsets: base + sum(offsets, timedelta(0)),
        st.sampled_from([NOON, NOON, datetime(1970, 1, 1, tzinfo=UTC)]),
        st.one_of(ticks, days),
        nudge,
    )


def _amounts() -> st.SearchStrategy[float]:
    """Numbers whose float sums would depend on their order, next to plain ones."""
    wide = st.floats(1e-90, 1e90).flatmap(lambda value: st.sampled_from([value, -value]))
    return st.one_of(st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, -7.25, 1013.4, 1e16]), st.integers(-1000, 1000).map(float), wide)


@st.composite
def event_tables(draw: st.DrawFn, *, most: int = 30) -> pa.Table:
    """Events out of order, with ties, repeats, nulls, and rows known late or before they happened; some are superseded at any time."""
    lateness = st.sampled_from([timedelta(0), timedelta(0), MINUTE, HOUR, 2 * HOUR, 3 * DAY, 40 * DAY, -MINUTE])
    times = st.builds(lambda at, late: {"event_at": at, "known_at": at + late}, _moments(), lateness)
    values: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {
            "place": st.sampled_from(["a", "b", "é", None]),
            "gate": st.sampled_from([1, 2, None]),
            "amount": st.one_of(st.none(), _amounts()),
            "pieces": st.one_of(st.none(), st.integers(-5, 5), st.integers(-(2**62), 2**62)),
            "is_late": st.sampled_from([None, True, False]),
            "color": st.sampled_from([None, "red", "green", "blé", ""]),
            "built_on": st.sampled_from([None, date(1969, 7, 20), date(2013, 5, 1)]),
            "promised_at": st.one_of(st.none(), _moments()),
            "serial": st.one_of(st.none(), st.integers(0, 3)),
            "superseded_at": st.one_of(st.none(), _moments()),
        }
    )
    row = st.builds(lambda when, what: {**when, **what}, times, values)
    rows = draw(st.lists(row, max_size=most))
    repeats = draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    return pa.Table.from_pylist(rows + repeats, schema=EVENTS)


@st.composite
def request_tables(draw: st.DrawFn, *, most: int = 8) -> pa.Table:
    """Requests out of order, with repeats, null keys and keys without events."""
    row = st.fixed_dictionaries(
        {"place": st.sampled_from(["a", "b", "é", "nowhere", None]), "gate": st.sampled_from([1, 2, 3, None]), "decision_at": _moments()}
    )
    return pa.Table.from_pylist(draw(st.lists(row, max_size=most)), schema=REQUESTS)


@st.composite
def views(draw: st.DrawFn) -> FeatureView:
    """A view with every aggregate over two windows, of one key or two, of rows with one time or two."""
    spans = draw(st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=2, unique=True))
    hop = draw(st.sampled_from([None, None, MINUTE, 30 * MINUTE]))
    keys = draw(st.sampled_from([("place",), ("gate",), ("place", "gate")]))
    known_at, superseded_at = draw(st.sampled_from(["known_at", "known_at", "event_at"])), draw(st.sampled_from([None, "superseded_at"]))
    return view_of(*every_aggregate(spans, hop), keys=keys, known_at=known_at, superseded_at=superseded_at)


def view_table(view: FeatureView, requests: pa.Table, events: pa.Table) -> pa.Table:
    """The rows of a view's table: the keys and time of each request, and its features."""
    table, features = requests.select(identity(view)), view_features(view, requests, events)
    return pa.Table.from_arrays([*table.columns, *features.columns], names=[*table.column_names, *features.column_names])
