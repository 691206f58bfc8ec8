"""The answers of a model as columns of a table: their types, what they mean, and which values no model of its task can give."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, LiteralString

from pipeline_assets.core import names
from pipeline_assets.core.errors import NotTrained
from pipeline_assets.core.names import OBSERVATION_KNOWN_AT
from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Binary, Multiclass, Regression, Task

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg.sql import Composable

    from pipeline_assets.model_lifecycle.registry.versions import LoadedModel
    from pipeline_assets.model_lifecycle.training.contract import Answer

PREDICTED = "predicted"
NUMBER: LiteralString = "double precision"
VERSION_TYPE: LiteralString = "timestamptz"
# Probabilities are 32-bit floats; so many of them add up to 1 as exactly as this.
SUM_TOLERANCE = 1e-6


def answer_columns(task: Task) -> Mapping[str, str]:
    """The columns of an answer with their types of Postgres, in the order in which a table shows them."""
    scores: dict[str, str] = dict.fromkeys(task_kind(task).score_columns(), NUMBER)
    return {PREDICTED: "text", **scores} if isinstance(task, Multiclass) else scores


def version_columns(model: Model) -> tuple[str, ...]:
    """The column that says which version of its observation was judged, where observations have versions."""
    return () if model.observations.versions is None else (OBSERVATION_KNOWN_AT,)


def lineage(model: Model) -> dict[str, tuple[tuple[names.AssetName, str], ...]]:
    """Column of the predictions → the columns of the vectors that it comes from: an answer from all features."""
    vectors, features = names.vectors(model.name), [feature.name for feature in feature_columns(model)]
    same = (*model.observations.keys, *version_columns(model), names.FEATURE_HASH)
    return {
        **{column: ((vectors, column),) for column in same},
        names.DECISION_AT: ((vectors, model.observations.decision_at),),
        **dict.fromkeys(answer_columns(model.task), tuple((vectors, feature) for feature in features)),
    }


def meanings(task: Task) -> Mapping[str, str]:
    """What each column of an answer says, one sentence each."""
    if isinstance(task, Multiclass):
        chances = {names.score_of(one): f"The probability of the class '{one}'." for one in task.classes}
        return {PREDICTED: "The likeliest class.", **chances}
    (column,) = task_kind(task).score_columns()
    return {column: f"The predicted value in {task.unit}." if isinstance(task, Regression) else "The probability of a true label."}


def range_rule(task: Task) -> str:
    """What must hold of every answer, as a sentence."""
    if isinstance(task, Regression):
        return "Every value is a finite number."
    if isinstance(task, Multiclass):
        return f"Every probability is from 0 to 1, and those of a row add up to 1 within {SUM_TOLERANCE:g}."
    return "Every score is a probability: from 0 to 1, and not NaN."


def unfit_answer(task: Task) -> "Composable":
    """The condition in SQL for a row whose answer breaks `range_rule`; NaN is greater than any number in Postgres."""
    from psycopg.sql import SQL, Identifier, Literal

    columns = [Identifier(column) for column in task_kind(task).score_columns()]
    if isinstance(task, Regression):
        return SQL("{} in ('NaN', 'Infinity', '-Infinity')").format(*columns)
    outside = [SQL("{} not between 0 and 1").format(column) for column in columns]
    if isinstance(task, Binary):
        return outside[0]
    total = SQL("abs({} - 1) > {}").format(SQL(" + ").join(columns), Literal(SUM_TOLERANCE))
    return SQL(" or ").join([*outside, total])


def scores_of(task: Task, table: "pa.Table") -> Scores:
    """The scores in the columns of a table, in the form in which a scorer returns them: (rows,) or (rows, classes)."""
    import numpy as np

    parts = [table[column].to_numpy() for column in task_kind(task).score_columns()]
    scores: Scores = np.column_stack(parts) if isinstance(task, Multiclass) else parts[0]
    return scores


def with_scores(task: Task, table: "pa.Table", scores: Scores) -> "pa.Table":
    """The table with the scores of its rows as further columns."""
    found = dict(task_kind(task).answers(scores))
    for column in task_kind(task).score_columns():
        table = table.append_column(column, found[column])
    return table


def fitting(model: Model, loaded: "LoadedModel") -> "LoadedModel":
    """The version, if it gives the answers that the model declares now; raises NotTrained if its task, classes or unit were others."""
    from pipeline_assets.model_lifecycle.training.contract import answer_of

    declared = answer_of(model.task)
    if loaded.contract.answer == declared:
        return loaded
    lacks = f"live version that answers as {_in_words(declared)}: version {loaded.version} answers as "
    raise NotTrained(model.name, lacks + _in_words(loaded.contract.answer), "/".join(names.champion(model.name)))


def _in_words(answer: "Answer") -> str:
    task, classes, unit = answer
    if classes:
        return f"{task} ({', '.join(classes)})"
    return task if unit is None else f"{task} in {unit}"
