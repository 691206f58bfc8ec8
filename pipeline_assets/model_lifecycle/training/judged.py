"""Labels and scores of a hold-out as arrays, in the order of its rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Labels: TypeAlias = "npt.NDArray[Any]"
Scores: TypeAlias = "npt.NDArray[np.float64]"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Encoded labels of a hold-out with the scores of the model and of its baseline; row i of all three belongs together."""

    labels: Labels
    scores: Scores
    baseline_scores: Scores
