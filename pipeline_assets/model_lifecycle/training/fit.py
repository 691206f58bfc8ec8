"""Learning: gradient-boosted trees by XGBoost's native interface, stopped early on the validation block."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core.errors import LearningRefused
from pipeline_assets.model_lifecycle.training.blocks import TRAIN, VALIDATION, BlockName
from pipeline_assets.model_lifecycle.training.contract import ModelFeature
from pipeline_assets.model_lifecycle.training.dataset import decision_of, labels_of, only
from pipeline_assets.model_lifecycle.training.matrix import THREADS, feature_matrix
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    import xgboost

OnProgress = Callable[[str], None]
FORMAT = "ubj"
ROUNDS_PER_LINE = 25
SOURCE_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A learned model: its file in XGBoost's UBJ, the rounds kept in it, and the validation loss after every round that was tried."""

    artifact: bytes
    features: tuple[ModelFeature, ...]
    rounds: int
    losses: tuple[float, ...]


def fit(model: Model, features: Sequence[ModelFeature], training_set: pa.Table, on_progress: OnProgress) -> Fitted:
    """Learns from the train block until the validation loss has not improved for the model's `early_stopping_rounds`.

    Only the rounds up to the best are kept. `on_progress` gets a line about the validation loss now and then. The same rows, features and
    parameters give the same bytes, on any machine with the same version of XGBoost.
    Raises LearningRefused where XGBoost refuses the parameters, or the labels by them, and where the validation loss is not finite: a
    squared label beyond 3.4e38 is infinite to XGBoost, which then learns nothing and says nothing.
    """
    import xgboost

    validation = _block(model, training_set, VALIDATION, features)
    parameters = task_kind(model.task).fitting(model.parameters)
    history: dict[str, dict[str, list[float]]] = {}
    try:
        booster = xgboost.train(
            {**parameters, "nthread": THREADS},
            _block(model, training_set, TRAIN, features),
            num_boost_round=model.max_rounds,
            evals=[(validation, VALIDATION)],
            evals_result=history,
            early_stopping_rounds=model.early_stopping_rounds,
            verbose_eval=False,
            callbacks=[xgboost.callback.EvaluationMonitor(period=ROUNDS_PER_LINE, logger=lambda line: on_progress(line.strip()))],
        )
    except xgboost.core.XGBoostError as error:
        raise LearningRefused(model.name, parameters, _reason(error)) from error
    losses = next(iter(history[VALIDATION].values()))
    if not all(map(isfinite, losses)):
        raise LearningRefused(model.name, parameters, "the validation loss is not finite: labels are too large for 32-bit floats.")
    best = booster[: booster.best_iteration + 1]
    return Fitted(artifact=bytes(best.save_raw(FORMAT)), features=tuple(features), rounds=best.num_boosted_rounds(), losses=tuple(losses))


def _reason(error: Exception) -> str:
    """The sentence of an error of XGBoost, without the place in its source before it and the stack after it."""
    first = next(line for line in str(error).splitlines() if line.strip())
    return SOURCE_PLACE.sub("", first).strip().rstrip(".") + "."


def _block(model: Model, training_set: pa.Table, block: BlockName, features: Sequence[ModelFeature]) -> "xgboost.DMatrix":
    rows = only(training_set, block)
    return feature_matrix(rows, features, labels_of(model, rows), keys=decision_of(model))
