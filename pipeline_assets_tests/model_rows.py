"""Small vectors and labels that a model can learn from, and a copy of the reference model that learns from them in a second."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from pipeline_assets.use_cases.nyc_flights.model import flight_delay

from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.processing.features.request import request_feature_name
from pipeline_assets.spec.models import Model, Split

START = datetime(2013, 1, 1, tzinfo=UTC)
DAYS = 28
AS_OF = START + timedelta(days=DAYS)
INSTANT = pa.timestamp("us", "UTC")
SIGNAL = "origin_departures__late_rate_3h"
HOUR = "request__hour"


def small_model(name: str = "small_delay") -> Model:
    """The reference model on four weeks: three to learn from, half a week to stop, half a week to judge; quick, with a lenient gate."""
    parameters = {**flight_delay.parameters, "learning_rate": 0.3, "max_depth": 4, "min_child_weight": 5, "colsample_bytree": 1.0}
    return replace(
        flight_delay,
        name=name,
        split=Split(train=timedelta(days=21), validation=timedelta(days=3.5), holdout=timedelta(days=3.5)),
        parameters=parameters,
        max_rounds=40,
        early_stopping_rounds=5,
        gate=replace(flight_delay.gate, min_gain_over_champion=-0.1, max_calibration_error=0.2, max_slice_loss=0.2, max_latency_ms=1000.0),
    )


def vectors(model: Model, rows: int = 3000, seed: int = 7) -> pa.Table:
    """Vectors of `rows` decisions, evenly over the four weeks: noise, among it a signal and an hour; a tenth of the values is null."""
    random = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {
        model.observations.key: pa.array([f"flight-{row:06d}" for row in range(rows)]),
        model.observations.decision_at: pa.array([START + row * timedelta(days=DAYS) / rows for row in range(rows)], INSTANT),
        "origin": pa.array(random.choice(["EWR", "JFK", "LGA"], rows)),
        "carrier": pa.array(random.choice(["AA", "UA"], rows)),
    }
    categories = {request_feature_name(feature): len(feature.values) for feature in model.request_features if feature.values}
    for column in feature_columns(model):
        high = categories.get(column.name, 24)
        numbers = random.integers(0, high, rows) if column.dtype == "int64" else random.random(rows)
        columns[column.name] = pa.array(numbers, pa.int64() if column.dtype == "int64" else pa.float64(), mask=random.random(rows) < 0.1)
    table = pa.table(columns)
    return table.append_column(FEATURE_HASH, feature_hashes(table, [column.name for column in feature_columns(model)]))


def labels(model: Model, table: pa.Table, seed: int = 11) -> pa.Table:
    """One label per vector, known two hours after its decision: likelier late with the signal and the hour."""
    random = np.random.default_rng(seed)
    signal = np.nan_to_num(table[SIGNAL].to_numpy(), nan=0.5)
    hour = np.nan_to_num(table[HOUR].cast(pa.float64()).to_numpy(), nan=12) / 24
    likely = 0.7 * signal + 0.3 * hour
    decided = table[model.observations.decision_at].to_pylist()
    return pa.table(
        {
            model.label.key: table[model.observations.key],
            model.label.column: pa.array(random.random(len(signal)) ** 1.5 < likely**2),
            model.label.known_at: pa.array([at + timedelta(hours=2) for at in decided], INSTANT),
        }
    )
