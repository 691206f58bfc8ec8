"""What every kind of task answers for: its labels, what it learns with, its metrics, its baseline, its plots and its columns of scores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.model_lifecycle.training.judged import Judged, Labels, Scores
from pipeline_assets.spec.tasks import METRICS, Better, MetricRule, Task

if TYPE_CHECKING:
    import pyarrow as pa

Answers: TypeAlias = "list[tuple[str, pa.Array]]"


@dataclass(frozen=True, kw_only=True)
class TaskKind(ABC):
    """One kind of task.

    Labels are encoded ones (`encode`), scores 64-bit floats, both in the order of the rows: (n,) probabilities of a true label for
    binary, (n, classes) probabilities for multiclass, (n,) values for regression. `summary_prefix` leads the keys of `summary` where they
    stand beside metrics.
    """

    task: Task
    summary_prefix: str = ""

    @property
    def directions(self) -> Mapping[str, Better]:
        """The metrics of the task, each with the direction in which it is better."""
        return METRICS[type(self.task)]

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, float | int | str]:
        """XGBoost's objective and evaluation metric of this kind."""

    @abstractmethod
    def encode(self, labels: "pa.ChunkedArray", table: str, column: str) -> Labels:
        """The labels as numbers, one per row; raises TableMismatch with the column and its type, or the value, that does not fit."""

    @abstractmethod
    def metrics(self, labels: Labels, scores: Scores) -> dict[str, float | None]:
        """Every metric of the task on at least one row; None where it does not exist, such as an area where all labels are the same."""

    @abstractmethod
    def constant(self, labels: Labels, rows: int, metric: str) -> Scores:
        """The scores of `rows` rows by the constant that suits `metric` best on these labels: the baseline of a model without requests."""

    @abstractmethod
    def summary(self, labels: Labels) -> dict[str, float]:
        """The labels in figures; empty where there are no rows and the figures would not exist."""

    @abstractmethod
    def shortage(self, labels: Labels, *, is_train: bool) -> str | None:
        """What the labels of a block lack to learn or judge by, as a part of a sentence after "has"; None where they suffice."""

    @abstractmethod
    def plots(self, judged: Judged) -> dict[str, bytes]:
        """What a person looks at before trusting such a model, as PNG images by name."""

    @abstractmethod
    def score_columns(self) -> tuple[str, ...]:
        """The columns that hold the scores of a prediction."""

    @abstractmethod
    def answers(self, scores: Scores) -> Answers:
        """The columns of predictions with their values, in the order in which a table shows them."""

    def fitting(self, own: Mapping[str, float | int | str]) -> dict[str, float | int | str]:
        """XGBoost's parameters of a model: those of the kind, then the model's `own`, which win.

        A model with another objective and no evaluation metric gets the metric that XGBoost has for that objective.
        """
        defaults = dict(self.parameters)
        if own.get("objective", defaults["objective"]) != defaults["objective"]:
            del defaults["eval_metric"]
        return {**defaults, **own}

    def gain(self, metric: str, ours: float | None, theirs: float | None) -> float | None:
        """By how much ours is better than theirs, whichever direction is better; None where one of them does not exist."""
        if ours is None or theirs is None:
            return None
        return ours - theirs if self.is_minimum(metric) else theirs - ours

    def is_minimum(self, metric: str) -> bool:
        """Whether a limit of the metric is a least value: more of it is better."""
        return self.directions[metric] == "high"

    def keeps(self, rule: MetricRule, value: float | None) -> bool:
        """Whether a value keeps a rule; to be exactly at the limit is enough, and a value that does not exist keeps none."""
        if value is None:
            return False
        return value >= rule.limit if self.is_minimum(rule.metric) else value <= rule.limit

    def in_words(self, rules: Sequence[MetricRule]) -> str:
        """Rules as a sentence has them, such as "calibration_error is at most 0.08"."""
        bounds = [(rule, "at least" if self.is_minimum(rule.metric) else "at most") for rule in rules]
        return ", ".join(f"{rule.metric} is {bound} {rule.limit:g}" for rule, bound in bounds)


def unfit(table: str, column: str, kind: object, expected: str) -> TableMismatch:
    """The error of a label whose type does not fit its task."""
    return TableMismatch(table, f"has the label {column} as {kind}, where {expected} was expected", [column])


def without_nulls(labels: "pa.ChunkedArray", table: str, column: str) -> "pa.ChunkedArray":
    """The labels; raises TableMismatch if one is null."""
    if labels.null_count:
        raise TableMismatch(
            table, f"has {labels.null_count} nulls in the label {column}, where a value was expected in every row", [column]
        )
    return labels
