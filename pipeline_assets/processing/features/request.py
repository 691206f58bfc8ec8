"""Features that the request itself has: its values as they are, its categories as codes, its times as clock and calendar see them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.spec.features import RequestFeature

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_assets.processing.features.arrays import FeatureArrays
    from pipeline_assets.processing.features.columns import Ints, Numbers

REQUEST = "request"
OBSERVATIONS = "observations"


def request_feature_name(feature: RequestFeature) -> str:
    """The column of a request feature."""
    return names.feature(REQUEST, feature.name)


def request_features(features: Sequence[RequestFeature], observations: "pa.Table") -> "pa.Table":
    """One column per feature, in their order; len(observations) rows in their order.

    observations: `decision_at` and the features' columns. `hour` 0 to 23, `weekday` 1 (Monday) to 7, `minute_of_day` 0 to 1439 and
    `day_of_year` 1 to 366 are int64, as the clock and calendar of the feature's time zone show them; the code of a listed category is
    int64, its place among the declared values from 0, and null for any other value; a learned category is text; a moment is the seconds
    from it to the decision and a plain value itself, both float64 (booleans 0 and 1). Null gives null, or the feature's default; a
    column that has a default may be missing.
    Raises TableMismatch where a column is missing, duplicated or of the wrong type, a time naive, a value NaN or infinite.
    """
    import pyarrow as pa

    from pipeline_assets.processing.features.columns import Numbers, arrow_numbers

    found = _values(features, observations)
    columns = [arrow_numbers(one.values, one.valid) if isinstance(one, Numbers) else one for one in found]
    return pa.table(columns, names=[request_feature_name(feature) for feature in features])


def request_arrays(features: Sequence[RequestFeature], observations: "pa.Table") -> "FeatureArrays":
    """The same as arrays; raises as `request_features`."""
    import numpy as np

    from pipeline_assets.processing.features.arrays import FeatureArrays, Kind
    from pipeline_assets.processing.features.columns import Numbers

    shape, kinds, texts = (len(features), observations.num_rows), list[Kind](), dict[int, np.ndarray]()
    bits, present = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for place, one in enumerate(_values(features, observations)):
        if not isinstance(one, Numbers):
            kinds.append("text")
            texts[place] = np.array(one.to_pylist(), object)
            continue
        kinds.append("float" if one.values.dtype == np.float64 else "int")
        present[place], bits[place] = one.valid, np.where(one.valid, one.values, 0).view(np.int64)
    names_ = tuple(request_feature_name(feature) for feature in features)
    return FeatureArrays(names=names_, kinds=tuple(kinds), bits=bits, present=present, texts=texts)


def _values(features: Sequence[RequestFeature], observations: "pa.Table") -> "list[Numbers | pa.Array]":
    """Of each feature its numbers, or its texts."""
    from pipeline_assets.processing.features.columns import instants

    decided_at = instants(observations, OBSERVATIONS, names.DECISION_AT)
    return [
        _plain(feature, observations, decided_at) if feature.transform == "value" else _clock(feature, observations) for feature in features
    ]


def _plain(feature: RequestFeature, observations: "pa.Table", decided_at: "Ints") -> "Numbers | pa.Array":
    import numpy as np

    from pipeline_assets.processing.features.values import numbers_of, values_of

    values = values_of(with_default(feature, observations), OBSERVATIONS, feature.column, feature.values)
    return values.texts if values.texts is not None else numbers_of(values, np.arange(len(decided_at)), decided_at)


def with_default(feature: RequestFeature, observations: "pa.Table") -> "pa.Table":
    """The observations with the feature's default where its column is null or missing; as they are where it has none."""
    import pyarrow as pa

    from pipeline_assets.processing.features.columns import plain_column

    if feature.default is None:
        return observations
    default, names_ = pa.scalar(feature.default), observations.column_names
    if feature.column not in names_:
        return observations.append_column(feature.column, pa.repeat(default, observations.num_rows))
    column = plain_column(observations, OBSERVATIONS, feature.column)
    kind = default.type if pa.types.is_null(column.type) else column.type
    return observations.set_column(names_.index(feature.column), feature.column, column.cast(kind).fill_null(default.cast(kind)))


def _clock(feature: RequestFeature, observations: "pa.Table") -> "Numbers":
    import pyarrow as pa

    from pipeline_assets.processing.features.columns import Numbers, instants, plain_column, present_in
    from pipeline_assets.processing.features.wall_clock import shown

    found = plain_column(observations, OBSERVATIONS, feature.column)
    if not pa.types.is_timestamp(found.type) or found.type.tz is None:
        problem = f"has {found.type} in column '{feature.column}', expected timestamp[us, tz=UTC]"
        raise TableMismatch(OBSERVATIONS, problem, observations.column_names)
    at = instants(observations, OBSERVATIONS, feature.column, unless=0)
    return Numbers(values=shown(feature.transform, at, feature.time_zone), valid=present_in(found))
