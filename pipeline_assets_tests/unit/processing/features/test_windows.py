"""Windows: what they cover, what they give for it, and that a brute-force oracle finds the same to the last bit."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.hops import hop_of
from pipeline_assets.processing.features.view import bucket_features, feature_names, view_features
from pipeline_assets.spec.features import FeatureView, Windowed
from pipeline_assets_tests.feature_tables import (
    DAY,
    EVENTS,
    HOUR,
    MINUTE,
    NOON,
    OTHERS,
    REQUESTS,
    asked,
    event_tables,
    events,
    every_aggregate,
    request_tables,
    view_of,
    views,
    windowed,
)
from pipeline_assets_tests.oracles import oracle_features


def value(view: FeatureView, requests: pa.Table, history: pa.Table) -> float | int | str | None:
    """The one feature of one request."""
    (column,) = view_features(view, requests, history).columns
    found: list[float | int | str | None] = column.to_pylist()
    (answer,) = found
    return answer


def as_bytes(table: pa.Table) -> bytes:
    """The table as it would go over the wire."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@settings(max_examples=150)
@given(view=views(), requests=request_tables(), history=event_tables())
def test_features_equal_the_oracle_to_the_bit(view: FeatureView, requests: pa.Table, history: pa.Table) -> None:
    """Ties, late rows, repeats, nulls, disorder, unknown keys, window edges and empty tables: every value is the oracle's."""
    answer = view_features(view, requests, history)
    expected = oracle_features(view, requests, history)

    assert answer.column_names == list(feature_names(view))
    assert answer.num_rows == requests.num_rows
    assert {name: answer.column(name).to_pylist() for name in expected} == expected


@settings(max_examples=60)
@given(view=views(), requests=request_tables(), history=event_tables())
def test_buckets_and_parts_give_the_same_bytes(view: FeatureView, requests: pa.Table, history: pa.Table) -> None:
    """1, 16 or 200 buckets, and requests in parts of three: the bytes are the same."""
    whole = as_bytes(view_features(view, requests, history))

    assert as_bytes(view_features(view, requests, history, buckets=16)) == whole
    assert as_bytes(view_features(view, requests, history, buckets=200, requests_at_once=3)) == whole
    assert as_bytes(view_features(view, requests, history, requests_at_once=3)) == whole


def test_many_late_rows_equal_the_oracle() -> None:
    """Hundreds of rows of one key, most of them late by more than the window, in one table: the deep levels of the search are right."""
    random = np.random.default_rng(7)
    rows = [
        {
            "event_at": NOON + int(random.integers(0, 500)) * MINUTE,
            "known_at": NOON + int(random.integers(0, 900)) * MINUTE,
            "amount": float(random.normal()),
            "pieces": int(random.integers(-9, 9)),
            "is_late": bool(random.integers(0, 2)),
            "serial": serial,
        }
        for serial in range(500)
    ]
    view, history = view_of(*every_aggregate((HOUR, 7 * MINUTE), None)), events(*rows)
    requests = asked(*[NOON + int(random.integers(0, 900)) * MINUTE for _ in range(40)])
    expected = oracle_features(view, requests, history)
    answer = view_features(view, requests, history)

    assert {name: answer.column(name).to_pylist() for name in expected} == expected


def test_many_versions_equal_the_oracle() -> None:
    """Hundreds of rows of one key with up to four versions each, some moved, some deleted, some late: every aggregate is the oracle's."""
    random = np.random.default_rng(11)
    versions = []
    for serial in range(150):
        known = np.sort(random.integers(0, 900, size=random.integers(1, 5)))
        for version, minute in enumerate(known):
            is_last = version == len(known) - 1
            gone = (
                int(known[version + 1])
                if not is_last
                else int(minute) + int(random.integers(1, 400))
                if random.integers(0, 4) == 0
                else None
            )
            versions.append(
                {
                    "event_at": NOON + int(random.integers(0, 500)) * MINUTE,
                    "known_at": NOON + int(minute) * MINUTE,
                    "superseded_at": None if gone is None else NOON + gone * MINUTE,
                    "amount": float(random.normal()),
                    "pieces": int(random.integers(-9, 9)),
                    "is_late": bool(random.integers(0, 2)),
                    "serial": serial,
                }
            )
    view = view_of(*every_aggregate((HOUR, 7 * MINUTE, DAY), None), superseded_at="superseded_at")
    requests = asked(*[NOON + int(random.integers(0, 1400)) * MINUTE for _ in range(60)])
    expected = oracle_features(view, requests, events(*versions))
    answer = view_features(view, requests, events(*versions))

    assert {name: answer.column(name).to_pylist() for name in expected} == expected


