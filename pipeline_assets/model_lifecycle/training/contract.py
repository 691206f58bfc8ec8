"""The model contract: everything that must be true of what a model is fed, and where the model came from. It travels with every version."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.errors import ArtifactCorrupt, TableMismatch
from pipeline_assets.core.sealed_json import UNFIT
from pipeline_assets.model_lifecycle.training.blocks import Block
from pipeline_assets.model_lifecycle.training.code_state import Edits
from pipeline_assets.processing.features.catalogue import FeatureColumn, feature_columns
from pipeline_assets.processing.features.request import request_feature_name
from pipeline_assets.spec.features import Latest, Learned
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Binary, Multiclass, Regression, Task

FeatureType = Literal["number", "integer", "category", "text"]
TaskName = Literal["binary", "multiclass", "regression"]
# What kind of answer a model gives: its task, the classes of a multiclass model, the unit of a regression.
Answer = tuple[TaskName, tuple[str, ...], str | None]
TASK_NAMES: Mapping[type[Task], TaskName] = {Binary: "binary", Multiclass: "multiclass", Regression: "regression"}


@dataclass(frozen=True, kw_only=True)
class ModelFeature:
    """One feature as the model expects it: a column of 64-bit floats or integers, or of text.

    A `category` comes as its position in `categories`, which are declared; `text` as the text itself, whose position in `categories`,
    learned in the train block, the model is fed. Any other text is taken as null.
    """

    name: str
    type: FeatureType
    categories: tuple[str, ...] = ()

    @property
    def is_categorical(self) -> bool:
        """Whether the model takes the feature as one of its categories, not as a quantity."""
        return self.type in {"category", "text"}


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """What a version of a model promises and needs.

    `classes` are those of a multiclass model in the order of its scores, `unit` is that of a regression. `features` are in the order of
    the model's inputs; `definition` is the hash of how they are computed; `snapshots` are the lake snapshots that were read. `parameters`
    are XGBoost's, those of the task included; of at most `max_rounds` rounds, stopped after `early_stopping_rounds` without a gain,
    `rounds` were kept. `metrics` are those on the hold-out that exist. `libraries` are versions by name, `local_edits` says whether the
    code differed from the commit in `code_version`. `sha256` and `size_bytes` are those of the model file. All times are UTC. The same
    training gives the same contract.
    """

    model: str
    task: TaskName
    classes: tuple[str, ...]
    unit: str | None
    features: tuple[ModelFeature, ...]
    definition: str
    as_of: datetime
    training_set: str
    training_set_sha256: str
    snapshots: Mapping[str, int]
    blocks: tuple[Block, ...]
    parameters: Mapping[str, float | int | str]
    max_rounds: int
    early_stopping_rounds: int
    rounds: int
    metrics: Mapping[str, float]
    code_version: str
    local_edits: Edits
    libraries: Mapping[str, str]
    sha256: str
    size_bytes: int

    @property
    def answer(self) -> Answer:
        """What kind of answer the model gives."""
        return self.task, self.classes, self.unit

    @property
    def rows(self) -> int:
        """Rows of the training set, all blocks together."""
        return sum(block.rows for block in self.blocks)

    @property
    def digest(self) -> str:
        """The SHA-256 of the contract as it is written now; it has those of model file and training set."""
        return sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The contract as canonical JSON: sorted keys, no blanks, times in ISO 8601."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str | bytes) -> "ModelContract":
        """The contract that `to_json` wrote."""
        stored: dict[str, Any] = json.loads(text)
        parts = {
            "features": tuple(ModelFeature(**{**feature, "categories": tuple(feature["categories"])}) for feature in stored["features"]),
            "blocks": tuple(Block.from_stored(block) for block in stored["blocks"]),
            "classes": tuple(stored["classes"]),
            "as_of": datetime.fromisoformat(stored["as_of"]),
        }
        return cls(**{**stored, **parts})


def read_contract(stored: bytes, name: str, expected: str | None = None) -> ModelContract:
    """The contract in some bytes; raises ArtifactCorrupt, which names it, for others than the expected ones (None: any), or for none."""
    found = sha256(stored).hexdigest()
    if expected not in {None, found}:
        raise ArtifactCorrupt(name, str(expected), found)
    try:
        return ModelContract.from_json(stored)
    except UNFIT as error:
        raise ArtifactCorrupt(name, "that of a contract", found) from error


def answer_of(task: Task) -> Answer:
    """What kind of answer a model of the task gives."""
    classes = task.classes if isinstance(task, Multiclass) else ()
    return TASK_NAMES[type(task)], classes, task.unit if isinstance(task, Regression) else None


def model_features(model: Model, train: pa.Table) -> tuple[ModelFeature, ...]:
    """All features of the model in its order.

    train: the rows of the train block, in which categories are found that are learned: the most frequent values, ties by value.
    Raises TableMismatch if a feature with learned categories is missing there, or is no text.
    """
    declared = _declared_values(model)
    return tuple(_feature(column, declared.get(column.name, ()), train) for column in feature_columns(model))


def baseline_features(model: Model, features: tuple[ModelFeature, ...]) -> tuple[ModelFeature, ...]:
    """Those of the model's `features` that the request itself brings, and nothing that happened before it."""
    of_request = {request_feature_name(feature) for feature in model.request_features}
    return tuple(feature for feature in features if feature.name in of_request)


def _declared_values(model: Model) -> dict[str, tuple[str, ...] | Learned]:
    """The categories of each feature by its column, as declared."""
    of_views = {
        names.feature(view.name, feature.name): feature.values
        for view in model.views
        for feature in view.features
        if isinstance(feature, Latest)
    }
    return {**of_views, **{request_feature_name(feature): feature.values for feature in model.request_features}}


def _feature(column: FeatureColumn, values: tuple[str, ...] | Learned, train: pa.Table) -> ModelFeature:
    if isinstance(values, Learned):
        return ModelFeature(name=column.name, type="text", categories=_learned(column.name, values, train))
    if values:
        return ModelFeature(name=column.name, type="category", categories=values)
    return ModelFeature(name=column.name, type="integer" if column.dtype == "int64" else "number")


def _learned(name: str, values: Learned, train: pa.Table) -> tuple[str, ...]:
    """The most frequent texts of a column, the most frequent first, equally frequent ones in the order of the alphabet."""
    if name not in train.column_names:
        raise TableMismatch("training set", f"lacks {name}", train.column_names)
    column = train[name]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_null(column.type)):
        raise TableMismatch("training set", f"has {name} as {column.type}, where text was expected (its categories are learned)", [name])
    counted = pc.value_counts(column.drop_null()).to_pylist()
    ordered = sorted(counted, key=lambda each: (-each["counts"], each["values"]))
    return tuple(each["values"] for each in ordered[: values.most])
