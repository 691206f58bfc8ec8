"""Will this flight leave 15 minutes late or more, or be cancelled, and how late will it arrive? Asked 60 minutes before departure."""

from datetime import timedelta

from pipeline_assets.spec.models import Gate, Label, Model, Observations, Split, Versions
from pipeline_assets.spec.monitors import Monitor
from pipeline_assets.spec.tasks import Binary, MetricRule, Regression
from pipeline_assets.use_cases.nyc_flights import features

flights = Observations(
    table="flights_history",
    keys=("flight_id",),
    decision_at="decision_at",
    event_at="scheduled_departure_at",
    ahead=timedelta(minutes=60),
    versions=Versions(),
)
split = Split(train=timedelta(days=365), validation=timedelta(days=14), holdout=timedelta(days=14))
TREES: dict[str, float | int | str] = {
    "tree_method": "hist",
    "learning_rate": 0.08,
    "max_depth": 6,
    "min_child_weight": 50,
    "subsample": 0.8,
    "colsample_bytree": 0.3,
    "max_bin": 128,
    "seed": 2013,
}

flight_delay = Model(
    name="flight_delay",
    question="Will this flight leave 15 minutes late or more, or be cancelled?",
    owner=features.OWNER,
    task=Binary(),
    observations=flights,
    label=Label(table="departures_history", keys=("flight_id",), column="is_late", known_at="known_at", superseded_at="superseded_at"),
    views=(
        features.origin_departures,
        features.carrier_departures,
        features.route_departures,
        features.aircraft_departures,
        features.destination_arrivals,
        features.origin_weather,
        features.aircraft_attributes,
    ),
    request_features=features.request_features,
    slices=("origin", "carrier"),
    split=split,
    parameters={"objective": "binary:logistic", "eval_metric": "logloss", **TREES},
    max_rounds=600,
    early_stopping_rounds=30,
    gate=Gate(
        metric="roc_auc",
        min_gain_over_baseline=0.02,
        min_gain_over_champion=-0.005,
        limits=(MetricRule(metric="calibration_error", limit=0.08),),
        max_slice_loss=0.03,
        min_slice_rows=500,
        max_size_bytes=20_000_000,
        max_latency_ms=20.0,
    ),
    monitor=Monitor(
        bins=10,
        max_psi=0.25,
        max_drifted_share=0.3,
        rules=(MetricRule(metric="roc_auc", limit=0.62),),
        min_labels=300,
        report_sample_rows=2_000,
        cool_down=timedelta(days=7),
    ),
)

arrival_delay = Model(
    name="arrival_delay",
    question="How many minutes behind schedule will this flight reach its destination?",
    owner=features.OWNER,
    task=Regression(unit="minutes"),
    observations=flights,
    label=Label(table="arrivals_history", keys=("flight_id",), column="delay_minutes", known_at="known_at", superseded_at="superseded_at"),
    views=(
        features.origin_departures,
        features.carrier_departures,
        features.route_departures,
        features.aircraft_departures,
        features.destination_arrivals,
        features.origin_weather,
    ),
    request_features=features.request_features,
    slices=("origin", "carrier"),
    split=split,
    parameters={**TREES, "objective": "reg:absoluteerror"},
    max_rounds=400,
    early_stopping_rounds=30,
    gate=Gate(
        metric="mae",
        min_gain_over_baseline=0.2,
        min_gain_over_champion=-0.2,
        limits=(MetricRule(metric="mae", limit=40.0),),
        max_slice_loss=3.0,
        min_slice_rows=500,
        max_size_bytes=20_000_000,
        max_latency_ms=20.0,
    ),
    monitor=Monitor(
        bins=10,
        max_psi=0.25,
        max_drifted_share=0.3,
        rules=(MetricRule(metric="mae", limit=60.0),),
        min_labels=300,
        report_sample_rows=2_000,
        cool_down=timedelta(days=7),
    ),
)
