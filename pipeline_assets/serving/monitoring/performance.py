"""How good the scores of each day were, as far as the labels had matured."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.model_lifecycle.training.dataset import LABEL, known_labels
from pipeline_assets.model_lifecycle.training.judged import Labels
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.serving.batch.answers import scores_of
from pipeline_assets.serving.batch.predictions import DECISION_AT
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import METRICS, Binary, MetricRule, Multiclass, Regression, Task

Status = Literal["known", "not yet known", "too few labels"]
KNOWN: Status = "known"
NOT_YET_KNOWN: Status = "not yet known"
TOO_FEW: Status = "too few labels"
LABEL_RATE, MEAN_LABEL, MEAN_SCORE = "label_rate", "mean_label", "mean_score"
# What is kept of a day; a metric that a rule names and that is not among them is kept as well.
FIGURES: Mapping[type[Task], tuple[str, ...]] = {
    Binary: (LABEL_RATE, MEAN_SCORE, "roc_auc", "log_loss", "brier"),
    Multiclass: tuple(METRICS[Multiclass]),
    Regression: (MEAN_LABEL, MEAN_SCORE, *METRICS[Regression]),
}


@dataclass(frozen=True, kw_only=True)
class DayPerformance:
    """The scores of one day against its labels.

    `labels` are those that had matured. `figures` has every one of `figure_names`: metrics are None unless the day is known, and where they
    do not exist, such as an area where all labels are the same; the mean of the labels is None where there are none.
    """

    day: date
    scores: int
    labels: int
    figures: Mapping[str, float | None]
    status: Status


@dataclass(frozen=True, kw_only=True)
class Performance:
    """The performance of a range of days: of each, in the order of time, and of all together whose labels have matured.

    together: the figures of a day over all `labels` of these days, days with too few of them included; all None where the days together
    have too few, or none has matured.
    """

    days: tuple[DayPerformance, ...]
    labels: int
    together: Mapping[str, float | None]


def figure_names(model: Model) -> tuple[str, ...]:
    """The figures of a day, in the order of their columns."""
    return tuple(dict.fromkeys((*FIGURES[type(model.task)], *(rule.metric for rule in model.monitor.rules))))


def broken_rules(model: Model, figures: Mapping[str, float | None]) -> tuple[str, ...]:
    """The rules that the figures of a day break, in words; a figure that does not exist breaks none."""
    kind = task_kind(model.task)
    values = [(rule, figures[rule.metric]) for rule in model.monitor.rules]
    return tuple(rule_broken(model, rule) for rule, value in values if value is not None and not kind.keeps(rule, value))


def rule_broken(model: Model, rule: MetricRule) -> str:
    """A rule that does not hold, such as "roc_auc below 0.62"."""
    return f"{rule.metric} {'below' if task_kind(model.task).is_minimum(rule.metric) else 'above'} {rule.limit:g}"


def performance(model: Model, scores: pa.Table, labels: pa.Table, clock: datetime) -> Performance:
    """Performance per UTC day of the decisions and of the matured days together, as it stood at `clock` (UTC, event time).

    scores: the keys of the observations, `decision_at` and the scores of each prediction. labels: the columns of the model's label, any
    order, several of a key allowed. A label counts if it was known at `clock` and its decision was at least its horizon before; of several
    the one known last. A day is not yet known before its last decision has matured, and has too few labels with fewer than the monitor
    asks for. Raises TableMismatch if a label does not fit its task.
    """
    asked = pl.DataFrame(scores)
    known = known_labels(model, labels, clock, asked.schema)
    joined = asked.join(known, on=list(model.observations.keys), how="left", maintain_order="left")
    matured = pl.col(DECISION_AT) <= clock - model.label.horizon
    judged = joined.with_columns(pl.when(matured).then(pl.col(LABEL)).alias(LABEL), day=pl.col(DECISION_AT).dt.date())
    by_day = {day: rows for (day,), rows in sorted(judged.partition_by("day", maintain_order=True, as_dict=True).items())}
    days = tuple(_day(model, day, rows, clock) for day, rows in by_day.items())
    matured_days = [day for day in days if day.status != NOT_YET_KNOWN]
    labelled = sum(day.labels for day in matured_days)
    together = dict[str, float | None](dict.fromkeys(figure_names(model)))
    if labelled >= max(model.monitor.min_labels, 1):
        together = _figures(model, pl.concat([by_day[day.day] for day in matured_days]), is_known=True)
    return Performance(days=days, labels=labelled, together=together)


def _day(model: Model, day: date, rows: pl.DataFrame, clock: datetime) -> DayPerformance:
    labels = rows[LABEL].drop_nulls().len()
    status = _status(model, day, labels, clock)
    return DayPerformance(
        day=day, scores=rows.height, labels=labels, figures=_figures(model, rows, is_known=status == KNOWN), status=status
    )


def _figures(model: Model, rows: pl.DataFrame, *, is_known: bool) -> dict[str, float | None]:
    """The means of rows and, of those that are known, their metrics."""
    with_label = rows.drop_nulls(LABEL)
    truth = _truth(model, with_label)
    found = dict.fromkeys(figure_names(model)) | _means(model.task, rows, truth)
    if is_known:
        metrics = task_kind(model.task).metrics(truth, scores_of(model.task, with_label.to_arrow()))
        found |= {name: value for name, value in metrics.items() if name in found}
    return found


def _status(model: Model, day: date, labels: int, clock: datetime) -> Status:
    end = datetime.combine(day + timedelta(days=1), time(), UTC)
    if end + model.label.horizon > clock:
        return NOT_YET_KNOWN
    return KNOWN if labels >= max(model.monitor.min_labels, 1) else TOO_FEW


def _truth(model: Model, rows: pl.DataFrame) -> Labels:
    return task_kind(model.task).encode(pa.chunked_array([rows[LABEL].to_arrow()]), "labels", model.label.column)


def _means(task: Task, rows: pl.DataFrame, truth: Labels) -> dict[str, float | None]:
    """The mean of all scores, and that of the labels; classes have none."""
    if isinstance(task, Multiclass):
        return {}
    of_labels = float(np.mean(truth)) if len(truth) else None
    (column,) = task_kind(task).score_columns()
    return {LABEL_RATE if isinstance(task, Binary) else MEAN_LABEL: of_labels, MEAN_SCORE: float(np.mean(rows[column].to_numpy()))}
