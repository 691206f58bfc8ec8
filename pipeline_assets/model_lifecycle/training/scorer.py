"""The one way in which a model scores: when it is judged, in a batch, in the self-test of a package, and in a service.

XGBoost scores an array in place. For the same rows that gives the same bits as a matrix made of them (a test holds both together), and a
single row takes a fraction of the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline_assets.core.errors import ArtifactCorrupt
from pipeline_assets.model_lifecycle.training.contract import ModelContract
from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.model_lifecycle.training.matrix import THREADS, array_values, feature_matrix, feature_values

if TYPE_CHECKING:
    import xgboost

    from pipeline_assets.processing.features.arrays import FeatureArrays


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """How much each feature adds to the answer of a row before it is made a probability; of a multiclass model by class.

    SHAP values of the trees (XGBoost's `pred_contribs`) in the margin of the objective: log-odds of yes or no, the value itself of a
    regression; with `bias` they add up to it.
    """

    values: Mapping[str, float | Mapping[str, float]]
    bias: float | Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model in memory, ready to score, with the contract that its file was checked against."""

    booster: "xgboost.Booster"
    contract: ModelContract

    @classmethod
    def load(cls, artifact: bytes, contract: ModelContract) -> "Scorer":
        """The model in a file of XGBoost's UBJ, on one thread: a service has many requests, and a batch takes a second.

        Raises ArtifactCorrupt if the bytes are not those that the contract was written for.
        """
        import xgboost

        found = sha256(artifact).hexdigest()
        if found != contract.sha256:
            raise ArtifactCorrupt(f"model file of {contract.model} as of {contract.as_of.isoformat()}", contract.sha256, found)
        return cls(booster=xgboost.Booster(params={"nthread": THREADS}, model_file=bytearray(artifact)), contract=contract)

    def score(self, features: pa.Table, keys: Sequence[str] = ()) -> Scores:
        """Scores as 64-bit floats, in the order of the rows; a row gets the same bits whatever stands beside it.

        `features` needs the columns of the contract, in any order; others are ignored. Returns probabilities of a true label (rows,),
        probabilities of the classes in their order (rows, classes), or values in the contract's unit (rows,).
        Raises TableMismatch if a column is missing or unfit; `keys` are further columns that name a row then.
        """
        return self.score_values(feature_values(features, self.contract.features, keys=keys))

    def score_arrays(self, features: "FeatureArrays") -> Scores:
        """As `score`, of features as arrays."""
        return self.score_values(array_values(features, self.contract.features))

    def contributions(self, features: pa.Table) -> list["Contributions"]:
        """For each row how much each feature adds to its answer; `features` as in `score`."""
        names, classes = [one.name for one in self.contract.features], self.contract.classes
        matrix = feature_matrix(features, self.contract.features)
        found = np.asarray(self.booster.predict(matrix, pred_contribs=True)).astype(np.float64)
        if not classes:
            return [Contributions(values=dict(zip(names, row[:-1], strict=True)), bias=row[-1]) for row in found.tolist()]
        # Of each row a line per class, and the bias last.
        by_class = [dict(zip(classes, row, strict=True)) for row in found.tolist()]
        return [
            Contributions(
                values={name: {kind: own[place] for kind, own in row.items()} for place, name in enumerate(names)},
                bias={kind: own[-1] for kind, own in row.items()},
            )
            for row in by_class
        ]

    def score_values(self, matrix: npt.NDArray[np.float32]) -> Scores:
        """Scores of rows that are numbers already: (rows, features) in the contract's order, NaN for null, categories by code."""
        if not len(matrix):
            return np.empty((0, len(self.contract.classes)) if self.contract.classes else 0, dtype=np.float64)
        found: Scores = np.asarray(self.booster.inplace_predict(matrix, validate_features=False)).astype(np.float64)
        return found
