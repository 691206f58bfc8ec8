"""How good the reference model is, beside the schedule-only baseline, and how long training takes.

    python -m benchmarks.model

Two tables: a model of what was known on 1 May, asked about every later month of the year; and what the gate would have said of a model
trained anew at the beginning of each month. Both on vectors that the feature kernel computes from the data itself, without any service.
"""

import time
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xgboost

from benchmarks.features import flight_tables
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.model_lifecycle.feature_store.offline import feature_names
from pipeline_assets.model_lifecycle.training.blocks import HOLDOUT, TRAIN
from pipeline_assets.model_lifecycle.training.contract import baseline_features, model_features
from pipeline_assets.model_lifecycle.training.dataset import build_training_set, labels_of, only
from pipeline_assets.model_lifecycle.training.evaluate import Quality, evaluate, quality_of
from pipeline_assets.model_lifecycle.training.fit import Fitted, fit
from pipeline_assets.model_lifecycle.training.judged import Labels, Scores
from pipeline_assets.model_lifecycle.training.matrix import feature_matrix
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.processing.features.request import request_features
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.use_cases.nyc_flights import use_case

MODEL = next(model for model in use_case.models if model.name == "flight_delay")
KIND = task_kind(MODEL.task)
TRAINED_AT = datetime(2013, 5, 1, tzinfo=UTC)
MONTHS = [datetime(2013, month, 1, tzinfo=UTC) for month in range(4, 13)]
TARGET = 0.04


def all_vectors() -> tuple[pa.Table, pa.Table]:
    """Vectors and labels of the whole year."""
    flights, events = flight_tables()
    planned = (pl.col("scheduled_arrival_at") - pl.col("scheduled_departure_at")).dt.total_minutes()
    observations = pl.DataFrame(flights).with_columns(planned.alias("planned_minutes")).to_arrow()
    columns = {name: observations[name] for name in (*MODEL.observations.keys, MODEL.observations.decision_at, *MODEL.slices)}
    for view in MODEL.views:
        found = view_features(view, observations, events[view.source.name])
        columns |= dict(zip(found.column_names, found.columns, strict=True))
    asked = request_features(MODEL.request_features, observations)
    vectors = pa.table(columns | dict(zip(asked.column_names, asked.columns, strict=True)))
    vectors = vectors.append_column(FEATURE_HASH, feature_hashes(vectors, feature_names(MODEL)))
    return vectors, events[MODEL.label.table].select([*MODEL.label.keys, MODEL.label.column, MODEL.label.known_at])


def learn(vectors: pa.Table, labels: pa.Table, as_of: datetime) -> tuple[pa.Table, Fitted, Fitted, float]:
    """The training set as of a time, the model and the baseline that are learned from it, and the seconds that learning both takes."""
    training_set = build_training_set(MODEL, vectors, labels, as_of)
    begun = time.perf_counter()
    features = model_features(MODEL, only(training_set, TRAIN))
    fitted = fit(MODEL, features, training_set, lambda _: None)
    baseline = fit(MODEL, baseline_features(MODEL, features), training_set, lambda _: None)
    return training_set, fitted, baseline, time.perf_counter() - begun


def later_months(vectors: pa.Table, labels: pa.Table) -> None:
    """Prints the ROC AUC of every month after 1 May, of a model that was trained then."""
    training_set, fitted, baseline, seconds = learn(vectors, labels, TRAINED_AT)
    known = vectors.join(labels, list(MODEL.observations.keys), right_keys=list(MODEL.label.keys), join_type="inner")
    later = known.filter(pc.greater_equal(known[MODEL.observations.decision_at], TRAINED_AT))
    truth: Labels = later[MODEL.label.column].to_numpy()
    decided = MODEL.observations.decision_at
    ours, theirs = (evaluate(KIND, later, truth, scores_by(each, later), slices=(), decision_at=decided) for each in (fitted, baseline))
    print(f"Trained on 1 May: {training_set.num_rows:,} rows, {len(fitted.features)} features, {fitted.rounds} rounds;", end=" ")
    print(f"model and baseline in {seconds:.1f} s, {len(fitted.artifact) / 1e6:.1f} MB\n")
    print("month      rows    model  baseline     gain  calibration error")
    for month, scores in ours.months.items():
        shown = line(scores, theirs.months[month])
        print(f"{month}  {shown}" if month >= f"{TRAINED_AT:%Y-%m}" and month < "2014" else f"{month}  {shown}  (rest)")
    gains = [gain(scores, theirs.months[month]) for month, scores in ours.months.items() if month < "2014"]
    print(f"least gain of a month: {min(gains):.4f} (wanted: {TARGET})\n")


def each_month(vectors: pa.Table, labels: pa.Table) -> None:
    """Prints what the hold-out says of a model and its baseline, trained anew on the first of each month."""
    print("as of      rows    model  baseline     gain  calibration error  rounds  train rows  seconds")
    for as_of in MONTHS:
        training_set, fitted, baseline, seconds = learn(vectors, labels, as_of)
        held = only(training_set, HOLDOUT)
        ours, theirs = (quality_of(KIND, labels_of(MODEL, held), scores_by(each, held)) for each in (fitted, baseline))
        rows = only(training_set, TRAIN).num_rows
        print(f"{as_of:%Y-%m}  {line(ours, theirs)}  {fitted.rounds:>6}  {rows:>10,}  {seconds:>7.1f}")


def scores_by(fitted: Fitted, rows: pa.Table) -> Scores:
    """The scores of rows by the model as it would be loaded from its file."""
    booster = xgboost.Booster(model_file=bytearray(fitted.artifact))
    found: Scores = booster.predict(feature_matrix(rows, fitted.features)).astype("float64")
    return found


def gain(ours: Quality, theirs: Quality) -> float:
    """The difference of ROC AUC; raises ValueError where it does not exist."""
    found = KIND.gain("roc_auc", ours.figures["roc_auc"], theirs.figures["roc_auc"])
    if found is None:
        raise ValueError("All labels are the same.")
    return found


def line(ours: Quality, theirs: Quality) -> str:
    """One row of a table."""
    areas = f"{ours.figures['roc_auc']:.4f}    {theirs.figures['roc_auc']:.4f}"
    return f"{ours.rows:>7,}   {areas}  {gain(ours, theirs):+.4f}             {ours.figures['calibration_error']:.4f}"


def main() -> None:
    """Computes the vectors once and prints both tables."""
    begun = time.perf_counter()
    vectors, labels = all_vectors()
    print(f"{vectors.num_rows:,} vectors in {time.perf_counter() - begun:.1f} s\n")
    later_months(vectors, labels)
    each_month(vectors, labels)


if __name__ == "__main__":
    main()
