"""Which of the declared classes is it? Labels are codes of the classes in their order, scores one probability per class."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.model_lifecycle.training.calibration import calibration_error
from pipeline_assets.model_lifecycle.training.judged import Judged, Labels, Scores
from pipeline_assets.model_lifecycle.training.tasks.kind import Answers, TaskKind, unfit, without_nulls
from pipeline_assets.spec.tasks import Multiclass

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTED = "predicted"
FOREIGN_SHOWN = 5
FEWEST_CLASSES = 2
# A class of probability 0 that came all the same: the loss is large and finite.
SMALLEST = sys.float_info.epsilon


@dataclass(frozen=True, kw_only=True)
class MulticlassKind(TaskKind):
    """The kind of a model that names one of several classes."""

    task: Multiclass
    summary_prefix: str = "rows_"

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """One probability per class, stopped by the logarithmic loss."""
        return {"objective": "multi:softprob", "eval_metric": "mlogloss", "num_class": len(self.task.classes)}

    def encode(self, labels: "pa.ChunkedArray", table: str, column: str) -> Labels:
        """The place of each label among the classes, from 0; raises TableMismatch for another type, a null, or a class not declared."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if pa.types.is_dictionary(labels.type):
            labels = labels.cast(labels.type.value_type)
        if not (pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type) or pa.types.is_string_view(labels.type)):
            raise unfit(table, column, labels.type, "text (task Multiclass)")
        texts = without_nulls(labels, table, column).cast(pa.string())
        codes = pc.index_in(texts, value_set=pa.array(self.task.classes, pa.string()))
        if codes.null_count:
            foreign = sorted(pc.unique(texts.filter(pc.is_null(codes))).to_pylist())[:FOREIGN_SHOWN]
            problem = f"has the class {', '.join(map(repr, foreign))} in the label {column}, where one of {', '.join(self.task.classes)}"
            raise TableMismatch(table, f"{problem} was expected", [column])
        positions: Labels = codes.to_numpy().astype(np.int64)
        return positions

    def metrics(self, labels: Labels, scores: Scores) -> dict[str, float | None]:
        """Accuracy of the likeliest class, and means over classes.

        `macro_f1` is the mean F1 over the classes that occur among labels or predictions. `roc_auc` is the mean over the classes that
        occur of one against the rest, None where only one occurs. `brier` is the squared distance to the class that came, summed over the
        classes (0 to 2). `calibration_error` is the mean over all classes of one against the rest.
        """
        import numpy as np
        from sklearn.metrics import f1_score

        predicted, came = scores.argmax(axis=1), self._came(labels)
        likelihood = np.maximum(scores[np.arange(len(labels)), labels], SMALLEST)
        return {
            "accuracy": float((predicted == labels).mean()),
            "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0.0)),
            "roc_auc": self._roc_auc(came, scores),
            "log_loss": float(-np.log(likelihood).mean()),
            "brier": float(((scores - came) ** 2).sum(axis=1).mean()),
            "calibration_error": float(np.mean([calibration_error(came[:, one], scores[:, one]) for one in range(came.shape[1])])),
        }

    def constant(self, labels: Labels, rows: int, metric: str) -> Scores:
        """The share of each class, whatever the metric."""
        import numpy as np

        del metric
        return np.tile(self._counts(labels) / len(labels), (rows, 1))

    def summary(self, labels: Labels) -> dict[str, float]:
        """The rows of each class."""
        return dict(zip(self.task.classes, self._counts(labels).tolist(), strict=True))

    def shortage(self, labels: Labels, *, is_train: bool) -> str | None:
        """Training needs every class, every block at least two."""
        counts = self.summary(labels)
        missing = [name for name, rows in counts.items() if not rows]
        if is_train and missing:
            return f"{len(labels)} rows, none of the class {' and none of '.join(map(repr, missing))}, where every class is needed"
        if len(counts) - len(missing) < FEWEST_CLASSES:
            return f"{len(labels)} rows, all of one class, where at least two are needed"
        return None

    def plots(self, judged: Judged) -> dict[str, bytes]:
        """The confusion matrix, and ROC and calibration of each class against the rest."""
        from pipeline_assets.model_lifecycle.training.plots import multiclass as plots

        return plots.draw(judged, self.task.classes)

    def score_columns(self) -> tuple[str, ...]:
        """One probability per class, in their order."""
        return tuple(names.score_of(one) for one in self.task.classes)

    def answers(self, scores: Scores) -> Answers:
        """The likeliest class (the first of equals), then the probability of each."""
        import pyarrow as pa

        likeliest = pa.array(self.task.classes, pa.string()).take(pa.array(scores.argmax(axis=1)))
        return [
            (PREDICTED, likeliest),
            *((name, pa.array(one, pa.float64())) for name, one in zip(self.score_columns(), scores.T, strict=True)),
        ]

    def _came(self, labels: Labels) -> Labels:
        """Whether each class came: rows × classes, booleans."""
        import numpy as np

        came: Labels = labels[:, None] == np.arange(len(self.task.classes))
        return came

    def _counts(self, labels: Labels) -> Labels:
        import numpy as np

        return np.bincount(labels, minlength=len(self.task.classes))

    def _roc_auc(self, came: Labels, scores: Scores) -> float | None:
        import numpy as np
        from sklearn.metrics import roc_auc_score

        occurring = np.flatnonzero(came.any(axis=0))
        if len(occurring) < FEWEST_CLASSES:
            return None
        return float(np.mean([roc_auc_score(came[:, one], scores[:, one]) for one in occurring]))
