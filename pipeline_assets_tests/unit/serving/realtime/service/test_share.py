"""Which entities a canary answers."""

from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.model_lifecycle.registry.ledger import Trial
from pipeline_assets.serving.realtime.service.share import rows_of_share
from pipeline_assets_tests.served_models import MODEL

AT = datetime(2013, 5, 4, tzinfo=UTC)
TRIAL = Trial(version=2, role="canary", share=0.1, champion=1, began=5, sequence=5, live_from=AT)
KEYS = ("origin", "carrier", "dest", "tailnum")
TEXTS = st.none() | st.text(max_size=8)
MANY = 20_000


def questions(entities: list[tuple[str | None, ...]]) -> pa.Table:
    """Questions about some entities, each asked at another moment about another distance."""
    columns = {name: pa.array(values, pa.string()) for name, values in zip(KEYS, zip(*entities, strict=True), strict=True)}
    other = np.random.default_rng(len(entities)).random(len(entities))
    return pa.table({**columns, "distance_miles": other, DECISION_AT: pa.array([AT] * len(entities))})


def chosen(share: float, entities: list[tuple[str | None, ...]], trial: Trial = TRIAL) -> set[tuple[str | None, ...]]:
    """The entities that a canary of a share answers."""
    return {entities[row] for row in rows_of_share(MODEL, replace(trial, share=share), questions(entities))}


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS), min_size=1, max_size=50), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_share_only_adds_entities(entities: list[tuple[str | None, ...]], shares: tuple[float, float]) -> None:
    """Also through the steps of a trial, whose later entries have other numbers; nulls and any text are entities like others."""
    small, large = sorted(shares)
    later = replace(TRIAL, sequence=9)

    assert chosen(small, entities) <= chosen(large, entities, later)
    assert chosen(0.0, entities) == set()
    assert chosen(1.0, entities) == set(entities)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS), min_size=1, max_size=30), st.floats(0, 1), st.randoms())
def test_an_entity_has_the_same_version_whatever_is_asked_beside_it(
    entities: list[tuple[str | None, ...]], share: float, random: Random
) -> None:
    """In any order, alone, again, and with other fields."""
    shuffled = [*entities, *entities]
    random.shuffle(shuffled)

    assert chosen(share, shuffled) == chosen(share, entities)
    assert {one for one in entities if chosen(share, [one])} == chosen(share, entities)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.9])
def test_a_share_is_one_of_entities(share: float) -> None:
    """Of many entities the canary answers its share, within five standard deviations of chance."""
    entities: list[tuple[str | None, ...]] = [("EWR", "AA", "LAX", f"N{number}") for number in range(MANY)]
    found = len(chosen(share, entities))

    assert abs(found - share * MANY) < 5 * (share * (1 - share) * MANY) ** 0.5


def test_each_canary_begins_with_other_entities() -> None:
    """Of a tenth that meets one canary, a tenth meets the next, which is chance; the same for another version."""
    entities: list[tuple[str | None, ...]] = [("EWR", "AA", "LAX", f"N{number}") for number in range(MANY)]
    first, again = chosen(0.1, entities), chosen(0.1, entities, replace(TRIAL, began=8))
    other = chosen(0.1, entities, replace(TRIAL, version=3))

    assert len(first & again) / len(first) == pytest.approx(0.1, abs=0.04)
    assert len(first & other) / len(first) == pytest.approx(0.1, abs=0.04)


def test_the_hash_is_what_it_was() -> None:
    """A release that hashed otherwise would change the version of entities in the middle of a canary."""
    entities: list[tuple[str | None, ...]] = [("EWR", "AA", "LAX", f"N{number}") for number in range(40)]

    assert sorted(str(one[3]) for one in chosen(0.1, entities)) == ["N1", "N15", "N16", "N33", "N37", "N6"]


def test_a_model_without_entities_shares_by_what_is_asked() -> None:
    """The same instance has the same version at any moment; a shadow answers nobody."""
    model = replace(MODEL, views=())
    asked = questions([("EWR", "AA", "LAX", f"N{number}") for number in range(200)])
    later = asked.set_column(asked.column_names.index(DECISION_AT), DECISION_AT, pa.array([datetime(2013, 6, 1, tzinfo=UTC)] * 200))
    half = replace(TRIAL, share=0.5)

    assert rows_of_share(model, half, asked) == rows_of_share(model, half, later)
    assert 60 < len(rows_of_share(model, half, asked)) < 140
    assert rows_of_share(MODEL, replace(TRIAL, role="shadow", share=None), asked) == frozenset()
