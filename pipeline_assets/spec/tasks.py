"""What kind of answer a model gives: yes or no, one of several classes, or a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["high", "low"]


@dataclass(frozen=True, kw_only=True)
class Binary:
    """Is it so? The label is a boolean; the score is the probability that it is true."""


@dataclass(frozen=True, kw_only=True)
class Multiclass:
    """Which of `classes` is it? The label is text, one of `classes`; there is one probability per class, and they add up to 1."""

    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Regression:
    """How much is it? The label is an integer or a number in `unit` (such as "minutes"), and so is the predicted value."""

    unit: str


Task = Binary | Multiclass | Regression

# The metrics of each kind of task, each with the direction in which it is better.
METRICS: Mapping[type[Task], Mapping[str, Better]] = {
    Binary: {"roc_auc": "high", "pr_auc": "high", "log_loss": "low", "brier": "low", "calibration_error": "low"},
    Multiclass: {
        "accuracy": "high", "macro_f1": "high", "roc_auc": "high", "log_loss": "low", "brier": "low", "calibration_error": "low",
    },
    Regression: {"mae": "low", "rmse": "low", "r2": "high", "bias": "low", "calibration_error": "low"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MetricRule:
    """`metric` (one that the model's task has) must not be worse than `limit`: at least that where more is better, else at most."""

    metric: str
    limit: float
