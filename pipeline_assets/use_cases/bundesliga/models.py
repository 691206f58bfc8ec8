"""Will the home club win, the guest, or neither? Asked when the match is announced, three weeks before it begins."""

from datetime import timedelta

from pipeline_assets.spec.models import Gate, Label, Model, Observations, Split, Versions
from pipeline_assets.spec.monitors import Monitor
from pipeline_assets.spec.tasks import MetricRule, Multiclass
from pipeline_assets.use_cases.bundesliga import features

DAY = timedelta(days=1)

match_outcome = Model(
    name="match_outcome",
    question="Will the home club win, the guest, or neither?",
    owner=features.OWNER,
    task=Multiclass(classes=("home", "draw", "away")),
    # The decision is made when the announcement is known, some minutes after it.
    observations=Observations(
        table="fixtures_history",
        keys=("season", "match_number"),
        decision_at="known_at",
        event_at="announced_at",
        behind=timedelta(hours=1),
        versions=Versions(),
    ),
    label=Label(
        table="results_history",
        keys=("season", "match_number"),
        column="outcome",
        known_at="known_at",
        superseded_at="superseded_at",
        horizon=22 * DAY,
    ),
    views=(features.home_form, features.away_form, features.pairing_history),
    request_features=(),
    slices=("is_founder_at_home",),
    split=Split(train=4 * 365 * DAY, validation=60 * DAY, holdout=60 * DAY),
    parameters={"learning_rate": 0.05, "max_depth": 3, "min_child_weight": 10, "subsample": 0.8, "seed": 1963},
    max_rounds=200,
    early_stopping_rounds=20,
    # A season is little to learn from: a candidate must not be clearly worse than the shares of the classes.
    gate=Gate(
        metric="log_loss",
        min_gain_over_baseline=-0.05,
        min_gain_over_champion=-0.05,
        limits=(MetricRule(metric="calibration_error", limit=0.3),),
        max_slice_loss=0.2,
        min_slice_rows=100,
        max_size_bytes=5_000_000,
        max_latency_ms=20.0,
    ),
    monitor=Monitor(
        bins=5,
        max_psi=0.25,
        max_drifted_share=0.5,
        rules=(MetricRule(metric="log_loss", limit=2.0),),
        min_labels=5,
        report_sample_rows=500,
        cool_down=28 * DAY,
    ),
)
