"""What is predicted, from what, and when a candidate is good enough to go live."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pipeline_assets.spec.features import FeatureView, RequestFeature


@dataclass(frozen=True, kw_only=True)
class Observations:
    """The cleaned table of decisions: one row per `key`, asked at `decision_at`, of the day partition of `decision_at`."""

    table: str
    key: str
    decision_at: str


@dataclass(frozen=True, kw_only=True)
class Label:
    """The boolean that is predicted, in a cleaned table of its own because it is known later than it is asked for."""

    table: str
    key: str
    column: str
    known_at: str


@dataclass(frozen=True, kw_only=True)
class Split:
    """Time-blocked: train on `train`, stop early on `validation`, judge on `holdout`, in this order, ending where training is asked."""

    train: timedelta
    validation: timedelta
    holdout: timedelta


@dataclass(frozen=True, kw_only=True)
class Gate:
    """When a candidate may go live; each rule is judged on the same hold-out as its rivals.

    `min_gain_over_baseline` and `min_gain_over_champion` are differences of ROC AUC (the latter may be negative: how much worse is still
    allowed); `max_calibration_error` is the expected calibration error over ten equal-frequency bins; `max_slice_loss` is how much worse
    than the champion a slice of at least `min_slice_rows` may be in ROC AUC; `max_latency_ms` is the 95th percentile of scoring one row.
    """

    min_gain_over_baseline: float
    min_gain_over_champion: float
    max_calibration_error: float
    max_slice_loss: float
    min_slice_rows: int
    max_size_bytes: int
    max_latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of a use case.

    Its features are all features of `views`, then `request_features`; the schedule-only baseline uses `request_features` alone.
    `slices` are columns of the observations by which quality is also reported. `parameters` are XGBoost's own.
    """

    name: str
    question: str
    owner: str
    observations: Observations
    label: Label
    views: tuple[FeatureView, ...]
    request_features: tuple[RequestFeature, ...]
    slices: tuple[str, ...]
    split: Split
    parameters: Mapping[str, float | int | str]
    max_rounds: int
    early_stopping_rounds: int
    gate: Gate
