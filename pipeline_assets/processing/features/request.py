"""Features that the request itself has: its values as they are, its categories as codes, its times as clock and calendar see them."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.spec.features import RequestFeature, Transform

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from pipeline_assets.processing.features.arrays import FeatureArrays
    from pipeline_assets.processing.features.columns import Ints, Numbers

REQUEST = "request"
OBSERVATIONS = "observations"
CLOCK: "dict[Transform, Callable[[pl.Expr], pl.Expr]]" = {
    "hour": lambda local: local.dt.hour(),
    "weekday": lambda local: local.dt.weekday(),
    "minute_of_day": lambda local: local.dt.hour().cast(int) * 60 + local.dt.minute().cast(int),
    "day_of_year": lambda local: local.dt.ordinal_day(),
}


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
    clocks = iter(_clocks([feature for feature in features if feature.transform != "value"], observations))
    return [_plain(feature, observations, decided_at) if feature.transform == "value" else next(clocks) for feature in features]


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


def _clocks(features: Sequence[RequestFeature], observations: "pa.Table") -> "list[Numbers]":
    """What clock and calendar show, of all features at once: asked for one by one this was half of the time of a question online."""
    import polars as pl

    from pipeline_assets.processing.features.columns import Numbers, present_in

    if not features:
        return []
    columns, asked = _asked(tuple(features))
    times = [_times(observations, column) for column in columns]
    found = pl.DataFrame([pl.Series(f"c{place}", one) for place, one in enumerate(times)]).select_seq(asked).get_columns()
    valid = [present_in(one) for one in times]
    return [Numbers(values=one.to_numpy(), valid=valid[columns.index(of.column)]) for one, of in zip(found, features, strict=True)]


@lru_cache
def _asked(features: tuple[RequestFeature, ...]) -> "tuple[list[str], list[pl.Expr]]":
    """The columns that some features read, and each feature as an expression of these by place; made once, as that takes time."""
    import polars as pl

    columns = list(dict.fromkeys(feature.column for feature in features))
    # Polars brings its own time zones; Arrow would look for those of the machine.
    local = [pl.col(f"c{columns.index(one.column)}").dt.convert_time_zone(one.time_zone) for one in features]
    shown = [CLOCK[one.transform](each).cast(pl.Int64).fill_null(0) for one, each in zip(features, local, strict=True)]
    return columns, [one.alias(f"f{place}") for place, one in enumerate(shown)]


def _times(observations: "pa.Table", column: str) -> "pa.Array":
    import pyarrow as pa

    from pipeline_assets.processing.features.columns import as_type, plain_column

    found = plain_column(observations, OBSERVATIONS, column)
    if not pa.types.is_timestamp(found.type) or found.type.tz is None:
        problem = f"has {found.type} in column '{column}', expected timestamp[us, tz=UTC]"
        raise TableMismatch(OBSERVATIONS, problem, observations.column_names)
    return as_type(found, pa.timestamp("us", tz="UTC"))
