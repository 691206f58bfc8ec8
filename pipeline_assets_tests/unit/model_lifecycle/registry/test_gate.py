"""The gate: which rule is broken, by how much, and what is not judged at all."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.model_lifecycle.registry.gate import Compared, Measured, Rule, broken, judge
from pipeline_assets.model_lifecycle.training.evaluate import Evaluation, Quality
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.spec.models import Gate
from pipeline_assets.spec.tasks import MetricRule
from pipeline_assets_tests.model_rows import BINARY, REGRESSION

KIND, NUMBERS = task_kind(BINARY), task_kind(REGRESSION)
GATE = Gate(
    metric="roc_auc",
    min_gain_over_baseline=0.02,
    min_gain_over_champion=-0.005,
    limits=(MetricRule(metric="calibration_error", limit=0.08),),
    max_slice_loss=0.03,
    min_slice_rows=500,
    max_size_bytes=1_000,
    max_latency_ms=20.0,
)


def _quality(roc_auc: float | None, rows: int = 1000, calibration_error: float = 0.01) -> Quality:
    return Quality(rows=rows, labels={"positives": 100}, figures={"roc_auc": roc_auc, "calibration_error": calibration_error})


def _evaluation(
    roc_auc: float | None = 0.75, *, calibration_error: float = 0.01, slices: Mapping[str, Quality] | None = None
) -> Evaluation:
    return Evaluation(overall=_quality(roc_auc, calibration_error=calibration_error), slices={"origin": slices or {}}, months={})


GOOD = Measured(candidate=_evaluation(), champion=_evaluation(0.74), baseline=0.7, size_bytes=900, latency_ms=2.0)


def _broken(measured: Measured) -> list[str]:
    return [rule.name for rule in broken(judge(GATE, KIND, measured))]


def test_a_good_candidate_breaks_no_rule() -> None:
    """Better than both rivals, calibrated, small and quick."""
    assert _broken(GOOD) == []
    assert len(judge(GATE, KIND, GOOD)) == 7


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"baseline": 0.731}, "gain over baseline (roc_auc)"),
        ({"champion": _evaluation(0.756)}, "gain over champion (roc_auc)"),
        ({"candidate": _evaluation(calibration_error=0.081)}, "calibration_error"),
        ({"size_bytes": 1_001}, "size in bytes"),
        ({"latency_ms": 20.1}, "latency of one row in ms (p95, on a free core)"),
        ({"rolled_back": 1}, "earlier roll backs from the same model file"),
        ({"champion": None, "features_lost": 2}, "champion's features that are no longer computed"),
        ({"champion": None, "answers_otherwise": True}, "champions with another task, other classes or another unit"),
        ({"champion_ahead": timedelta(hours=12)}, "days that the champion was trained later"),
    ],
)
def test_each_rule_is_broken_alone(change: dict[str, object], name: str) -> None:
    """One figure on the wrong side of its limit breaks exactly its rule."""
    assert _broken(replace(GOOD, **change)) == [name]  # type: ignore[arg-type]


def test_a_rule_at_its_limit_is_kept() -> None:
    """Limits are inclusive."""
    at_limit = replace(GOOD, candidate=_evaluation(0.75, calibration_error=0.08), baseline=0.73, size_bytes=1_000, latency_ms=20.0)

    assert _broken(at_limit) == []


def test_without_a_champion_only_the_baseline_is_a_rival() -> None:
    """The first candidate of all is not held against a version that does not exist."""
    names = [rule.name for rule in judge(GATE, KIND, replace(GOOD, champion=None))]

    assert not [name for name in names if "champion" in name]
    assert "gain over baseline (roc_auc)" in names


def test_a_slice_counts_if_it_is_large_enough_and_has_both_labels() -> None:
    """JFK lost too much; LGA is too small and EWR has one kind of label, so they are not judged."""
    ours = {"JFK": _quality(0.70), "LGA": _quality(0.50, rows=499), "EWR": _quality(None)}
    theirs = {"JFK": _quality(0.74), "LGA": _quality(0.90, rows=499), "EWR": _quality(None)}

    rules = judge(GATE, KIND, replace(GOOD, candidate=_evaluation(slices=ours), champion=_evaluation(0.74, slices=theirs)))

    assert [rule.name for rule in broken(rules)] == ["loss to champion in origin JFK (roc_auc)"]
    assert not [rule for rule in rules if "LGA" in rule.name or "EWR" in rule.name]


def _errors(mae: float, r2: float = 0.5, rows: int = 1000) -> Quality:
    return Quality(rows=rows, labels={}, figures={"mae": mae, "r2": r2})


def test_a_metric_that_is_better_where_it_is_less_is_judged_from_that_side() -> None:
    """Two minutes less than the baseline are a gain, one more than the champion a loss, and limits bound from either side."""
    limits = (MetricRule(metric="mae", limit=12.0), MetricRule(metric="r2", limit=0.6))
    minutes = replace(GATE, metric="mae", min_gain_over_baseline=2.0, min_gain_over_champion=-0.5, max_slice_loss=3.0, limits=limits)
    ours = Evaluation(overall=_errors(10.0), slices={"origin": {"JFK": _errors(14.0), "LGA": _errors(9.0)}}, months={})
    theirs = Evaluation(overall=_errors(9.0), slices={"origin": {"JFK": _errors(10.0), "LGA": _errors(8.0)}}, months={})

    rules = judge(minutes, NUMBERS, replace(GOOD, candidate=ours, champion=theirs, baseline=12.0))

    found = {rule.name: (rule.value, rule.passed) for rule in rules}
    assert found["gain over baseline (mae)"] == (2.0, True)
    assert found["gain over champion (mae)"] == (-1.0, False)
    assert found["loss to champion in origin JFK (mae)"] == (4.0, False)
    assert found["loss to champion in origin LGA (mae)"] == (1.0, True)
    assert (found["mae"], found["r2"]) == ((10.0, True), (0.5, False))


def test_a_model_of_an_earlier_time_does_not_follow_a_later_one() -> None:
    """A reproduction of an old training is judged, and not promoted; a champion of the same time or before is no hindrance."""
    later = judge(GATE, KIND, replace(GOOD, champion_ahead=timedelta(days=3)))

    assert [str(rule) for rule in broken(later)] == ["days that the champion was trained later is 3, must be at most 0: broken by 3"]
    assert _broken(replace(GOOD, champion_ahead=timedelta(days=-3))) == []


def test_an_area_that_does_not_exist_breaks_its_rules() -> None:
    """A hold-out with one kind of label proves nothing, so nothing goes live on it."""
    assert "gain over baseline (roc_auc)" in _broken(replace(GOOD, candidate=_evaluation(None)))
    rule = judge(GATE, KIND, replace(GOOD, candidate=_evaluation(None)))[0]
    assert str(rule) == "gain over baseline (roc_auc) does not exist, must be at least 0.02"


def test_a_broken_rule_says_by_how_much() -> None:
    """Name, value, limit and distance stand in one sentence."""
    (rule,) = broken(judge(GATE, KIND, replace(GOOD, size_bytes=1_250)))

    assert str(rule) == "size in bytes is 1250, must be at most 1000: broken by 250"
    assert rule.margin == -250


@given(value=st.floats(-10, 10) | st.none(), limit=st.floats(-10, 10), is_minimum=st.booleans())
def test_a_rule_passes_exactly_if_its_margin_is_not_negative_and_survives_json(value: float | None, limit: float, is_minimum: bool) -> None:  # noqa: FBT001 - Hypothesis gives it by name
    """Any value against any limit, from either side."""
    rule = Rule(name="any", value=value, limit=limit, is_minimum=is_minimum)

    expected = value is not None and (value >= limit if is_minimum else value <= limit)
    assert rule.passed == expected == (rule.margin is not None and rule.margin >= 0)
    assert Rule.from_json(rule.to_json()) == rule


def test_a_feature_that_is_served_otherwise_breaks_a_rule_by_its_name() -> None:
    """The reason has the features, how many vectors were compared, and when; where none differs the rule is kept."""
    found = Compared(at="2013-05-04T12:00:00+00:00", vectors=200, differing=("a__b_1h", "a__c"))
    (rule,) = broken(judge(GATE, KIND, replace(GOOD, served=found)))

    assert str(rule) == (
        "features served otherwise than the lake has them (200 vectors at 2013-05-04T12:00:00+00:00, a__b_1h, a__c) is 2, must be "
        "at most 0: broken by 2"
    )
    assert _broken(replace(GOOD, served=replace(found, differing=()))) == []


def test_without_served_vectors_the_evidence_says_so() -> None:
    """Nothing is held against a model that nobody has asked online yet."""
    (rule,) = [rule for rule in judge(GATE, KIND, GOOD) if "served" in rule.name]

    assert rule.passed
    assert rule.name.endswith("(no served vectors were compared)")
