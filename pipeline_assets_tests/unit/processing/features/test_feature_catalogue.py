"""The features of a model as columns: names, types, order, hash, lineage, and how far back they look."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.aggregates import AGGREGATES
from pipeline_assets.processing.features.catalogue import definition_hash, feature_columns, lookback, view_columns, view_hash
from pipeline_assets.processing.features.columns import DECISION_AT
from pipeline_assets.processing.features.keys import bucket_of
from pipeline_assets.processing.features.lineage import column_lineage
from pipeline_assets.processing.features.quality import judge
from pipeline_assets.processing.features.request import request_features
from pipeline_assets.processing.features.view import feature_names, view_features
from pipeline_assets.spec.features import FeatureView, Latest, Learned, RequestFeature
from pipeline_assets.spec.models import Model
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets.use_cases.nyc_flights.features import CARRIERS
from pipeline_assets_tests.feature_tables import (
    COLORS,
    DAY,
    EVENTS,
    HOUR,
    LATEST,
    NOON,
    REQUESTS,
    asked,
    events,
    every_aggregate,
    view_of,
    windowed,
)

HOW_TO = Path(__file__).resolve().parents[4] / "docs" / "how-to" / "add-a-feature.md"
MODEL = use_case.models[0]
VIEW = view_of(windowed("sum", "amount", HOUR, DAY), Latest(name="newest", column="pieces", ttl=HOUR))


def test_the_reference_model_has_more_than_forty_features() -> None:
    """Each column has its own name, a description, and the model's order: views first, then the request."""
    columns = feature_columns(MODEL)

    assert len({column.name for column in columns}) == len(columns) >= 40
    assert [c.name for c in columns][: -len(MODEL.request_features)] == [n for view in MODEL.views for n in feature_names(view)]
    assert all(column.description.endswith(".") for column in columns)


def test_the_description_of_a_code_says_what_it_stands_for() -> None:
    """A feature whose categories are listed names each with its code; one with none says nothing of codes."""
    listed = RequestFeature(name="origin", column="origin", description="Airport.", values=("EWR", "JFK"))
    plain = RequestFeature(name="miles", column="distance", description="Distance.")
    newest = replace(VIEW, features=(Latest(name="kind", column="kind", values=("a", "b")),))
    described = [column.description for column in feature_columns(replace(MODEL, views=(newest,), request_features=(listed, plain)))]

    assert [one.partition(" Codes: ")[2] for one in described] == ["0 a, 1 b.", "0 EWR, 1 JFK.", ""]


def test_declared_types_are_those_of_the_kernel() -> None:
    """What the catalogue says without looking at data is what the kernel gives, also of empty tables."""
    view = view_of(*every_aggregate((HOUR,), None))
    answer = view_features(view, pa.Table.from_pylist([], schema=REQUESTS), pa.Table.from_pylist([], schema=EVENTS))

    assert {field.name: str(field.type).replace("double", "float64") for field in answer.schema} == {
        column.name: column.dtype for column in view_columns(view)
    }


def test_the_how_to_lists_every_aggregate_as_it_is() -> None:
    """The table that users read has each aggregate once, with the columns that it takes and its value where nothing happened."""
    rows = [line.strip("|").split("|") for line in HOW_TO.read_text().splitlines() if line.startswith("| `")]
    documented = {name: (takes.strip(), empty.strip()) for names, takes, empty in rows for name in re.findall(r"`(\w+)`", names)}
    taken = {"count": "any, or none: all events", "time_since_last": "none"}
    expected = {
        name: (taken.get(name, ", ".join(kind.takes)), "null" if kind.empty is None else str(kind.empty))
        for name, kind in AGGREGATES.items()
    }

    assert documented == expected


def test_declared_types_are_those_of_request_features() -> None:
    """Clock, calendar and codes are integers, plain values are floats."""
    instant = pa.timestamp("us", "UTC")
    types = {"decision_at": instant, "scheduled_departure_at": instant, "distance_miles": pa.int64(), "planned_minutes": pa.int64()}
    observations = pa.schema(types | {"origin": pa.string(), "carrier": pa.string()}).empty_table()
    schema = request_features(MODEL.request_features, observations).schema

    assert {field.name: str(field.type).replace("double", "float64") for field in schema} == {
        column.name: column.dtype for column in feature_columns(MODEL) if column.view == "request"
    }


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (view_of(windowed("count", None, HOUR)), HOUR + timedelta(minutes=5)),
        (view_of(windowed("count", None, HOUR, 28 * DAY)), 29 * DAY),
        (view_of(windowed("count", None, HOUR), Latest(name="l", column="amount", ttl=2 * DAY)), 2 * DAY),
        (view_of(windowed("count", None, HOUR), Latest(name="l", column="amount")), None),
    ],
)
def test_a_view_looks_back_over_its_longest_window_and_a_tile(view: FeatureView, expected: timedelta | None) -> None:
    """The longest window with its hop, or the longest age; without a limit where a latest value never gets old."""
    assert lookback(view) == expected


