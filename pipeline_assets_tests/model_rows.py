"""Small vectors and labels that a model of each kind can learn from, and copies of the reference model that learn from them in a second."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline_assets.core.names import OBSERVATION_KNOWN_AT
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.model_lifecycle.training.archive import TrainingSet
from pipeline_assets.model_lifecycle.training.dataset import blocks
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.processing.features.request import request_feature_name
from pipeline_assets.spec.models import Model, Split
from pipeline_assets.spec.tasks import Binary, MetricRule, Multiclass, Regression, Task
from pipeline_assets.use_cases.nyc_flights.models import flight_delay

START = datetime(2013, 1, 1, tzinfo=UTC)
DAYS = 28
AS_OF = START + timedelta(days=DAYS)
INSTANT = pa.timestamp("us", "UTC")
SIGNAL = "origin_departures__late_rate_3h"
HOUR = "request__hour"
BINARY, MULTICLASS, REGRESSION = Binary(), Multiclass(classes=("on time", "late", "cancelled")), Regression(unit="minutes")
TASKS: tuple[Task, ...] = (BINARY, MULTICLASS, REGRESSION)
METRIC: Mapping[type[Task], str] = {Binary: "roc_auc", Multiclass: "accuracy", Regression: "mae"}


def small_model(name: str = "small_delay", task: Task = BINARY) -> Model:
    """The reference model on four weeks: three to learn from, half a week to stop, half a week to judge; quick, with a lenient gate."""
    parameters = {**flight_delay.parameters, "learning_rate": 0.3, "max_depth": 4, "min_child_weight": 5, "colsample_bytree": 1.0}
    if task != BINARY:
        del parameters["objective"], parameters["eval_metric"]
    return replace(
        flight_delay,
        name=name,
        task=task,
        split=Split(train=timedelta(days=21), validation=timedelta(days=3.5), holdout=timedelta(days=3.5)),
        parameters=parameters,
        max_rounds=40,
        early_stopping_rounds=5,
        gate=replace(
            flight_delay.gate,
            metric=METRIC[type(task)],
            min_gain_over_champion=-0.1,
            limits=(MetricRule(metric="calibration_error", limit=20.0 if isinstance(task, Regression) else 0.2),),
            max_slice_loss=0.2,
            max_latency_ms=1000.0,
        ),
    )


def vectors(model: Model, rows: int = 3000, seed: int = 7) -> pa.Table:
    """Vectors of `rows` decisions, evenly over the four weeks: noise, among it a signal and an hour; a tenth of the values is null."""
    random = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {
        model.observations.keys[0]: pa.array([f"flight-{row:06d}" for row in range(rows)]),
        model.observations.decision_at: pa.array([START + row * timedelta(days=DAYS) / rows for row in range(rows)], INSTANT),
        "origin": pa.array(random.choice(["EWR", "JFK", "LGA"], rows)),
        "carrier": pa.array(random.choice(["AA", "UA"], rows)),
    }
    categories = {
        request_feature_name(feature): len(feature.values)
        for feature in model.request_features
        if feature.values and isinstance(feature.values, tuple)
    }
    for column in feature_columns(model):
        high = categories.get(column.name, 24)
        numbers = random.integers(0, high, rows) if column.dtype == "int64" else random.random(rows)
        columns[column.name] = pa.array(numbers, pa.int64() if column.dtype == "int64" else pa.float64(), mask=random.random(rows) < 0.1)
    if model.observations.versions is not None:
        columns[OBSERVATION_KNOWN_AT] = columns[model.observations.decision_at]
    table = pa.table(columns)
    return table.append_column(FEATURE_HASH, feature_hashes(table, [column.name for column in feature_columns(model)]))


def labels(model: Model, table: pa.Table, seed: int = 11) -> pa.Table:
    """One label per vector, known two hours after its decision: likelier late with the signal and the hour."""
    random = np.random.default_rng(seed)
    signal = np.nan_to_num(table[SIGNAL].to_numpy(), nan=0.5)
    hour = np.nan_to_num(table[HOUR].cast(pa.float64()).to_numpy(), nan=12) / 24 if HOUR in table.column_names else 0.5
    likely = 0.7 * signal + 0.3 * hour
    decided = table[model.observations.decision_at].to_pylist()
    return pa.table(
        {
            **dict(zip(model.label.keys, (table[key] for key in model.observations.keys), strict=True)),
            model.label.column: _outcomes(model.task, likely, random.random(len(signal))),
            model.label.known_at: pa.array([at + timedelta(hours=2) for at in decided], INSTANT),
        }
    )


def record_of(model: Model, rows: pa.Table, as_of: datetime = AS_OF) -> TrainingSet:
    """The record of a training set that is stored nowhere."""
    return TrainingSet(
        model=model.name,
        as_of=as_of,
        path="s3://bucket/set.parquet",
        sha256="0" * 64,
        size_bytes=1,
        rows=rows.num_rows,
        blocks=blocks(model, rows, as_of),
        snapshots={f"feature_store.{model.name}": 42},
    )


def _outcomes(task: Task, likely: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> pa.Array:
    if isinstance(task, Binary):
        return pa.array(noise**1.5 < likely**2)
    minutes = 100 * likely**2 + 20 * noise - 10
    if isinstance(task, Regression):
        return pa.array(minutes)
    codes = np.digitize(minutes, [25, 55])
    return pa.array(task.classes, pa.string()).take(pa.array(codes))
