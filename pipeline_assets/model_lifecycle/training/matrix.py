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

    from pipeline_assets.processing.features.arrays import FeatureArrays

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
    columns = table.select([feature.name for feature in features]).columns
    try:
        return _values(features, columns, table.num_rows)
    except ValueUnfit as error:
        raise error.of({key: table[key][error.row].as_py() for key in keys}) from None


def array_values(found: "FeatureArrays", features: Sequence[ModelFeature]) -> npt.NDArray[np.float32]:
    """As `feature_values` of `found.table()`, to the bit, and raises what it does."""
    places = {name: place for place, name in enumerate(found.names)}
    if not all(_fits(found, places.get(feature.name), feature) for feature in features):
        return feature_values(found.table(), features)
    own = np.array([places[feature.name] for feature in features], np.int64)
    wide, present = found.numbers[own], found.present[own]
    for place, feature in enumerate(features):
        if feature.type == "text":
            codes = {text: float(code) for code, text in enumerate(feature.categories)}
            wide[place] = [codes.get(text, np.nan) for text in found.texts[places[feature.name]]]
            present[place] = ~np.isnan(wide[place])
    with np.errstate(over="ignore", under="ignore"):
        values = np.ascontiguousarray(wide.T, np.float32)
    limits = np.array([len(feature.categories) if feature.type == "category" else np.inf for feature in features])
    coded = values[:, limits < np.inf]
    with np.errstate(invalid="ignore"):
        is_unfit = (coded < 0) | (coded >= limits[limits < np.inf]) | (coded != np.floor(coded)) & ~np.isnan(coded)
    if is_unfit.any() or not np.array_equal(np.isfinite(values.T), present):
        return feature_values(found.table(), features)
    return values


def _fits(found: "FeatureArrays", place: int | None, feature: ModelFeature) -> bool:
    return place is not None and (found.kinds[place] == "text") == (feature.type == "text")


def _values(features: Sequence[ModelFeature], columns: Sequence[pa.ChunkedArray], rows: int) -> npt.NDArray[np.float32]:
    """All columns at once: that they are finite is looked at for all together, and for each only where one is not."""
    wide, nulls = np.empty((len(features), rows)), 0
    for place, (feature, column) in enumerate(zip(features, columns, strict=True)):
        if feature.type == "text":
            wide[place] = _codes(feature, column)
            nulls += int(np.count_nonzero(np.isnan(wide[place])))
        else:
            wide[place] = _checked(feature, column).to_numpy()
            nulls += column.null_count
    with np.errstate(over="ignore", under="ignore"):
        values = np.ascontiguousarray(wide.T, np.float32)
    if np.count_nonzero(~np.isfinite(values)) != nulls:
        for feature, column in zip(features, columns, strict=True):
            if feature.type != "text":
                narrowed(column, "features", feature.name)
    for place, (feature, column) in enumerate(zip(features, columns, strict=True)):
        if feature.type == "category":
            _check_codes(values[:, place], column, feature)
    return values


def _codes(feature: ModelFeature, column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """The position of each text among the learned categories, NaN where it is none of them."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_null(column.type)):
        raise TableMismatch("features", f"has {feature.name} as {column.type}, where text was expected", [feature.name])
    found = pc.index_in(column.cast(pa.string()), value_set=pa.array(feature.categories, pa.string()), skip_nulls=True)
    codes: npt.NDArray[np.float32] = found.cast(pa.float32()).to_numpy()
    return codes


def _checked(feature: ModelFeature, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column of a feature that is a number."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise TableMismatch("features", f"has {feature.name} as {column.type}, where a number was expected", [feature.name])
    return column


def _check_codes(numbers: npt.NDArray[np.float32], column: pa.ChunkedArray, feature: ModelFeature) -> None:
    with np.errstate(invalid="ignore"):
        is_code = (numbers >= 0) & (numbers < len(feature.categories)) & (numbers == np.floor(numbers))
    is_unfit = ~(is_code | np.isnan(numbers))
    if is_unfit.any():
        row, expected = int(np.argmax(is_unfit)), f"a whole number from 0 to {len(feature.categories) - 1}"
        problem = "codes that are none of its categories"
        raise ValueUnfit("features", feature.name, problem, row=row, value=column[row].as_py(), expected=expected)