@pytest.mark.parametrize(
    ("at", "total", "greatest", "newest"),
    [
        (NOON + 9 * MINUTE, 5.0, 3.0, 3.0),
        (NOON + 10 * MINUTE - timedelta(microseconds=1), 5.0, 3.0, 3.0),
        (NOON + 10 * MINUTE, 3.0, 2.0, 1.0),
        (NOON + 30 * MINUTE, 2.0, 2.0, 2.0),
    ],
)
def test_a_version_counts_until_the_next_is_known(at: datetime, total: float, greatest: float, newest: float) -> None:
    """A value of 3 is corrected to 1 after ten minutes and deleted after thirty; what is asked before is what was known then."""
    history = events(
        {"event_at": NOON - MINUTE, "amount": 2.0},
        {"event_at": NOON, "superseded_at": NOON + 10 * MINUTE, "amount": 3.0},
        {"event_at": NOON, "known_at": NOON + 10 * MINUTE, "superseded_at": NOON + 30 * MINUTE, "amount": 1.0},
    )
    view = view_of(windowed("sum", "amount"), windowed("max", "amount"), windowed("last", "amount"), superseded_at="superseded_at")

    assert [column.to_pylist() for column in view_features(view, asked(at), history).columns] == [[total], [greatest], [newest]]


def test_a_version_that_was_superseded_before_it_could_count_never_does() -> None:
    """A plan that is cancelled before its time, and a version known after the one that corrects it: neither is seen at any time."""
    cancelled = {"event_at": NOON + HOUR, "known_at": NOON, "superseded_at": NOON + MINUTE, "amount": 1.0}
    overtaken = {"event_at": NOON, "known_at": NOON + MINUTE, "superseded_at": NOON + MINUTE, "amount": 1.0}
    view = view_of(windowed("count", None), superseded_at="superseded_at")
    counts = view_features(view, asked(NOON + MINUTE, NOON + HOUR, NOON + 70 * MINUTE), events(cancelled, overtaken))

    assert counts.column(0).to_pylist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("happened", "counted"),
    [
        (NOON, 1),
        (NOON + timedelta(microseconds=1), 0),
        (NOON - HOUR, 1),
        (NOON - HOUR - timedelta(microseconds=1), 0),
    ],
)
def test_a_window_holds_both_its_ends(happened: datetime, counted: int) -> None:
    """An event at the moment asked counts, one at the window's start too, one a microsecond outside does not."""
    assert value(view_of(windowed("count", None)), asked(NOON), events({"event_at": happened})) == counted


def test_the_tail_of_a_window_is_a_whole_tile() -> None:
    """Asked at 12:04, an hour with tiles of five minutes begins at 11:00."""
    history = events({"event_at": NOON - HOUR}, {"event_at": NOON - HOUR - MINUTE})

    assert value(view_of(windowed("count", None)), asked(NOON + 4 * MINUTE), history) == 1
    assert value(view_of(windowed("count", None, hop=MINUTE)), asked(NOON + 4 * MINUTE), history) == 0


@pytest.mark.parametrize(
    ("window", "hop"),
    [(HOUR, 5 * MINUTE), (12 * HOUR, 5 * MINUTE), (13 * HOUR, HOUR), (10 * DAY, HOUR), (10 * DAY + HOUR, DAY), (28 * DAY, DAY)],
)
def test_the_hop_follows_from_the_window(window: timedelta, hop: timedelta) -> None:
    """Five minutes up to twelve hours, an hour up to ten days, a day beyond, unless it is declared."""
    assert hop_of(window) == hop
    assert hop_of(window, MINUTE) == MINUTE


