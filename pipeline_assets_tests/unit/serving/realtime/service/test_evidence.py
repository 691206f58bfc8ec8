"""What speaks for and against a version that is tried: sure of what is far off soon, of what is near late, and seldom wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.serving.realtime.service.evidence import Evidence, Measure, distance, doubt_of_distance, is_surely_more
from pipeline_assets.spec.models import Canary

CANARY = Canary(most_errors=0.01, most_latency_ratio=2.0, most_score_shift=0.1)
ERRORS, LATENCY, SHIFT = "share of failed calls", "latency ratio", "score shift"


def measured(evidence: Evidence, canary: Canary = CANARY) -> dict[str, Measure]:
    """The measures by name."""
    return {one.name: one for one in evidence.measures(canary)}


def test_nothing_seen_is_neither_within_nor_beyond() -> None:
    """So a version that nobody asked neither steps nor returns."""
    found = measured(Evidence())

    assert [one.value for one in found.values()] == [None] * 3
    assert not any(one.is_within or one.is_beyond for one in found.values())


def test_a_version_that_always_fails_is_found_by_its_fourth_call() -> None:
    """Not by its first, which may be a mishap; with no error allowed by its first."""
    evidence, found = Evidence(), list[bool]()
    for _ in range(5):
        evidence.failed(1.0, "it burns")
        found.append(measured(evidence)[ERRORS].is_beyond)
    strict = Evidence()
    strict.failed(1.0, "it burns")

    # A third of a million to one is at the very margin of doubt.
    assert (found[:2], found[3:]) == ([False, False], [True, True])
    assert measured(strict, Canary(most_errors=0.0))[ERRORS].is_beyond
    assert evidence.last_error == "it burns"


@pytest.mark.parametrize("share", [0.0, 0.005, 0.01])
def test_a_version_within_its_margin_of_errors_does_not_return(share: float) -> None:
    """A thousand of them, each looked at after every call of two thousand."""
    random = np.random.default_rng(11)
    hits = np.cumsum(random.random((1_000, 2_000)) < share, axis=1)
    beyond = [is_surely_more(int(row[at]), at + 1, 0.01) for row in hits for at in range(0, 2_000, 50)]

    assert sum(beyond) == 0


@given(st.integers(1, 300), st.data())
def test_the_bound_is_never_below_the_binomial_tail(of: int, data: st.DataObject) -> None:
    """What is said to be beyond doubt is less likely than once in a million, by exact sums."""
    hits = data.draw(st.integers(0, of))
    share = data.draw(st.floats(1e-3, 0.999))
    logs = [_log_choose(of, k) + k * np.log(share) + (of - k) * np.log1p(-share) for k in range(hits, of + 1)]
    tail = float(np.exp(logs).sum())

    assert not is_surely_more(hits, of, share) or tail <= 1.001e-6


def _log_choose(of: int, hits: int) -> float:
    return float(np.log(np.arange(hits + 1, of + 1)).sum() - np.log(np.arange(1, of - hits + 1)).sum())


VALUES = st.lists(st.integers(0, 40).map(lambda value: value / 40), min_size=1, max_size=20)


@given(VALUES, VALUES)
def test_the_distance_is_that_of_levy(one: list[float], other: list[float]) -> None:
    """By its definition, at every place where a distribution function changes, a thousandth above and not one below; with ties."""
    found = distance(np.array(one), np.array(other))
    largest = max(abs(_share(one, at) - _share(other, at)) for at in (*one, *other))

    assert _is_far_enough(one, other, found + 1e-3)
    assert found == 0 or not _is_far_enough(one, other, found - 1e-3)
    assert found <= largest + 1e-3
    assert found == distance(np.array(other), np.array(one))


def _share(sample: list[float], at: float) -> float:
    return sum(value <= at + 1e-12 for value in sample) / len(sample)


def _is_far_enough(one: list[float], other: list[float], moved: float) -> bool:
    places = [value + by for value in (*one, *other) for by in (-moved, 0, moved) for by in (by, by - 1e-9)]
    return all(
        _share(one, at - moved) - moved <= _share(other, at) + 1e-9 and _share(other, at) <= _share(one, at + moved) + moved + 1e-9
        for at in places
    )


def test_scores_that_are_all_alike_may_move_a_little() -> None:
    """A hundred times the same question, answered 0.31 and 0.29, is no distance to speak of."""
    assert distance(np.full(100, 0.31), np.full(100, 0.29)) == pytest.approx(0.02, abs=1e-3)
    assert distance(np.full(100, 0.31), np.full(100, 0.31)) == 0


def changed(scores: Scores, how: str) -> Scores:
    """Scores as another version would give them."""
    moved = {"wide": 0.9 + scores / 10, "slight": np.clip(scores + 0.4, 0, 1), "same": scores}[how]
    return np.asarray(moved)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_scores_that_are_wide_off_are_found_soon_and_slight_shifts_late(shape: tuple[int, ...]) -> None:
    """A few hundred rows for a version that answers the upside-down, thousands for one that is a little beyond; for classes, too."""
    random, found = np.random.default_rng(3), dict[str, int]()
    for name in ("wide", "slight", "same"):
        evidence, rows = Evidence(), 0
        while rows < 5_000 and not measured(evidence)[SHIFT].is_beyond:
            scores = random.random((20, *shape))
            evidence.answered((scores, 1.0), (changed(scores, name), 1.0), 20)
            rows += 20
        found[name] = rows

    assert found["wide"] < 500
    assert found["wide"] < found["slight"] < 5_000
    assert found["same"] == 5_000


def test_the_doubt_of_a_distance_covers_what_chance_does() -> None:
    """Of two samples of one distribution the distance is never larger, in two thousand tries."""
    random = np.random.default_rng(5)
    worst = max(distance(random.random(100), random.random(100)) for _ in range(2_000))

    assert worst < doubt_of_distance(100, 1)
    assert doubt_of_distance(100, 3) > doubt_of_distance(100, 1)


def test_calls_that_take_longer_are_found_and_noise_is_not() -> None:
    """Times with a long tail, ten thousand calls: equal ones stay, those of a version three times as slow are beyond after a hundred."""
    random = np.random.default_rng(8)
    scores = np.zeros(1)
    equal, slow = Evidence(), Evidence()
    for count in range(10_000):
        live, own = random.lognormal(0, 0.6, 2)
        equal.answered((scores, live), (scores, own), 1)
        assert count % 500 or not measured(equal)[LATENCY].is_beyond
    for _ in range(100):
        live, own = random.lognormal(0, 0.6, 2)
        slow.answered((scores, live), (scores, 5 * own), 1)

    assert measured(equal)[LATENCY].is_within
    assert measured(slow)[LATENCY].is_beyond


def test_what_is_between_margin_and_doubt_waits() -> None:
    """Two failed calls of a hundred are more than one in a hundred, and may be chance."""
    evidence, scores = Evidence(), np.zeros(1)
    for number in range(100):
        if number < 2:
            evidence.failed(1.0, "mishap")
        else:
            evidence.answered((scores, 1.0), (scores, 1.0), 1)
    found = measured(evidence)[ERRORS]

    assert found.value == 0.02
    assert (found.is_within, found.is_beyond) == (False, False)
    assert str(found) == "share of failed calls is 0.02, at most 0.01 is declared"
