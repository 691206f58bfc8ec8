"""Features as XGBoost takes them: a matrix of 32-bit floats in the model's order, nulls missing, categories by code.

The same function feeds training and scoring, so that a model scores what it was trained on.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import TableMismatch, ValueUnfit
from pipeline_assets.model_lifecycle.training.contract import ModelFeature
from pipeline_assets.model_lifecycle.training.judged import Labels
from pipeline_assets.model_lifecycle.training.narrow import narrowed

if TYPE_CHECKING:
    import xgboost

# One thread learns from 110,000 rows × 64 features in 3.7 s, two in 3.1 s; but beside another busy process two wait for each other at every
# histogram and need up to a minute. And one thread adds in one order: the same inputs give the same model on any machine.
THREADS = 1


def feature_matrix(
    table: pa.Table, features: Sequence[ModelFeature], label: "Labels | None" = None, *, keys: Sequence[str] = ()
) -> "xgboost.DMatrix":
    """The rows of `table` as XGBoost's matrix, with the label where one is given; raises as `feature_values`."""
    import xgboost

    return xgboost.DMatrix(
        feature_values(table, features, keys=keys),
        label=label,
        feature_names=[feature.name for feature in features],
        feature_types=["c" if feature.is_categorical else "q" for feature in features],
        enable_categorical=True,
        nthread=THREADS,
    )


def feature_values(table: pa.Table, features: Sequence[ModelFeature], *, keys: Sequence[str] = ()) -> npt.NDArray[np.float32]:
    """The rows of `table` as numbers: (rows, features) in the order of `features`, NaN for null and for text that is no category.

    `keys` are columns that name a row, for errors. Raises TableMismatch if a feature is missing or is of another type than its contract
    says, and ValueUnfit if it is NaN, infinite or beyond 32-bit floats, or is a code that its contract does not list.
    """
    present = set(table.column_names)
    missing = [feature.name for feature in features if feature.name not in present]
    if missing:
        raise TableMismatch("features", f"lacks {', '.join(missing)}", table.column_names)
    values = np.empty((table.num_rows, len(features)), dtype=np.float32)
    columns = table.select([feature.name for feature in features]).columns
    try:
        for position, (feature, column) in enumerate(zip(features, columns, strict=True)):
            values[:, position] = _codes(feature, column) if feature.type == "text" else _numbers(feature, column)
    except ValueUnfit as error:
        raise error.of({key: table[key][error.row].as_py() for key in keys}) from None
    return values


def _codes(feature: ModelFeature, column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """The position of each text among the learned categories, NaN where it is none of them."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_null(column.type)):
        raise TableMismatch("features", f"has {feature.name} as {column.type}, where text was expected", [feature.name])
    found = pc.index_in(column.cast(pa.string()), value_set=pa.array(feature.categories, pa.string()), skip_nulls=True)
    codes: npt.NDArray[np.float32] = found.cast(pa.float32()).to_numpy()
    return codes


def _numbers(feature: ModelFeature, column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """One feature with NaN for null."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise TableMismatch("features", f"has {feature.name} as {column.type}, where a number was expected", [feature.name])
    numbers = narrowed(column, "features", feature.name)
    if feature.type == "category":
        _check_codes(numbers, column, feature)
    return numbers


def _check_codes(numbers: npt.NDArray[np.float32], column: pa.ChunkedArray, feature: ModelFeature) -> None:
    with np.errstate(invalid="ignore"):
        is_code = (numbers >= 0) & (numbers < len(feature.categories)) & (numbers == np.floor(numbers))
    is_unfit = ~(is_code | np.isnan(numbers))
    if is_unfit.any():
        row, expected = int(np.argmax(is_unfit)), f"a whole number from 0 to {len(feature.categories) - 1}"
        problem = "codes that are none of its categories"
        raise ValueUnfit("features", feature.name, problem, row=row, value=column[row].as_py(), expected=expected)