def test_tiles_lie_on_the_epoch_before_it_too() -> None:
    """Times before 1970 are floored downwards, as times after it."""
    at = datetime(1969, 12, 31, 23, 3, tzinfo=UTC)
    history = events({"event_at": at - HOUR - 3 * MINUTE}, {"event_at": at - HOUR - 4 * MINUTE})

    assert value(view_of(windowed("count", None)), asked(at), history) == 1


def test_an_event_counts_from_when_it_is_known() -> None:
    """A row that happened in the window but was recorded after the moment asked is not seen; a microsecond later it is."""
    late = events({"event_at": NOON, "known_at": NOON + 10 * MINUTE, "amount": 1.0})
    view = view_of(windowed("sum", "amount"))

    assert value(view, asked(NOON + 10 * MINUTE - timedelta(microseconds=1)), late) is None
    assert value(view, asked(NOON + 10 * MINUTE), late) == 1.0


def test_requests_after_the_last_event_may_come_in_any_order() -> None:
    """Thirty requests that all know the same rows, an hour apart and out of order: each window is that of its own time."""
    history = events(*({"event_at": NOON - hours * HOUR, "known_at": NOON, "amount": float(hours)} for hours in range(20)))
    requests = asked(*(NOON + int(hours) * HOUR for hours in np.random.default_rng(3).permutation(30)))
    view = view_of(*every_aggregate((DAY,), None))
    answer = view_features(view, requests, history)

    assert {name: answer.column(name).to_pylist() for name in answer.column_names} == oracle_features(view, requests, history)


def test_an_event_known_before_it_happens_counts_when_it_happens() -> None:
    """An announcement is not an event."""
    early = events({"event_at": NOON, "known_at": NOON - DAY})

    assert value(view_of(windowed("count", None)), asked(NOON - MINUTE), early) == 0
    assert value(view_of(windowed("count", None)), asked(NOON), early) == 1


def test_an_event_known_after_its_window_never_counts() -> None:
    """A row recorded two hours late is outside the hour's window at every moment at which it is known."""
    late = events({"event_at": NOON, "known_at": NOON + 2 * HOUR, "amount": 1.0}, {"event_at": NOON, "amount": 5.0})
    view = view_of(windowed("count", None))

    assert value(view, asked(NOON + 30 * MINUTE), late) == 1
    assert value(view, asked(NOON + 2 * HOUR), late) == 0


def test_null_keys_match_nothing() -> None:
    """A request without a key counts no events and knows no value, although there are events without a key."""
    history = pa.Table.from_pylist([{"place": None, "event_at": NOON, "known_at": NOON, "amount": 1.0}], schema=EVENTS)
    view = view_of(windowed("count", None), windowed("sum", "amount"), windowed("last", "amount"))
    answer = view_features(view, asked(NOON, place=None), history)

    assert answer.to_pylist() == [{"v__count_1h": 0, "v__sum_1h": None, "v__last_1h": None}]


def test_null_values_are_not_counted() -> None:
    """Means are of what is known, and `last` is the newest value that is not null."""
    history = events({"event_at": NOON - MINUTE, "amount": 4.0}, {"event_at": NOON, "amount": None})
    view = view_of(
        windowed("count", "amount"), windowed("mean", "amount"), windowed("last", "amount"), windowed("time_since_last", "amount")
    )
    answer = view_features(view, asked(NOON), history)

    assert answer.to_pylist() == [{"v__count_1h": 1, "v__mean_1h": 4.0, "v__last_1h": 4.0, "v__time_since_last_1h": 60.0}]


