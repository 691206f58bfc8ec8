"""Vectors: every observation once, with the features of all views, as the kernel itself would have answered."""

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.errors import FeaturesMissing, TableMismatch
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.model_lifecycle.feature_store.join import join_view
from pipeline_assets.model_lifecycle.feature_store.offline import build_vectors, feature_names, outside_range
from pipeline_assets.processing.features.materialize import requests_of
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.spec.features import Latest, Learned, RequestFeature
from pipeline_assets.spec.models import Observations
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.feature_tables import COLORS, HOUR, INSTANT, MINUTE, NOON, REQUESTS, events, view_of, view_table, windowed

ASKED = Observations(table="decisions", keys=("decision_id", "part"), decision_at="decision_at", event_at="decision_at")
VIEW = view_of(
    windowed("count", None),
    windowed("mean", "amount"),
    Latest(name="serial", column="serial"),
    windowed("last", "pieces"),
    Latest(name="color", column="color", values=COLORS),
    Latest(name="any_color", column="color", values=Learned()),
    keys=("place", "gate"),
)
MODEL = replace(flight_delay, observations=ASKED, views=(VIEW,), request_features=(), slices=("place",))
EVENTS = events(
    {"gate": 1, "event_at": NOON, "amount": 1.5, "pieces": 1, "serial": 1, "color": "red"},
    {"gate": 1, "event_at": NOON + 30 * MINUTE, "amount": None, "pieces": 2, "serial": 2},
    {"gate": 2, "event_at": NOON + 45 * MINUTE, "amount": 4.0, "pieces": None, "serial": 3, "color": "blue"},
    {"gate": 2, "event_at": NOON + 2 * HOUR, "amount": 8.0, "pieces": 3, "serial": 4, "place": "b"},
)
DECISIONS = st.lists(
    st.fixed_dictionaries(
        {
            "place": st.sampled_from(["a", "b", "c", None]),
            "gate": st.sampled_from([1, 2, None]),
            "decision_at": st.sampled_from([NOON + step * 20 * MINUTE for step in range(12)]),
        }
    ),
    min_size=1,
    max_size=30,
)


def decisions(rows: list[dict[str, object]]) -> pa.Table:
    """Observations of these keys and times, identified by text and a number; every third repeats the key of the one before."""
    places = [position - (position % 3 == 2) for position in range(len(rows))]
    keyed = [{**row, "decision_id": f"d{place % 4}", "part": place} for place, row in zip(places, rows, strict=True)]
    return pa.Table.from_pylist(keyed, schema=pa.schema([*REQUESTS, ("decision_id", pa.string()), ("part", pa.int64())]))


def feature_table(observations: pa.Table) -> pa.Table:
    """The view's table in the lake for these observations."""
    return view_table(VIEW, requests_of(VIEW, [(ASKED, observations)]), EVENTS)


@given(DECISIONS)
def test_a_join_gives_what_the_kernel_would_have_given(rows: list[dict[str, object]]) -> None:
    """Row for row and in order, repeats and null keys included, the joined features are those the kernel computes for the row itself."""
    asked = decisions(rows)

    assert join_view(VIEW, asked, feature_table(asked)).to_pylist() == view_features(VIEW, asked, EVENTS).to_pylist()


@given(DECISIONS)
def test_vectors_have_one_row_per_observation_in_one_order(rows: list[dict[str, object]]) -> None:
    """As many rows as observations, sorted by time and key whatever the order they came in, with slices, features and their hash."""
    asked = decisions(rows)
    built = build_vectors(MODEL, asked, {VIEW.name: feature_table(asked)})
    backwards = build_vectors(MODEL, asked.take(pa.array(range(len(rows)))[::-1]), {VIEW.name: feature_table(asked)})
    order = [(row["decision_at"], row["decision_id"], row["part"]) for row in built.to_pylist()]

    assert order == sorted((row["decision_at"], row["decision_id"], row["part"]) for row in asked.to_pylist())
    assert built.column_names == ["decision_id", "part", "decision_at", "place", *feature_names(MODEL), FEATURE_HASH]
    assert built[FEATURE_HASH].to_pylist() == feature_hashes(built, feature_names(MODEL)).to_pylist()
    assert sorted(map(str, backwards.to_pylist())) == sorted(map(str, built.to_pylist()))


