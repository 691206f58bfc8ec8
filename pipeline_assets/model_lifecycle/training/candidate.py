"""A candidate: a model learned from one training set, judged on its hold-out beside the baseline, with everything that documents it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline_assets.model_lifecycle.training.archive import TrainingSet
from pipeline_assets.model_lifecycle.training.contract import ModelContract, baseline_features, code_version, model_features
from pipeline_assets.model_lifecycle.training.dataset import HOLDOUT, only
from pipeline_assets.model_lifecycle.training.evaluate import FIGURES, Evaluation, Values, evaluate
from pipeline_assets.model_lifecycle.training.fit import Fitted, OnProgress, fit, labels_of
from pipeline_assets.model_lifecycle.training.matrix import THREADS, feature_matrix
from pipeline_assets.model_lifecycle.training.plots import Judged, draw_plots
from pipeline_assets.processing.features.catalogue import definition_hash
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    import xgboost

BASELINE = "baseline_"
GAIN = "gain_over_baseline"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A learned model and what is known of it; `plots` are PNG images by name."""

    fitted: Fitted
    evaluation: Evaluation
    baseline: Evaluation
    contract: ModelContract
    plots: Mapping[str, bytes]

    @property
    def gain(self) -> float:
        """ROC AUC on the hold-out above the baseline's."""
        return self.contract.metrics[GAIN]


def train_candidate(model: Model, record: TrainingSet, training_set: pa.Table, on_progress: OnProgress) -> Candidate:
    """Learns a model and its baseline (the request features alone) from one training set, and judges both on its hold-out.

    The same record, rows and declaration give the same candidate.
    """
    fitted = fit(model, model_features(model), training_set, on_progress)
    rival = fit(model, baseline_features(model), training_set, lambda line: on_progress(f"baseline {line}"))
    held = only(training_set, HOLDOUT)
    scores, rival_scores = score_file(fitted, held), score_file(rival, held)
    evaluation, baseline = _evaluated(model, held, scores), _evaluated(model, held, rival_scores)
    return Candidate(
        fitted=fitted,
        evaluation=evaluation,
        baseline=baseline,
        contract=_contract(model, record, fitted, _figures(evaluation, baseline)),
        plots=draw_plots(Judged(labels=labels_of(held), scores=scores, baseline_scores=rival_scores), _gains(fitted)),
    )


def load_booster(artifact: bytes) -> "xgboost.Booster":
    """The model in a file of XGBoost's UBJ, scoring on one thread: a service has many requests, and a batch takes a second."""
    import xgboost

    return xgboost.Booster(params={"nthread": THREADS}, model_file=bytearray(artifact))


def score_file(fitted: Fitted, features: pa.Table) -> Values:
    """Probabilities of a true label, one per row, by the model as it would be loaded from its file."""
    predicted: Values = load_booster(fitted.artifact).predict(feature_matrix(features, fitted.features)).astype(np.float64)
    return predicted


def _evaluated(model: Model, held: pa.Table, scores: Values) -> Evaluation:
    return evaluate(held, labels_of(held), scores, slices=model.slices, decision_at=model.observations.decision_at)


def _figures(evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
    """The figures of both on the hold-out, the baseline's with a prefix, and the difference of ROC AUC."""
    ours, theirs = asdict(evaluation.overall), asdict(baseline.overall)
    figures = {figure: float(ours[figure]) for figure in ("rows", "positives", *FIGURES)}
    figures |= {BASELINE + figure: float(theirs[figure]) for figure in FIGURES}
    return figures | {GAIN: figures["roc_auc"] - figures[BASELINE + "roc_auc"]}


def _contract(model: Model, record: TrainingSet, fitted: Fitted, figures: Mapping[str, float]) -> ModelContract:
    return ModelContract(
        model=model.name,
        features=fitted.features,
        definition=definition_hash(model),
        as_of=record.as_of,
        training_set=record.path,
        training_set_sha256=record.sha256,
        snapshots=record.snapshots,
        blocks=record.blocks,
        parameters=dict(model.parameters),
        rounds=fitted.rounds,
        metrics=figures,
        code_version=code_version(),
        sha256=sha256(fitted.artifact).hexdigest(),
        size_bytes=len(fitted.artifact),
    )


def _gains(fitted: Fitted) -> dict[str, float]:
    gains = load_booster(fitted.artifact).get_score(importance_type="total_gain")
    return {name: float(np.sum(gain)) for name, gain in gains.items()}