def test_variance_is_of_the_sample_and_needs_two() -> None:
    """One value has no variance; two have that with n − 1."""
    one, two = events({"event_at": NOON, "pieces": 3}), events({"event_at": NOON, "pieces": 3}, {"event_at": NOON, "pieces": 5})

    assert value(view_of(windowed("variance", "pieces")), asked(NOON), one) is None
    assert value(view_of(windowed("variance", "pieces")), asked(NOON), two) == 2.0
    assert value(view_of(windowed("stddev", "pieces")), asked(NOON), two) == math.sqrt(2.0)


def test_equal_values_have_no_variance() -> None:
    """A value that no float holds exactly, a thousand times over, varies by exactly nothing."""
    history = events(*[{"event_at": NOON, "amount": 0.1}] * 1000)

    assert value(view_of(windowed("variance", "amount")), asked(NOON), history) == 0.0


def test_what_came_before_a_window_leaves_no_trace() -> None:
    """A sum does not depend on older events, however large: 1e17 the day before costs the last bits of nothing."""
    young = [{"event_at": NOON, "amount": amount} for amount in (0.1, 0.2, 0.3)]
    view = view_of(windowed("sum", "amount"), windowed("stddev", "amount"))
    alone = view_features(view, asked(NOON), events(*young))
    after = view_features(view, asked(NOON), events({"event_at": NOON - DAY, "amount": 1e17}, *young))

    assert after.equals(alone)
    assert alone.column("v__sum_1h").to_pylist() == [math.fsum([0.1, 0.2, 0.3])]


def test_sums_of_whole_numbers_are_exact_beyond_64_bits() -> None:
    """Large integers add up without overflow on the way."""
    history = events({"event_at": NOON, "pieces": 2**62}, {"event_at": NOON, "pieces": 2**62}, {"event_at": NOON, "pieces": 2**62})

    assert value(view_of(windowed("sum", "pieces")), asked(NOON), history) == float(3 * 2**62)


def test_values_of_any_kind_of_column_can_be_counted() -> None:
    """Texts, dates and times count where they are not null, whatever they are."""
    history = events({"event_at": NOON, "color": "red", "built_on": NOON.date()}, {"event_at": NOON, "promised_at": NOON})
    view = view_of(*(Windowed(name=column, aggregate="count", column=column, windows=(HOUR,)) for column in OTHERS))

    assert view_features(view, asked(NOON), history).to_pylist() == [{f"v__{column}_1h": 1 for column in OTHERS}]


def test_of_events_equal_in_both_times_the_last_by_order_wins() -> None:
    """Ties of `last` are broken by the columns of `order_by`, not by the position in the table."""
    history = events({"event_at": NOON, "amount": 9.0, "serial": 2}, {"event_at": NOON, "amount": 1.0, "serial": 1})

    assert value(view_of(windowed("last", "amount")), asked(NOON), history) == 9.0


def test_a_known_later_event_is_newer_than_its_twin() -> None:
    """Of two events of one moment the one that became known later is the newer one, once it is known."""
    history = events({"event_at": NOON, "known_at": NOON + MINUTE, "amount": 9.0}, {"event_at": NOON, "amount": 1.0})

    assert value(view_of(windowed("last", "amount")), asked(NOON), history) == 1.0
    assert value(view_of(windowed("last", "amount")), asked(NOON + MINUTE), history) == 9.0


def test_text_and_integer_keys_of_any_arrow_kind_match() -> None:
    """Dictionaries, large strings and small integers are keys like any other."""
    history = events({"event_at": NOON, "gate": 4, "amount": 1.0})
    history = history.set_column(0, "place", history.column("place").cast(pa.large_string()))
    history = history.set_column(1, "gate", history.column("gate").cast(pa.int16()))
    requests = pa.table({"place": pa.array(["a"]).dictionary_encode(), "gate": pa.array([4]), "decision_at": pa.array([NOON])})

    assert value(view_of(windowed("count", None), keys=("place", "gate")), requests, history) == 1


