"""Prediction rows: identifiers that anyone can make again, the answers of each task, and no decision twice."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa
import pytest

from pipeline_assets.core.errors import NotTrained, TableMismatch
from pipeline_assets.model_lifecycle.registry.versions import LoadedModel
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.serving.batch import predictions
from pipeline_assets.serving.batch.answers import answer_columns, fitting, meanings, scores_of, with_scores
from pipeline_assets.serving.batch.score import PREDICTION_SPACE, prediction_ids, prediction_rows
from pipeline_assets.serving.batch.spread import ClassRows, Histogram, Spread, draw_spread
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Multiclass, Regression, Task
from pipeline_assets.use_cases.nyc_flights.models import arrival_delay, flight_delay
from pipeline_assets_tests.live_models import learned

AT = datetime(2013, 5, 1, 12, tzinfo=UTC)
INSTANT = pa.timestamp("us", "UTC")
THREE = Multiclass(classes=("low", "mid level", "high"))


def vectors(*decisions: tuple[str, datetime]) -> pa.Table:
    """What a prediction takes from a vector."""
    return pa.table(
        {
            "flight_id": pa.array([key for key, _ in decisions], pa.string()),
            "decision_at": pa.array([at for _, at in decisions], INSTANT),
            "observation_known_at": pa.array([at for _, at in decisions], INSTANT),
            "feature_hash": pa.array(["0" * 64 for _ in decisions], pa.string()),
        }
    )


def rows(version: int, *decisions: tuple[str, datetime]) -> pa.Table:
    """Their predictions."""
    return prediction_rows(flight_delay, version, vectors(*decisions), np.full(len(decisions), 0.5))


def answering(task: Task) -> Model:
    """The model with another task."""
    return replace(flight_delay, task=task)


def test_an_identifier_follows_from_model_version_key_and_time() -> None:
    """Made again it is the same; another version, key or time has another. A released identifier never changes."""
    asked = (("f1", AT), ("f2", AT), ("f1", AT + timedelta(microseconds=1)))
    first = rows(1, *asked)["prediction_id"].to_pylist()

    assert first == rows(1, *asked)["prediction_id"].to_pylist()
    assert len({*first, *rows(2, *asked)["prediction_id"].to_pylist()}) == 6
    assert first[0] == "098ad1b4-359e-5b6f-acb8-00ce40a7d290"
    assert {UUID(each).version for each in first} == {5}


def test_several_keys_are_joined_and_integers_are_decimal_text() -> None:
    """The name of an identifier is written from its parts, and no two decisions share one."""
    keys = [pa.chunked_array([pa.array([12, 1], pa.int64())]), pa.chunked_array([pa.array(["3", "23"])])]
    decided = pa.chunked_array([pa.array([AT, AT], INSTANT)])
    since = int(AT.timestamp() * 1_000_000)

    found = prediction_ids(flight_delay, 7, keys, decided).to_pylist()

    assert found == [str(uuid5(PREDICTION_SPACE, f"flight_delay/7/{key}/{since}")) for key in ("12\x1f3", "1\x1f23")]


def test_a_row_has_the_columns_of_the_table() -> None:
    """One row per vector, in their order; no vectors give no rows."""
    table = rows(3, ("f1", AT), ("f2", AT))

    assert tuple(table.column_names) == predictions.columns(flight_delay)
    assert table.column_names == [
        "prediction_id", "flight_id", "decision_at", "observation_known_at", "score", "model_version", "feature_hash"
    ]  # fmt: skip
    assert table["flight_id"].to_pylist() == ["f1", "f2"]
    assert table["model_version"].to_pylist() == [3, 3]
    assert rows(3).num_rows == 0


def test_each_task_has_its_own_answers() -> None:
    """A regression gives a value, a multiclass model the likeliest class and a probability per class."""
    asked = vectors(("f1", AT), ("f2", AT))
    numbers = prediction_rows(arrival_delay, 1, asked, np.array([-3.5, 12.0]))
    classes = prediction_rows(answering(THREE), 1, asked, np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]))

    assert tuple(numbers.column_names) == predictions.columns(arrival_delay)
    assert numbers["value"].to_pylist() == [-3.5, 12.0]
    assert tuple(classes.column_names) == predictions.columns(answering(THREE))
    assert classes["predicted"].to_pylist() == ["mid level", "low"]
    assert classes["score_mid_level"].to_pylist() == [0.5, 0.1]


@pytest.mark.parametrize("task", [flight_delay.task, arrival_delay.task, THREE], ids=lambda task: type(task).__name__)
def test_answers_are_described_and_read_back(task: Task) -> None:
    """Every column of an answer has a meaning, and the scores of a table are those that were put there."""
    shape = (4, len(THREE.classes)) if task == THREE else 4
    scores = np.random.default_rng(5).random(shape)
    table = with_scores(task, pa.table({"row": [1, 2, 3, 4]}), scores)

    assert list(meanings(task)) == list(answer_columns(task))
    assert np.array_equal(scores_of(task, table), scores)


def test_a_decision_twice_is_an_error() -> None:
    """Two vectors of one key and time would make one identifier stand for two predictions."""
    with pytest.raises(TableMismatch, match=r"feature_store\.flight_delay' holds 1 decisions more than once"):
        rows(1, ("f1", AT), ("f1", AT))


@pytest.mark.parametrize(
    ("task", "words"), [(THREE, r"multiclass \(low, mid level, high\)"), (Regression(unit="minutes"), "regression in minutes")]
)
def test_a_version_that_answers_otherwise_than_declared_is_refused(task: Task, words: str) -> None:
    """A model whose task was changed has no version for it before it is trained again."""
    _, candidate = learned(1)
    artifact = candidate.fitted.artifact
    loaded = LoadedModel(version=4, scorer=Scorer.load(artifact, candidate.contract), artifact=artifact, stored_contract=b"")

    assert fitting(flight_delay, loaded) is loaded
    with pytest.raises(NotTrained, match=f"answers as {words}: version 4 answers as binary"):
        fitting(answering(task), loaded)


@pytest.mark.parametrize(("kind", "expected"), [(pa.int32(), "bigint"), (pa.int64(), "bigint"), (pa.string(), "text")])
def test_keys_keep_their_kind(kind: pa.DataType, expected: str) -> None:
    """An integer is a 64-bit integer, anything else is text."""
    assert predictions.key_type(kind) == expected


SPREADS: dict[str, Spread] = {
    "scores": Histogram(low=0.0, high=1.0, counts=tuple(range(20))),
    "nothing": Histogram(low=0.0, high=1.0, counts=(0,) * 20),
    "values": Histogram(low=-21.5, high=64.0, counts=(40, *range(19)), unit="minutes"),
    "classes": ClassRows(classes=THREE.classes, likeliest=(700, 10, 290), expected=(611.3, 99.9, 288.8)),
}


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS.keys())
def test_a_spread_is_a_small_image(spread: Spread) -> None:
    """A PNG that metadata can carry, also where there are no rows."""
    image = draw_spread(spread)

    assert image.startswith(b"\x89PNG")
    assert len(image) < 20_000
