"""How good scores are, overall, by slice and by month."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Labels = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]
BINS = 10
FIGURES = ("roc_auc", "pr_auc", "log_loss", "brier", "calibration_error")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The quality of scores on `rows` rows, of which `positives` have a true label.

    The two areas under curves do not exist where all labels are the same: then they are None. `calibration_error` is the expected
    calibration error over ten equal-frequency bins of the score.
    """

    rows: int
    positives: int
    roc_auc: float | None
    pr_auc: float | None
    log_loss: float
    brier: float
    calibration_error: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one model on one table: overall, by value of each slice column, and by month (YYYY-MM, UTC) of the decision."""

    overall: Scores
    slices: Mapping[str, Mapping[str, Scores]]
    months: Mapping[str, Scores]

    def metrics(self) -> dict[str, float]:
        """All figures that exist, by name: `roc_auc`, `slice/<column>/<value>/roc_auc`, `month/<month>/roc_auc` and so on."""
        return {name: value for name, value in self._named() if value is not None}

    def _named(self) -> Iterator[tuple[str, float | None]]:
        yield from asdict(self.overall).items()
        for column, values in self.slices.items():
            for value, scores in values.items():
                yield from ((f"slice/{column}/{value}/{figure}", number) for figure, number in asdict(scores).items())
        for month, scores in self.months.items():
            yield from ((f"month/{month}/{figure}", number) for figure, number in asdict(scores).items())


def evaluate(table: pa.Table, labels: Labels, scores: Values, *, slices: Sequence[str], decision_at: str) -> Evaluation:
    """The quality of `scores` for the rows of `table` in their order; rows without a value in a slice column are in none of its slices."""
    months = pc.strftime(table[decision_at], format="%Y-%m")
    return Evaluation(
        overall=scores_of(labels, scores),
        slices={column: _by_value(table[column], labels, scores) for column in slices},
        months=_by_value(months, labels, scores),
    )


def scores_of(labels: Labels, scores: Values) -> Scores:
    """The quality of scores (probabilities of a true label), at least one row; row i of both belongs together."""
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    positives = int(labels.sum())
    has_both = 0 < positives < len(labels)
    return Scores(
        rows=len(labels),
        positives=positives,
        roc_auc=float(roc_auc_score(labels, scores)) if has_both else None,
        pr_auc=float(average_precision_score(labels, scores)) if has_both else None,
        log_loss=float(log_loss(labels, scores, labels=[False, True])),
        brier=float(brier_score_loss(labels, scores, labels=[False, True])),
        calibration_error=calibration_error(labels, scores),
    )


def calibration_error(labels: Labels, scores: Values) -> float:
    """The mean distance between what was said and what came true, over ten bins of as many rows each, in order of the score."""
    parts = calibration(labels, scores)
    return math.fsum(rows * abs(said - came) for said, came, rows in parts) / len(labels)


def calibration(labels: Labels, scores: Values) -> list[tuple[float, float, int]]:
    """Mean score, share of true labels and rows of each bin of the score, lowest first; equal scores keep the order of their rows."""
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    return [(float(scores[part].mean()), float(labels[part].mean()), len(part)) for part in bins]


def _by_value(column: pa.ChunkedArray, labels: Labels, scores: Values) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    for value in sorted(value for value in pc.unique(column).to_pylist() if value is not None):
        rows = pc.fill_null(pc.equal(column, value), False).to_numpy()
        found[str(value)] = scores_of(labels[rows], scores[rows])
    return found