def test_times_across_all_of_history_fit() -> None:
    """Where keys times microseconds exceed 64 bits, marks count the times that occur instead; the answers are the same, of versions too."""
    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    places = [f"p{number}" for number in range(40)]
    times = [(first, None), (NOON, NOON + HOUR), (NOON, last), (last - DAY, last - HOUR), (last, None)]
    rows = [
        {"place": place, "event_at": at, "known_at": at, "superseded_at": gone, "amount": 1.0} for place in places for at, gone in times
    ]
    decided = [(place, at - number * DAY) for number, place in enumerate(places) for at in (last, NOON + 50 * DAY, last - MINUTE)]
    requests = pa.Table.from_pylist([{"place": place, "decision_at": at} for place, at in decided], schema=REQUESTS)
    view = view_of(
        windowed("count", None, 28 * DAY), windowed("last", "amount", DAY), windowed("max", "amount", HOUR), superseded_at="superseded_at"
    )
    history = pa.Table.from_pylist(rows, schema=EVENTS)
    answer = view_features(view, requests, history)

    assert {name: answer.column(name).to_pylist() for name in answer.column_names} == oracle_features(view, requests, history)


def replaced(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    """The table with another column of that name."""
    return table.set_column(table.column_names.index(column), column, values)


HISTORY = events({"event_at": NOON, "amount": 1.0, "is_late": True})
NAIVE = pa.array([NOON.replace(tzinfo=None)])
NULL_TIME = pa.array([None], pa.timestamp("us", "UTC"))


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        (HISTORY.drop_columns("amount"), "lacks column 'amount'"),
        (HISTORY.drop_columns("place"), "lacks column 'place'"),
        (HISTORY.append_column("amount", pa.array([2.0])), "has 2 columns 'amount'"),
        (replaced(HISTORY, "event_at", NAIVE), "has naive times in column 'event_at'"),
        (replaced(HISTORY, "known_at", NULL_TIME), "has 1 nulls in column 'known_at'"),
        (replaced(HISTORY, "event_at", pa.array([1])), "has int64 in column 'event_at', expected timestamp"),
        (
            replaced(HISTORY, "event_at", pa.array([1], pa.timestamp("ns", "UTC"))),
            "has times finer than a microsecond in column 'event_at'",
        ),
        (replaced(HISTORY, "amount", pa.array(["1"])), "has string in column 'amount', expected integer, number or boolean"),
        (replaced(HISTORY, "amount", pa.array([math.nan])), "has 1 NaN or infinite values in column 'amount'"),
        (replaced(HISTORY, "amount", pa.array([-math.inf])), "has 1 NaN or infinite values in column 'amount'"),
        (replaced(HISTORY, "amount", pa.array([2**64 - 1], pa.uint64())), "has integers beyond 64 bits in column 'amount'"),
        (replaced(HISTORY, "is_late", pa.array([1])), "has int64 in column 'is_late', expected boolean"),
        (replaced(HISTORY, "place", pa.array([1.5])), "has double in key column 'place', expected string or integer"),
        (replaced(HISTORY, "place", pa.array([1])), "has int64 in key column 'place', the requests have string"),
    ],
)
@pytest.mark.parametrize("buckets", [1, 16])
def test_a_table_that_is_not_as_declared_is_refused_by_name(history: pa.Table, problem: str, buckets: int) -> None:
    """Missing, doubled, naive, null or mistyped columns and values that are no numbers: an error that names column and table."""
    view = view_of(windowed("sum", "amount"), windowed("rate", "is_late"))
    with pytest.raises(TableMismatch) as caught:
        view_features(view, asked(NOON), history, buckets=buckets)

    assert f"Table 'events' {problem}" in str(caught.value)


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        (asked(NOON).drop_columns("decision_at"), "lacks column 'decision_at'"),
        (asked(NOON).drop_columns("place"), "lacks column 'place'"),
        (replaced(asked(NOON), "decision_at", NAIVE), "has naive times in column 'decision_at'"),
    ],
)
def test_requests_that_are_not_as_declared_are_refused_by_name(requests: pa.Table, problem: str) -> None:
    """Keys and an aware time are needed; the error names what is not there."""
    with pytest.raises(TableMismatch, match=problem):
        bucket_features(view_of(windowed("count", None)), requests, HISTORY)
