"""The blocks of time of a training set: learn on the first, stop early on the second, judge on the last."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

BlockName = Literal["train", "validation", "holdout"]
TRAIN: BlockName = "train"
VALIDATION: BlockName = "validation"
HOLDOUT: BlockName = "holdout"
BLOCKS: tuple[BlockName, ...] = (TRAIN, VALIDATION, HOLDOUT)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a training set: decisions from `start` (inclusive) to `end` (exclusive), UTC.

    `labels` sums up its labels as the task does: how many are true, the rows of each class, or mean, least and greatest value.
    """

    name: BlockName
    start: datetime
    end: datetime
    rows: int
    labels: Mapping[str, float]

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "Block":
        """The block whose fields JSON gave back, its times as ISO 8601."""
        return cls(**{**stored, "start": datetime.fromisoformat(stored["start"]), "end": datetime.fromisoformat(stored["end"])})
