"""A candidate: a model learned from one training set, judged on its hold-out beside the baseline, with everything that documents it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline_assets.model_lifecycle.training.archive import TrainingSet
from pipeline_assets.model_lifecycle.training.blocks import HOLDOUT, TRAIN
from pipeline_assets.model_lifecycle.training.code_state import code_version, library_versions, local_edits
from pipeline_assets.model_lifecycle.training.contract import (
    ModelContract,
    ModelFeature,
    answer_of,
    baseline_features,
    model_features,
)
from pipeline_assets.model_lifecycle.training.dataset import decision_of, labels_of, only
from pipeline_assets.model_lifecycle.training.evaluate import Evaluation, evaluate
from pipeline_assets.model_lifecycle.training.fit import Fitted, OnProgress, fit
from pipeline_assets.model_lifecycle.training.judged import Judged, Scores
from pipeline_assets.model_lifecycle.training.matrix import feature_values
from pipeline_assets.model_lifecycle.training.plots.importance import draw_importance
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.processing.features.catalogue import definition_hash
from pipeline_assets.spec.models import Model

BASELINE = "baseline_"
GAIN = "gain_over_baseline"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A learned model and what is known of it.

    `plots` are PNG images by name. `example` is a row that the model takes, its features in their order: see `typical`.
    """

    fitted: Fitted
    evaluation: Evaluation
    baseline: Evaluation
    contract: ModelContract
    plots: Mapping[str, bytes]
    example: Mapping[str, float]

    @property
    def gain(self) -> float | None:
        """By how much the metric of the gate is better than the baseline's on the hold-out; None where it does not exist there."""
        return self.contract.metrics.get(GAIN)


def train_candidate(model: Model, record: TrainingSet, training_set: pa.Table, on_progress: OnProgress) -> Candidate:
    """Learns a model and its baseline from one training set, and judges both on its hold-out.

    The baseline learns from the request features alone; where there are none, it is the best constant. The same record, rows and
    declaration give the same candidate.
    """
    features = model_features(model, only(training_set, TRAIN))
    fitted = fit(model, features, training_set, on_progress)
    held = only(training_set, HOLDOUT)
    scorer = Scorer.load(fitted.artifact, _contract(model, record, fitted))
    scores, rival_scores = (
        scorer.score(held, decision_of(model)),
        baseline_scores(model, scorer.contract, training_set, features, on_progress),
    )
    evaluation, baseline = evaluated(model, held, scores), evaluated(model, held, rival_scores)
    judged = Judged(labels=labels_of(model, held), scores=scores, baseline_scores=rival_scores)
    return Candidate(
        fitted=fitted,
        evaluation=evaluation,
        baseline=baseline,
        contract=replace(scorer.contract, metrics=_figures(model, evaluation, baseline)),
        plots={**task_kind(model.task).plots(judged), "importance": draw_importance(_gains(scorer))},
        example=typical(only(training_set, TRAIN), features),
    )


def typical(rows: pa.Table, features: Sequence[ModelFeature]) -> dict[str, float]:
    """A row that stands for many and is none of them: of each feature the lower median, of a category the most frequent position.

    Nulls do not count; 0 where there is nothing else.
    """
    values = feature_values(rows, features)
    return {feature.name: _typical(values[:, place], feature) for place, feature in enumerate(features)}


def _typical(values: npt.NDArray[np.float32], feature: ModelFeature) -> float:
    present = values[~np.isnan(values)]
    if not len(present):
        return 0.0
    if feature.is_categorical:
        return float(np.bincount(present.astype(np.int64)).argmax())
    # The shortest number that is this 32-bit float.
    return float(str(np.quantile(present, 0.5, method="lower")))


def baseline_scores(
    model: Model, contract: ModelContract, training_set: pa.Table, features: tuple[ModelFeature, ...], on_progress: OnProgress
) -> Scores:
    """The scores of the hold-out by what the model of the contract has to beat."""
    held, of_request = only(training_set, HOLDOUT), baseline_features(model, features)
    if not of_request:
        train = labels_of(model, only(training_set, TRAIN))
        return task_kind(model.task).constant(train, held.num_rows, model.gate.metric)
    rival = fit(model, of_request, training_set, lambda line: on_progress(f"baseline {line}"))
    return Scorer.load(rival.artifact, replace(contract, features=rival.features, sha256=sha256(rival.artifact).hexdigest())).score(held)


def evaluated(model: Model, held: pa.Table, scores: Scores) -> Evaluation:
    """The quality of the scores of a hold-out."""
    kind, labels = task_kind(model.task), labels_of(model, held)
    return evaluate(kind, held, labels, scores, slices=model.slices, decision_at=model.observations.decision_at)


def _figures(model: Model, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
    """The figures of both on the hold-out, the baseline's with a prefix, and how much better the metric of the gate is."""
    ours, theirs = evaluation.overall, baseline.overall
    gain = task_kind(model.task).gain(model.gate.metric, ours.figures[model.gate.metric], theirs.figures[model.gate.metric])
    rivals = {BASELINE + name: value for name, value in theirs.figures.items() if value is not None}
    return {**ours.metrics(), **rivals, **({} if gain is None else {GAIN: gain})}


def _contract(model: Model, record: TrainingSet, fitted: Fitted) -> ModelContract:
    """The contract of a learned model before it is judged: without metrics."""
    task, classes, unit = answer_of(model.task)
    return ModelContract(
        model=model.name,
        task=task,
        classes=classes,
        unit=unit,
        features=fitted.features,
        definition=definition_hash(model),
        as_of=record.as_of,
        training_set=record.path,
        training_set_sha256=record.sha256,
        snapshots=record.snapshots,
        blocks=record.blocks,
        parameters=task_kind(model.task).fitting(model.parameters),
        max_rounds=model.max_rounds,
        early_stopping_rounds=model.early_stopping_rounds,
        rounds=fitted.rounds,
        metrics={},
        code_version=code_version(),
        local_edits=local_edits(),
        libraries=library_versions(),
        sha256=sha256(fitted.artifact).hexdigest(),
        size_bytes=len(fitted.artifact),
    )


def _gains(scorer: Scorer) -> dict[str, float]:
    gains = scorer.booster.get_score(importance_type="total_gain")
    return {name: float(np.sum(gain)) for name, gain in gains.items()}
