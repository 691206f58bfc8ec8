"""Will this flight leave 15 minutes late or more, or be cancelled? Asked 60 minutes before the scheduled departure."""

from datetime import timedelta

from pipeline_assets.spec.models import Gate, Label, Model, Observations, Split
from pipeline_assets.use_cases.nyc_flights import features

flight_delay = Model(
    name="flight_delay",
    question="Will this flight leave 15 minutes late or more, or be cancelled?",
    owner=features.OWNER,
    observations=Observations(table="flights", key="flight_id", decision_at="decision_at"),
    label=Label(table="departures", key="flight_id", column="is_late", known_at="known_at"),
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
    split=Split(train=timedelta(days=365), validation=timedelta(days=14), holdout=timedelta(days=14)),
    parameters={
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "learning_rate": 0.08,
        "max_depth": 6,
        "min_child_weight": 50,
        "subsample": 0.8,
        "colsample_bytree": 0.3,
        "max_bin": 128,
        "seed": 2013,
    },
    max_rounds=600,
    early_stopping_rounds=30,
    gate=Gate(
        min_gain_over_baseline=0.02,
        min_gain_over_champion=-0.005,
        max_calibration_error=0.08,
        max_slice_loss=0.03,
        min_slice_rows=500,
        max_size_bytes=20_000_000,
        max_latency_ms=20.0,
    ),
)
