"""How much is it? Labels and scores are numbers in the unit of the task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline_assets.model_lifecycle.training.calibration import calibration_error
from pipeline_assets.model_lifecycle.training.judged import Judged, Labels, Scores
from pipeline_assets.model_lifecycle.training.narrow import narrowed
from pipeline_assets.model_lifecycle.training.tasks.kind import Answers, TaskKind, unfit, without_nulls
from pipeline_assets.spec.tasks import Regression

if TYPE_CHECKING:
    import pyarrow as pa

VALUE = "value"


@dataclass(frozen=True, kw_only=True)
class RegressionKind(TaskKind):
    """The kind of a model that predicts a number."""

    task: Regression
    summary_prefix: str = "label_"

    @property
    def parameters(self) -> Mapping[str, float | int | str]:
        """Least squares, stopped by the root of the mean square."""
        return {"objective": "reg:squarederror", "eval_metric": "rmse"}

    def encode(self, labels: "pa.ChunkedArray", table: str, column: str) -> Labels:
        """The labels as 64-bit floats; XGBoost learns from them as 32-bit floats, so they have to be finite as such.

        Raises TableMismatch for a type that is no number or a null, ValueUnfit for NaN, an infinite value, or one beyond 32-bit floats.
        """
        import pyarrow as pa

        kind = labels.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise unfit(table, column, kind, "an integer or a number (task Regression)")
        present = without_nulls(labels, table, column)
        narrowed(present, table, f"the label {column}")
        numbers: Labels = present.cast(pa.float64(), safe=False).to_numpy()
        return numbers

    def metrics(self, labels: Labels, scores: Scores) -> dict[str, float | None]:
        """Errors in the unit of the label, and `r2` (None where all labels are the same); `bias` is the size of the mean error."""
        import numpy as np

        errors = scores - labels
        spread = float(((labels - labels.mean()) ** 2).sum())
        return {
            "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
            "r2": float(1 - (errors**2).sum() / spread) if spread > 0 else None,
            "bias": float(abs(errors.mean())),
            "calibration_error": calibration_error(labels, scores),
        }

    def constant(self, labels: Labels, rows: int, metric: str) -> Scores:
        """The median where the absolute error counts, else the mean."""
        import numpy as np

        return np.full(rows, np.median(labels) if metric == "mae" else labels.mean(), dtype=np.float64)

    def summary(self, labels: Labels) -> dict[str, float]:
        """Mean, least and greatest label; nothing where there are no rows."""
        if not len(labels):
            return {}
        return {"mean": float(labels.mean()), "min": float(labels.min()), "max": float(labels.max())}

    def shortage(self, labels: Labels, *, is_train: bool) -> str | None:
        """Training needs at least two different values."""
        import numpy as np

        if is_train and len(np.unique(labels)) == 1:
            return f"{len(labels)} rows, all with the label {labels[0]:g}, where at least two different values are needed"
        return None

    def plots(self, judged: Judged) -> dict[str, bytes]:
        """Predicted against actual, the residuals, and the error by decile of the prediction."""
        from pipeline_assets.model_lifecycle.training.plots import regression as plots

        return plots.draw(judged, self.task.unit)

    def score_columns(self) -> tuple[str, ...]:
        """The predicted value."""
        return (VALUE,)

    def answers(self, scores: Scores) -> Answers:
        """The predicted value."""
        import pyarrow as pa

        return [(VALUE, pa.array(scores, pa.float64()))]