def test_events_before_the_lookback_make_no_difference() -> None:
    """What the lookback leaves out, no feature sees."""
    reach = lookback(VIEW)
    assert reach is not None
    history = events({"event_at": NOON - reach, "amount": 1.0, "pieces": 1}, {"event_at": NOON - reach - HOUR, "amount": 2.0, "pieces": 2})

    assert view_features(VIEW, asked(NOON), history).equals(view_features(VIEW, asked(NOON), history.slice(0, 1)))


@pytest.mark.parametrize(
    "changed",
    [
        replace(VIEW, features=VIEW.features[::-1]),
        replace(VIEW, features=(windowed("mean", "amount", HOUR, DAY), *VIEW.features[1:])),
        replace(VIEW, features=(windowed("sum", "amount", HOUR, DAY, hop=HOUR), *VIEW.features[1:])),
        replace(VIEW, features=(*VIEW.features[:1], Latest(name="newest", column="pieces"))),
        replace(VIEW, source=replace(VIEW.source, known_at="event_at")),
        replace(VIEW, source=replace(VIEW.source, superseded_at="superseded_at")),
    ],
)
def test_the_hash_follows_everything_that_values_depend_on(changed: FeatureView) -> None:
    """Order, aggregate, tile, age and times change the hash of the view and of the model."""
    model = replace(MODEL, views=(VIEW,))

    assert view_hash(changed) != view_hash(VIEW)
    assert definition_hash(replace(model, views=(changed,))) != definition_hash(model)


def test_the_hash_does_not_follow_words() -> None:
    """Another owner or description, or a default tile written out, is the same definition."""
    history = replace(VIEW, owner="team:other", description="Other words.", freshness=DAY)
    written_out = replace(VIEW, features=(windowed("sum", "amount", HOUR, hop=timedelta(minutes=5)), *VIEW.features[1:]))

    assert view_hash(history) == view_hash(VIEW)
    assert view_hash(written_out) == view_hash(replace(VIEW, features=(windowed("sum", "amount", HOUR), *VIEW.features[1:])))


def with_last(feature: RequestFeature) -> Model:
    """The model with another last request feature."""
    return replace(MODEL, request_features=(*MODEL.request_features[:-1], feature))


def test_the_hashes_of_the_reference_are_those_of_the_versions_that_are_live() -> None:
    """Regression: options that came later left the hash of declarations without them as it was, so that no model had to be trained anew."""
    assert definition_hash(MODEL) == "3da23428279f7115324c07816142bf955a197acc6e1a84717b90cfbf8ce32782"


def test_the_hash_of_a_model_follows_its_request_features() -> None:
    """Another order of categories gives other codes, learned ones give text; how many are learned is of the training, not of the value."""
    first = MODEL.request_features[-1]
    turned, learned = replace(first, values=tuple(reversed(CARRIERS))), replace(first, values=Learned())
    fewer = replace(first, values=Learned(most=3))

    assert definition_hash(with_last(turned)) != definition_hash(MODEL)
    assert definition_hash(with_last(learned)) not in {definition_hash(MODEL), definition_hash(with_last(turned))}
    assert definition_hash(with_last(learned)) == definition_hash(with_last(fewer))


def test_lineage_leads_to_every_source_column() -> None:
    """A feature depends on its own column, keys and times; on the tie-breaker only where it asks for the newest."""
    lineage = column_lineage(VIEW, [MODEL.observations])
    history, flights = names.cleaned("events"), names.cleaned("flights_history")

    assert list(lineage) == ["place", DECISION_AT, *feature_names(VIEW)]
    assert lineage["place"] == ((flights, "place"),)
    assert set(lineage["v__sum_1h"]) == {
        (history, "amount"), (history, "place"), (history, "event_at"), (history, "known_at"), (flights, "place"), (flights, "decision_at"),
    }  # fmt: skip
    assert (history, "serial") in lineage["v__newest"]


