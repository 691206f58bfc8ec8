"""The kinds of answers that models give, each behind the same small interface: yes or no, one of several classes, a number."""

from pipeline_assets.model_lifecycle.training.tasks.binary import BinaryKind
from pipeline_assets.model_lifecycle.training.tasks.kind import TaskKind
from pipeline_assets.model_lifecycle.training.tasks.multiclass import MulticlassKind
from pipeline_assets.model_lifecycle.training.tasks.regression import RegressionKind
from pipeline_assets.spec.tasks import Binary, Multiclass, Task


def task_kind(task: Task) -> TaskKind:
    """How a task learns, judges and answers."""
    if isinstance(task, Binary):
        return BinaryKind(task=task)
    if isinstance(task, Multiclass):
        return MulticlassKind(task=task)
    return RegressionKind(task=task)