@given(DECISIONS)
def test_the_time_of_a_decision_may_have_any_name(rows: list[dict[str, object]]) -> None:
    """Where the observations call it something else, and use the name `decision_at` for another time, the vectors are the same."""
    asked = decisions(rows)
    renamed = asked.rename_columns({"decision_at": "decided"}).append_column("decision_at", asked["decision_at"].take([0] * len(rows)))
    observations = replace(ASKED, decision_at="decided", event_at="decided")
    fact = (RequestFeature(name="waited", column="decided", description=""),)
    model = replace(MODEL, observations=observations, request_features=fact)
    features = view_table(VIEW, requests_of(VIEW, [(observations, renamed)]), EVENTS)
    built = build_vectors(model, renamed, {VIEW.name: features})
    plain = build_vectors(MODEL, asked, {VIEW.name: feature_table(asked)})

    assert built.drop_columns(["decided", "request__waited", FEATURE_HASH]).equals(plain.drop_columns(["decision_at", FEATURE_HASH]))
    assert set(built["request__waited"].to_pylist()) == {0.0}


@pytest.mark.parametrize(
    ("ahead", "behind", "minutes", "outside"),
    [
        (HOUR, 0 * HOUR, [-60, -30, 0], 0),
        (HOUR, 0 * HOUR, [-61, 1], 2),
        (0 * HOUR, HOUR, [0, 60, 61, None], 2),
        (0 * HOUR, 0 * HOUR, [0], 0),
    ],
)
def test_decisions_outside_of_the_declared_range_are_counted(
    ahead: timedelta, behind: timedelta, minutes: list[int | None], outside: int
) -> None:
    """From `ahead` before the event to `behind` after it, bounds included; an observation without a time of its event is outside."""
    observations = replace(ASKED, event_at="happened_at", ahead=ahead, behind=behind)
    times = {
        "decision_at": [NOON + (minute or 0) * MINUTE for minute in minutes],
        "happened_at": [None if minute is None else NOON for minute in minutes],
    }
    rows = pa.table({name: pa.array(values, INSTANT) for name, values in times.items()})

    assert outside_range(observations, rows) == outside


def test_a_model_may_have_facts_of_the_request_alone() -> None:
    """Without a view a vector has the keys, the slices and what the request itself has."""
    model = replace(MODEL, views=(), request_features=(RequestFeature(name="gate", column="gate", description=""),))
    built = build_vectors(model, decisions([{"place": "a", "gate": 2, "decision_at": NOON}]), {})

    assert built.drop_columns([FEATURE_HASH]).to_pylist() == [
        {"decision_id": "d0", "part": 0, "decision_at": NOON, "place": "a", "request__gate": 2.0}
    ]


def test_request_features_come_last_in_the_order_of_the_model() -> None:
    """The columns of a vector are those of the model: its views', then those of the request."""
    names = feature_names(flight_delay)

    assert len(names) == len(set(names)) >= 40
    assert [name for name in names if name.startswith("request__")] == names[-len(flight_delay.request_features) :]


def test_an_observation_without_features_is_an_error() -> None:
    """A day whose feature table was not materialized does not become a row of nulls."""
    asked = decisions([{"place": "a", "gate": 1, "decision_at": NOON}, {"place": "a", "gate": 2, "decision_at": NOON + timedelta(days=1)}])
    with pytest.raises(FeaturesMissing, match="no row for 1 of the observations, the first of 2013-05-02"):
        join_view(VIEW, asked, feature_table(asked.slice(0, 1)))


def test_a_doubled_feature_row_is_an_error() -> None:
    """Two rows for one key and time would double an observation."""
    asked = decisions([{"place": "a", "gate": 1, "decision_at": NOON}])
    doubled = pa.concat_tables([feature_table(asked)] * 2)
    with pytest.raises(TableMismatch, match=r"holds a row of \(place, gate, decision_at\) more than once"):
        join_view(VIEW, asked, doubled)


def test_a_feature_that_the_table_lacks_is_named() -> None:
    """A feature added since the table was written is missed by name."""
    asked = decisions([{"place": "a", "gate": 1, "decision_at": NOON}])
    with pytest.raises(TableMismatch, match="lacks v__mean_1h"):
        join_view(VIEW, asked, feature_table(asked).drop_columns(["v__mean_1h"]))
