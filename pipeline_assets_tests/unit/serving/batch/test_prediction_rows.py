"""Prediction rows: identifiers that anyone can make again, and no decision twice."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.serving.batch import predictions
from pipeline_assets.serving.batch.plots import draw_histogram
from pipeline_assets.serving.batch.score import prediction_rows

AT = datetime(2013, 5, 1, 12, tzinfo=UTC)


def vectors(*decisions: tuple[str, datetime]) -> pa.Table:
    """What a prediction takes from a vector."""
    return pa.table(
        {
            "flight_id": pa.array([key for key, _ in decisions], pa.string()),
            "decision_at": pa.array([at for _, at in decisions], pa.timestamp("us", "UTC")),
            "feature_hash": pa.array(["0" * 64 for _ in decisions], pa.string()),
        }
    )


def rows(version: int, *decisions: tuple[str, datetime]) -> pa.Table:
    """Their predictions."""
    return prediction_rows(flight_delay, version, vectors(*decisions), np.full(len(decisions), 0.5))


def test_an_identifier_follows_from_model_version_key_and_time() -> None:
    """Made again it is the same; another version, key or time has another. A released identifier never changes."""
    asked = (("f1", AT), ("f2", AT), ("f1", AT + timedelta(microseconds=1)))
    first = rows(1, *asked)["prediction_id"].to_pylist()

    assert first == rows(1, *asked)["prediction_id"].to_pylist()
    assert len({*first, *rows(2, *asked)["prediction_id"].to_pylist()}) == 6
    assert first[0] == "098ad1b4-359e-5b6f-acb8-00ce40a7d290"
    assert {UUID(each).version for each in first} == {5}


def test_a_row_has_the_columns_of_the_table() -> None:
    """One row per vector, in their order; no vectors give no rows."""
    table = rows(3, ("f1", AT), ("f2", AT))

    assert tuple(table.column_names) == predictions.columns(flight_delay)
    assert table["flight_id"].to_pylist() == ["f1", "f2"]
    assert table["model_version"].to_pylist() == [3, 3]
    assert rows(3).num_rows == 0


def test_a_decision_twice_is_an_error() -> None:
    """Two vectors of one key and time would make one identifier stand for two predictions."""
    with pytest.raises(TableMismatch, match=r"feature_store\.flight_delay' holds 1 decisions more than once"):
        rows(1, ("f1", AT), ("f1", AT))


def test_the_histogram_is_a_small_image() -> None:
    """A PNG that metadata can carry, also where all bins are empty."""
    for counts in ([0] * 20, list(range(20))):
        image = draw_histogram(counts)

        assert image.startswith(b"\x89PNG")
        assert len(image) < 40_000
