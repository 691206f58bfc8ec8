"""The model in MLflow's form: the same scores to the bit as the platform's, from what its signature says, without a pickle."""

import json
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import mlflow.pyfunc
import mlflow.xgboost
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline_assets.model_lifecycle.training.blocks import TRAIN
from pipeline_assets.model_lifecycle.training.candidate import Candidate, typical
from pipeline_assets.model_lifecycle.training.contract import ModelFeature
from pipeline_assets.model_lifecycle.training.dataset import only
from pipeline_assets.model_lifecycle.training.fit import fit
from pipeline_assets.model_lifecycle.training.logged_model import MODEL_FILE, write_model
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.spec.tasks import Task
from pipeline_assets_tests.live_models import learned
from pipeline_assets_tests.model_rows import BINARY, MULTICLASS, TASKS, small_model

OF_EACH_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
CARRIERS = ("UA", "AA")


def given(rows: pa.Table, features: tuple[ModelFeature, ...]) -> pd.DataFrame:
    """The rows as the how-to says that MLflow's model takes them: 64-bit floats, and texts by their position."""
    frame: pd.DataFrame = rows.select([feature.name for feature in features]).to_pandas()
    for feature in features:
        if feature.type == "text":
            frame[feature.name] = frame[feature.name].map({text: code for code, text in enumerate(feature.categories)})
    numbers: pd.DataFrame = frame.astype("float64")
    return numbers


@cache
def with_text() -> tuple[pa.Table, Candidate]:
    """Rows whose carrier decides the label, and a candidate that learned from the text of it; some carriers are none that it knows."""
    rows, candidate = learned(7, BINARY)
    random = np.random.default_rng(3).random(rows.num_rows).tolist()
    labels = rows["label"].to_pylist()
    named = ["ZZ" if draw < 0.1 else None if draw < 0.2 else "UA" if late else "AA" for late, draw in zip(labels, random, strict=True)]
    texts = pa.array(named, pa.string())
    rows = rows.set_column(rows.column_names.index("carrier"), "carrier", texts)
    features = (*candidate.contract.features, ModelFeature(name="carrier", type="text", categories=CARRIERS))
    fitted = fit(small_model(), features, rows, lambda _: None)
    contract = replace(candidate.contract, features=features, sha256=sha256(fitted.artifact).hexdigest())
    return rows, replace(candidate, fitted=fitted, contract=contract, example=typical(only(rows, TRAIN), features))


def assert_scores_are_equal(rows: pa.Table, candidate: Candidate, folder: Path) -> None:
    """By the platform's scorer, by MLflow's model of any flavor and by the booster that MLflow loads."""
    write_model(folder, candidate, Model())
    frame = given(rows, candidate.contract.features)
    expected = Scorer.load(candidate.fitted.artifact, candidate.contract).score(rows)

    found = mlflow.pyfunc.load_model(str(folder)).predict(frame)
    native = mlflow.xgboost.load_model(str(folder))

    assert found.dtype == np.float32
    assert found.astype(np.float64).tolist() == expected.tolist()
    assert native.inplace_predict(frame).astype(np.float64).tolist() == expected.tolist()


@OF_EACH_TASK
def test_mlflow_gives_the_scores_of_the_platform_to_the_bit(task: Task, tmp_path: Path) -> None:
    """Nulls, categories by their codes and whole numbers among them, by both ways of loading."""
    rows, candidate = learned(7, task)
    assert any(feature.is_categorical for feature in candidate.contract.features)
    assert any(column.null_count for column in rows.select([feature.name for feature in candidate.contract.features]).columns)

    assert_scores_are_equal(rows, candidate, tmp_path / "model")


def test_texts_are_given_by_their_position_among_the_categories(tmp_path: Path) -> None:
    """A text that is none of them is null to both; the file MLmodel has the categories in their order."""
    rows, candidate = with_text()

    assert_scores_are_equal(rows, candidate, tmp_path / "model")

    metadata = Model.load(str(tmp_path / "model")).metadata
    assert metadata is not None
    assert metadata["categories"]["carrier"] == list(CARRIERS)


@OF_EACH_TASK
def test_the_signature_and_the_example_are_what_the_model_takes(task: Task, tmp_path: Path) -> None:
    """Every feature in its order as a 64-bit float, and an example that is scored; a missing column is refused by its name."""
    _, candidate = learned(7, task)
    write_model(tmp_path / "model", candidate, Model())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    example = model.metadata.load_input_example(str(tmp_path / "model"))
    names = [feature.name for feature in candidate.contract.features]

    assert model.metadata.get_input_schema().input_names() == names
    assert {str(kind) for kind in model.metadata.get_input_schema().input_types()} == {"DataType.double"}
    assert model.metadata.get_output_schema().inputs[0].shape == ((-1,) if task != MULTICLASS else (-1, 3))
    assert model.predict(example).shape[0] == len(example) == 1
    with pytest.raises(MlflowException, match=names[0]):
        model.predict(example.drop(columns=names[0]))


def test_no_pickle_and_no_code_is_in_it(tmp_path: Path) -> None:
    """XGBoost's file, with the bytes that the contract has the hash of, and texts beside it; the example is JSON that any reader reads."""
    _, candidate = learned(7, BINARY)
    write_model(tmp_path / "model", candidate, Model())
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    assert sha256(files.pop(MODEL_FILE)).hexdigest() == candidate.contract.sha256
    assert {Path(name).suffix for name in files} <= {".json", ".yaml", ".txt", ""}
    assert all(content.decode() and not name.endswith(".py") for name, content in files.items())
    assert json.loads(files["input_example.json"], parse_constant=pytest.fail)["data"] == [list(candidate.example.values())]
    assert sorted(line.partition("==")[0] for line in files["requirements.txt"].decode().split()) == ["mlflow", "xgboost"]


def test_the_example_is_typical_and_no_row() -> None:
    """The lower median of numbers, the most frequent of categories, 0 of what is always null; nulls do not count."""
    rows = pa.table(
        {
            "number": [1.0, 0.3, None, 7.0, 2.0],
            "code": [2, 2, 1, None, 1],
            "text": ["b", None, "b", "a", "c"],
            "nothing": pa.array([None] * 5, pa.float64()),
        }
    )
    features = (
        ModelFeature(name="number", type="number"),
        ModelFeature(name="code", type="category", categories=("x", "y", "z")),
        ModelFeature(name="text", type="text", categories=("a", "b")),
        ModelFeature(name="nothing", type="number"),
    )

    assert typical(rows, features) == {"number": 1.0, "code": 1.0, "text": 1.0, "nothing": 0.0}
