"""The model contract: everything that must be true of what a model is fed, and where the model came from. It travels with every version."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pipeline_assets.model_lifecycle.training.dataset import Block
from pipeline_assets.processing.features.catalogue import FeatureColumn, feature_columns
from pipeline_assets.processing.features.request import request_feature_name
from pipeline_assets.spec.models import Model

PACKAGE = "pipeline-assets"
REPOSITORY = Path(__file__).resolve().parents[3] / ".git"
FeatureType = Literal["number", "integer", "category"]


@dataclass(frozen=True, kw_only=True)
class ModelFeature:
    """One feature as the model expects it: a column of 64-bit floats or integers; a category is its position in `categories`."""

    name: str
    type: FeatureType
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """What a version of a model promises and needs.

    `features` are in the order of the model's inputs; `definition` is the hash of how they are computed; `snapshots` are the lake snapshots
    that were read; `sha256` and `size_bytes` are those of the model file. All times are UTC. The same training gives the same contract.
    """

    model: str
    features: tuple[ModelFeature, ...]
    definition: str
    as_of: datetime
    training_set: str
    training_set_sha256: str
    snapshots: Mapping[str, int]
    blocks: tuple[Block, ...]
    parameters: Mapping[str, float | int | str]
    rounds: int
    metrics: Mapping[str, float]
    code_version: str
    sha256: str
    size_bytes: int

    @property
    def rows(self) -> int:
        """Rows of the training set, all blocks together."""
        return sum(block.rows for block in self.blocks)

    def to_json(self) -> str:
        """The contract as canonical JSON: sorted keys, no blanks, times in ISO 8601."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str | bytes) -> "ModelContract":
        """The contract that `to_json` wrote."""
        told: dict[str, Any] = json.loads(text)
        features = tuple(ModelFeature(**{**feature, "categories": tuple(feature["categories"])}) for feature in told["features"])
        held = tuple(
            Block(**{**block, "start": datetime.fromisoformat(block["start"]), "end": datetime.fromisoformat(block["end"])})
            for block in told["blocks"]
        )
        return cls(**{**told, "features": features, "blocks": held, "as_of": datetime.fromisoformat(told["as_of"])})


def model_features(model: Model) -> tuple[ModelFeature, ...]:
    """All features of the model in its order."""
    categories = {request_feature_name(feature): feature.values for feature in model.request_features}
    return tuple(_feature(column, categories.get(column.name, ())) for column in feature_columns(model))


def baseline_features(model: Model) -> tuple[ModelFeature, ...]:
    """The features that the request itself tells, and nothing that happened before it."""
    asked = {request_feature_name(feature) for feature in model.request_features}
    return tuple(feature for feature in model_features(model) if feature.name in asked)


@cache
def code_version() -> str:
    """The version of this package, and `+<commit>` where it runs from a repository."""
    commit = _commit(REPOSITORY)
    return version(PACKAGE) + (f"+{commit[:12]}" if commit is not None else "")


def _feature(column: FeatureColumn, categories: tuple[str, ...]) -> ModelFeature:
    if categories:
        return ModelFeature(name=column.name, type="category", categories=categories)
    return ModelFeature(name=column.name, type="integer" if column.dtype == "int64" else "number")


def _commit(repository: Path) -> str | None:
    """The commit that is checked out; None outside of a repository, and before its first commit."""
    head = repository / "HEAD"
    if not head.is_file():
        return None
    pointer = head.read_text().strip()
    reference = pointer.removeprefix("ref: ")
    if reference == pointer:
        return pointer
    loose = repository / reference
    return loose.read_text().strip() if loose.is_file() else _packed(repository / "packed-refs", reference)


def _packed(listing: Path, reference: str) -> str | None:
    lines = listing.read_text().splitlines() if listing.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {reference}")), None)
