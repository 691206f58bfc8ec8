"""The gate: which rule is broken, by how much, and what is not judged at all."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.model_lifecycle.registry.gate import Measured, Rule, broken, judge
from pipeline_assets.model_lifecycle.training.evaluate import Evaluation, Scores
from pipeline_assets.spec.models import Gate

GATE = Gate(
    min_gain_over_baseline=0.02,
    min_gain_over_champion=-0.005,
    max_calibration_error=0.08,
    max_slice_loss=0.03,
    min_slice_rows=500,
    max_size_bytes=1_000,
    max_latency_ms=20.0,
)


def _scores(roc_auc: float | None, rows: int = 1000, calibration_error: float = 0.01) -> Scores:
    return Scores(rows=rows, positives=100, roc_auc=roc_auc, pr_auc=0.5, log_loss=0.4, brier=0.1, calibration_error=calibration_error)


def _evaluation(roc_auc: float | None = 0.75, *, calibration_error: float = 0.01, slices: Mapping[str, Scores] | None = None) -> Evaluation:
    return Evaluation(overall=_scores(roc_auc, calibration_error=calibration_error), slices={"origin": slices or {}}, months={})


GOOD = Measured(candidate=_evaluation(), champion=_evaluation(0.74), baseline_roc_auc=0.7, size_bytes=900, latency_ms=2.0)


def _broken(measured: Measured) -> list[str]:
    return [rule.name for rule in broken(judge(GATE, measured))]


def test_a_good_candidate_breaks_no_rule() -> None:
    """Better than both rivals, calibrated, small and quick."""
    assert _broken(GOOD) == []
    assert len(judge(GATE, GOOD)) == 6


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"baseline_roc_auc": 0.731}, "gain over baseline (ROC AUC)"),
        ({"champion": _evaluation(0.756)}, "gain over champion (ROC AUC)"),
        ({"candidate": _evaluation(calibration_error=0.081)}, "calibration error"),
        ({"size_bytes": 1_001}, "size in bytes"),
        ({"latency_ms": 20.1}, "latency of one row in ms (p95, on a free core)"),
        ({"rolled_back": 1}, "earlier roll backs from the same model file"),
        ({"champion": None, "features_lost": 2}, "champion's features that are no longer computed"),
    ],
)
def test_each_rule_is_broken_alone(change: dict[str, object], name: str) -> None:
    """One figure on the wrong side of its limit breaks exactly its rule."""
    assert _broken(replace(GOOD, **change)) == [name]  # type: ignore[arg-type]


def test_a_rule_at_its_limit_is_kept() -> None:
    """Limits are inclusive."""
    at_limit = replace(GOOD, candidate=_evaluation(0.75, calibration_error=0.08), baseline_roc_auc=0.73, size_bytes=1_000, latency_ms=20.0)

    assert _broken(at_limit) == []


def test_without_a_champion_only_the_baseline_is_a_rival() -> None:
    """The first candidate of all is not held against a version that does not exist."""
    names = [rule.name for rule in judge(GATE, replace(GOOD, champion=None))]

    assert not [name for name in names if "champion" in name]
    assert "gain over baseline (ROC AUC)" in names


def test_a_slice_counts_if_it_is_large_enough_and_has_both_labels() -> None:
    """JFK lost too much; LGA is too small and EWR has one kind of label, so they are not judged."""
    ours = {"JFK": _scores(0.70), "LGA": _scores(0.50, rows=499), "EWR": _scores(None)}
    theirs = {"JFK": _scores(0.74), "LGA": _scores(0.90, rows=499), "EWR": _scores(None)}

    rules = judge(GATE, replace(GOOD, candidate=_evaluation(slices=ours), champion=_evaluation(0.74, slices=theirs)))

    assert [rule.name for rule in broken(rules)] == ["loss to champion in origin JFK (ROC AUC)"]
    assert not [rule for rule in rules if "LGA" in rule.name or "EWR" in rule.name]


def test_an_area_that_does_not_exist_breaks_its_rules() -> None:
    """A hold-out with one kind of label proves nothing, so nothing goes live on it."""
    assert "gain over baseline (ROC AUC)" in _broken(replace(GOOD, candidate=_evaluation(None)))
    rule = judge(GATE, replace(GOOD, candidate=_evaluation(None)))[0]
    assert str(rule) == "gain over baseline (ROC AUC) does not exist, must be at least 0.02"


def test_a_broken_rule_says_by_how_much() -> None:
    """Name, value, limit and distance stand in one sentence."""
    (rule,) = broken(judge(GATE, replace(GOOD, size_bytes=1_250)))

    assert str(rule) == "size in bytes is 1250, must be at most 1000: broken by 250"
    assert rule.margin == -250


@given(value=st.floats(-10, 10) | st.none(), limit=st.floats(-10, 10), is_minimum=st.booleans())
def test_a_rule_passes_exactly_if_its_margin_is_not_negative_and_survives_json(value: float | None, limit: float, is_minimum: bool) -> None:  # noqa: FBT001 - Hypothesis gives it by name
    """Any value against any limit, from either side."""
    rule = Rule(name="any", value=value, limit=limit, is_minimum=is_minimum)

    expected = value is not None and (value >= limit if is_minimum else value <= limit)
    assert rule.passed == expected == (rule.margin is not None and rule.margin >= 0)
    assert Rule.from_json(rule.to_json()) == rule
