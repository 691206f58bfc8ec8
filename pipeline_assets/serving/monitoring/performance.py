"""How good the scores of each day were, as far as the labels are known."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KNOWN, NOT_YET_KNOWN = "known", "not yet known"


@dataclass(frozen=True, kw_only=True)
class DayPerformance:
    """The scores of one day against its labels; the three measures are None while too few labels, or labels of one kind only, are known."""

    day: date
    scores: int
    labels: int
    label_rate: float | None
    mean_score: float
    roc_auc: float | None
    log_loss: float | None
    brier: float | None

    @property
    def status(self) -> str:
        """Whether the day's performance is known."""
        return KNOWN if self.roc_auc is not None else NOT_YET_KNOWN


def performance(scores: pa.Table, labels: pa.Table, *, key: str, decision_at: str, label: str, min_labels: int) -> list[DayPerformance]:
    """Performance per UTC day of `decision_at`.

    scores: one row per `key` with `score` in [0, 1]. labels: one row per `key` with a boolean `label`; a key without a row has a label that
    is not known yet. A day with fewer than `min_labels` labels is not yet known.
    """
    joined = scores.join(labels.select([key, label]), keys=key, join_type="left outer")
    day = pc.cast(joined.column(decision_at), pa.date32())
    return [_day(joined.filter(pc.equal(day, one)), one.as_py(), label, min_labels) for one in pc.unique(day).sort()]


def _day(rows: pa.Table, day: date, label: str, min_labels: int) -> DayPerformance:
    known = rows.filter(pc.is_valid(rows.column(label)))
    truth = known.column(label).to_numpy().astype(np.int8)
    measures = (
        _measures(truth, known.column("score").to_numpy()) if len(truth) >= min_labels and len(set(truth)) > 1 else (None, None, None)
    )
    return DayPerformance(
        day=day,
        scores=rows.num_rows,
        labels=known.num_rows,
        label_rate=float(truth.mean()) if len(truth) else None,
        mean_score=float(pc.mean(rows.column("score")).as_py()),
        roc_auc=measures[0],
        log_loss=measures[1],
        brier=measures[2],
    )


def _measures(
    truth: "np.ndarray[tuple[int], np.dtype[np.int8]]", score: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> tuple[float, float, float]:
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    return float(roc_auc_score(truth, score)), float(log_loss(truth, score)), float(brier_score_loss(truth, score))
