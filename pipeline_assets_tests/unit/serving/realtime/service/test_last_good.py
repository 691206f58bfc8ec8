"""What is answered while the online store is away: the newest features of each entity, for a while, of so many rows."""

import gc
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa

from pipeline_assets.model_lifecycle.feature_store.online.read import Served
from pipeline_assets.processing.features.arrays import FeatureArrays, end_to_end
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.serving.realtime.service.features import PUT_TOGETHER, REST_SECONDS, Breaker, LastGood
from pipeline_assets.serving.realtime.service.schema import RequestSchema
from pipeline_assets_tests.model_rows import vectors
from pipeline_assets_tests.online_departures import PROJECT
from pipeline_assets_tests.served_models import MODEL

AT = datetime(2013, 5, 4, tzinfo=UTC)
FEATURES = [one.name for one in feature_columns(MODEL)]
FLIGHTS = "origin_departures__flights_1h"


class Clock:
    """A clock that stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def asked(*origins: str) -> pa.Table:
    """Questions about some origins."""
    kinds = {column: PROJECT.kind_of(MODEL.observations.table, column) for column in ("origin", "carrier", "dest", "tailnum")}
    kinds |= {one.column: PROJECT.kind_of(MODEL.observations.table, one.column) for one in MODEL.request_features}
    schema = RequestSchema(model=MODEL, kinds=kinds)
    fields = {"carrier": "AA", "dest": "LAX", "tailnum": "N1", "scheduled_departure_at": AT, "distance_miles": 1.0, "planned_minutes": 2.0}
    rows = [tuple({**fields, "origin": origin}.get(one.name) for one in schema.fields) for origin in origins]
    return schema.questions(rows, AT)


def served(rows: int, seed: int) -> Served:
    """Some features."""
    known = {view.name: 1 for view in MODEL.views}
    arrays = FeatureArrays.of_table(vectors(MODEL, rows, seed).select(FEATURES))
    return Served(arrays=arrays, statuses={}, known_to=known, positions={})


def test_an_entity_has_its_newest_features_until_they_are_too_old() -> None:
    """Of two answers the newer one; after the freshness that the view promises what is said of an unknown entity."""
    clock, longest = Clock(), max(view.freshness.total_seconds() for view in MODEL.views)
    known = LastGood(MODEL, clock)
    known.remember(asked("EWR", "JFK"), served(2, 1))
    known.remember(asked("EWR"), newer := served(1, 2))
    found = known.answer(asked("EWR", "XXX"))
    clock.now = longest + 1
    later = known.answer(asked("EWR"))

    assert found.arrays.table()[FLIGHTS].to_pylist() == [newer.features[FLIGHTS][0].as_py(), 0]
    assert found.tiers == ["last_good", "default"]
    assert later.tiers == ["default"]
    assert later.arrays.table()[FLIGHTS].to_pylist() == [0]
    assert list(found.arrays.names) == FEATURES


def test_what_is_kept_is_bounded_by_rows() -> None:
    """The oldest tables go, whatever entities are in them."""
    known = LastGood(MODEL, Clock(), most_rows=5)
    for number in range(20):
        known.remember(asked(f"A{number}", "EWR"), served(2, number))

    assert [known.answer(asked(f"A{number}")).tiers[0] for number in (0, 17, 18, 19)] == ["default", "default", "last_good", "last_good"]
    assert known.rows_kept == 4
    assert known.answer(asked("EWR")).tiers == ["last_good"]


def test_single_rows_take_no_more_place_than_rows_in_one_answer() -> None:
    """Regression: twenty thousand rows that came one by one took three times the memory of those that came sixteen at a time."""
    questions = [asked(*(f"A{first + row}" for row in range(16))) for first in range(0, 3 * PUT_TOGETHER, 16)]
    whole = [(each, served(16, seed)) for seed, each in enumerate(questions)]
    single = [(each.slice(row, 1), replace(one, arrays=one.arrays.part(row, 1))) for each, one in whole for row in range(each.num_rows)]

    assert _memory(single) < 1.2 * _memory(whole)


def _memory(answers: Sequence[tuple[pa.Table, Served]]) -> int:
    """Bytes that are kept of answers whose own memory is not counted, as their reader frees it."""
    gc.collect()
    tracemalloc.start()
    try:
        known = LastGood(MODEL, Clock())
        for questions, found in answers:
            known.remember(questions, replace(found, arrays=end_to_end([found.arrays])))
        gc.collect()
        assert known.rows_kept == 3 * PUT_TOGETHER
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_rows_that_came_one_by_one_are_found_with_what_was_known_of_each() -> None:
    """Across what was put together and what came since, the newest row of an entity counts, with its own time; the oldest rows go."""
    clock, most = Clock(), 3 * PUT_TOGETHER
    known = LastGood(MODEL, clock, most_rows=most)
    for number in range(most + 100):
        clock.now = float(number)
        known.remember(asked(f"A{number}"), replace(one := served(1, 1), known_to=dict.fromkeys(one.known_to, number)))
    known.remember(asked("A700"), replace(one, known_to=dict.fromkeys(one.known_to, 5000)))
    found = {name: known.answer(asked(name)) for name in ("A0", "A500", "A700", f"A{most + 99}")}

    assert [each.tiers[0] for each in found.values()] == ["default", "last_good", "last_good", "last_good"]
    assert [each.known_to["origin_departures"] for each in found.values()] == [None, 500, 5000, most + 99]
    assert most - PUT_TOGETHER < known.rows_kept <= most


def test_a_breaker_lets_one_read_try_now_and_then() -> None:
    """Open after three failures in a row, one try each two seconds, closed by one that succeeds."""
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(3):
        assert breaker.allows()
        breaker.failed("away")
    closed, clock.now = breaker.allows(), REST_SECONDS
    again, right_after = breaker.allows(), breaker.allows()
    breaker.succeeded()

    assert (closed, again, right_after) == (False, True, False)
    assert breaker.allows()
