"""How good scores are, overall, by slice and by month."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.model_lifecycle.training.judged import Labels, Scores
from pipeline_assets.model_lifecycle.training.tasks.kind import TaskKind


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The quality of scores on `rows` rows.

    `labels` sums up the labels; `figures` has every metric of the task, None where it does not exist.
    """

    rows: int
    labels: Mapping[str, float]
    figures: Mapping[str, float | None]

    def metrics(self) -> dict[str, float]:
        """Rows, labels and all figures that exist, by name."""
        known = {**self.labels, **{name: value for name, value in self.figures.items() if value is not None}}
        return {"rows": float(self.rows), **{name: float(value) for name, value in known.items()}}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The quality of one model on one table: overall, by value of each slice column, and by month (YYYY-MM, UTC) of the decision."""

    overall: Quality
    slices: Mapping[str, Mapping[str, Quality]]
    months: Mapping[str, Quality]

    def groups(self) -> Iterator[tuple[str, str, Quality]]:
        """The quality of each group of rows with its column and value; that of a month under the column `month`."""
        for column, values in (*self.slices.items(), ("month", self.months)):
            yield from ((column, value, quality) for value, quality in values.items())


def evaluate(kind: TaskKind, table: pa.Table, labels: Labels, scores: Scores, *, slices: Sequence[str], decision_at: str) -> Evaluation:
    """The quality of `scores` for the rows of `table` in their order; rows without a value in a slice column are in none of its slices."""
    months = pc.strftime(table[decision_at], format="%Y-%m")
    return Evaluation(
        overall=quality_of(kind, labels, scores),
        slices={column: _by_value(kind, table[column], labels, scores) for column in slices},
        months=_by_value(kind, months, labels, scores),
    )


def quality_of(kind: TaskKind, labels: Labels, scores: Scores) -> Quality:
    """The quality of scores of at least one row; row i of labels and scores belongs together."""
    summary = {kind.summary_prefix + name: value for name, value in kind.summary(labels).items()}
    return Quality(rows=len(labels), labels=summary, figures=kind.metrics(labels, scores))


def _by_value(kind: TaskKind, column: pa.ChunkedArray, labels: Labels, scores: Scores) -> dict[str, Quality]:
    found: dict[str, Quality] = {}
    for value in sorted(value for value in pc.unique(column).to_pylist() if value is not None):
        rows = pc.fill_null(pc.equal(column, value), False).to_numpy()
        found[str(value)] = quality_of(kind, labels[rows], scores[rows])
    return found