def test_lineage_covers_the_observations_of_all_models() -> None:
    """Keys and time come from each table of observations whose decisions the view answers, each once."""
    other = replace(MODEL.observations, table="bookings", decision_at="booked_at")
    again = replace(other, decision_at="paid_at")
    lineage = column_lineage(VIEW, [MODEL.observations, other, MODEL.observations, again])
    flights, bookings = names.cleaned("flights_history"), names.cleaned("bookings")

    assert lineage["place"] == ((flights, "place"), (bookings, "place"))
    assert lineage[DECISION_AT] == ((flights, "decision_at"), (bookings, "booked_at"), (bookings, "paid_at"))


def test_categories_and_empty_values_are_part_of_a_column() -> None:
    """Listed categories are codes, learned ones text; a count is 0 where nothing is known, everything else null."""
    columns = {column.name: column for column in view_columns(view_of(windowed("count", None), *LATEST))}

    assert (columns["v__color"].dtype, columns["v__color"].categories) == ("int64", COLORS)
    assert (columns["v__any_color"].dtype, columns["v__any_color"].categories) == ("string", Learned())
    assert {name: column.empty for name, column in columns.items() if column.empty is not None} == {"v__count_1h": 0}


def test_quality_counts_what_is_missing_doubled_or_broken() -> None:
    """Rows that were not asked for or come twice, numbers that are none, and shares of nulls."""
    requests = asked(NOON, NOON + HOUR)
    table = requests.select(["place", DECISION_AT])
    good = judge(requests, table.append_column("f", pa.array([1.0, None])), ["place", DECISION_AT])
    doubled = judge(requests, pa.concat_tables([table.slice(0, 1)] * 2).append_column("f", pa.array([1.0, 1.0])), ["place", DECISION_AT])
    broken = judge(requests, table.append_column("f", pa.array([float("nan"), float("inf")])), ["place", DECISION_AT])

    assert (good.has_all_rows, good.is_finite, good.null_shares, good.mostly_null) == (True, True, {"f": 0.5}, {})
    assert not doubled.has_all_rows
    assert broken.broken == {"f": 2}
    assert not broken.is_finite


def test_a_bucket_is_the_checksum_of_the_keys_text() -> None:
    """Pinned, so that a cluster that splits keys elsewhere finds the same buckets: crc32 of the texts joined by U+001F."""
    table = pa.table({"place": ["a", "a", None], "gate": [1, 2, 1]})

    assert bucket_of(table, "t", ["place"], 16).tolist() == [3, 3, 0]
    assert bucket_of(table, "t", ["place", "gate"], 200).tolist() == [129, 187, 43]


def test_a_declared_default_stands_in_place_of_null() -> None:
    """Of a place without events, of none, and of a value that has expired; categories as the feature has them; counts stay 0."""
    view = view_of(
        replace(windowed("mean", "amount", HOUR), default=2),
        windowed("count", None, HOUR),
        Latest(name="pieces", column="pieces", ttl=HOUR, default=-1.5),
        Latest(name="listed", column="color", values=("red", "green"), default="green"),
        Latest(name="learned", column="color", values=Learned(), default="blue"),
    )
    happened = events({"event_at": NOON, "known_at": NOON, "place": "a", "amount": 7.0, "pieces": 3, "color": "red"})
    requests = pa.concat_tables([asked(NOON, NOON + 2 * HOUR), asked(NOON, place="b"), asked(NOON, place=None)])
    found = view_features(view, requests, happened).to_pydict()

    assert found == {
        "v__mean_1h": [7.0, 2.0, 2.0, 2.0],
        "v__count_1h": [1, 0, 0, 0],
        "v__pieces": [3.0, -1.5, -1.5, -1.5],
        "v__listed": [0, 0, 1, 1],
        "v__learned": ["red", "red", "blue", "blue"],
    }
    assert [column.nothing for column in view_columns(view)] == [2.0, 0, -1.5, 1, "blue"]


def test_a_default_is_part_of_the_definition() -> None:
    """Values depend on it; without one the hash is what it was."""
    assert view_hash(view_of(replace(windowed("mean", "amount"), default=2))) != view_hash(view_of(windowed("mean", "amount")))
    assert view_hash(view_of(Latest(name="l", column="pieces", default=0))) != view_hash(view_of(Latest(name="l", column="pieces")))
