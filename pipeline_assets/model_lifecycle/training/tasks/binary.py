"""Is it so? Labels are booleans, a score is the probability of a true one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline_assets.model_lifecycle.training.calibration import calibration_error
from pipeline_assets.model_lifecycle.training.judged import Judged, Labels, Scores
from pipeline_assets.model_lifecycle.training.tasks.kind import Answers, TaskKind, unfit, without_nulls
from pipeline_assets.spec.tasks import Binary

if TYPE_CHECKING:
    import pyarrow as pa

SCORE = "score"


@dataclass(frozen=True, kw_only=True)
class BinaryKind(TaskKind):
    """The kind of a model that answers yes or no."""

    task: Binary

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """Logistic regression, stopped by the logarithmic loss."""
        return {"objective": "binary:logistic", "eval_metric": "logloss"}

    def encode(self, labels: "pa.ChunkedArray", table: str, column: str) -> Labels:
        """The labels as booleans; raises TableMismatch for any other type, or a null."""
        import pyarrow as pa

        if not pa.types.is_boolean(labels.type):
            raise unfit(table, column, labels.type, "a boolean (task Binary)")
        truths: Labels = without_nulls(labels, table, column).to_numpy()
        return truths

    def metrics(self, labels: Labels, scores: Scores) -> dict[str, float | None]:
        """Areas under the ROC and the precision-recall curve (None where all labels are the same), losses, and the calibration error."""
        from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

        has_both = 0 < labels.sum() < len(labels)
        return {
            "roc_auc": float(roc_auc_score(labels, scores)) if has_both else None,
            "pr_auc": float(average_precision_score(labels, scores)) if has_both else None,
            "log_loss": float(log_loss(labels, scores, labels=[False, True])),
            "brier": float(brier_score_loss(labels, scores, labels=[False, True])),
            "calibration_error": calibration_error(labels, scores),
        }

    def constant(self, labels: Labels, rows: int, metric: str) -> Scores:
        """The share of true labels, whatever the metric."""
        import numpy as np

        del metric
        return np.full(rows, labels.mean(), dtype=np.float64)

    def summary(self, labels: Labels) -> dict[str, float]:
        """How many labels are true."""
        return {"positives": int(labels.sum())}

    def shortage(self, labels: Labels, *, is_train: bool) -> str | None:
        """Every block needs both outcomes."""
        del is_train
        if 0 < labels.sum() < len(labels):
            return None
        return f"{len(labels)} rows, all with the label {bool(labels[0])}, where both outcomes are needed"

    def plots(self, judged: Judged) -> dict[str, bytes]:
        """Calibration, ROC, and precision against recall."""
        from pipeline_assets.model_lifecycle.training.plots import binary as plots

        return plots.draw(judged)

    def score_columns(self) -> tuple[str, ...]:
        """The probability of a true label."""
        return (SCORE,)

    def answers(self, scores: Scores) -> Answers:
        """The probability of a true label."""
        import pyarrow as pa

        return [(SCORE, pa.array(scores, pa.float64()))]
