"""Features that the request itself has: its values as they are, its categories as codes, its times as clock and calendar see them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.spec.features import RequestFeature, Transform

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from pipeline_assets.processing.features.columns import Ints

REQUEST = "request"
OBSERVATIONS = "observations"
CLOCK: "dict[Transform, Callable[[pl.Series], pl.Series]]" = {
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

    from pipeline_assets.processing.features.columns import instants

    decided_at = instants(observations, OBSERVATIONS, names.DECISION_AT)
    return pa.table({request_feature_name(feature): _column(feature, observations, decided_at) for feature in features})


def _column(feature: RequestFeature, observations: "pa.Table", decided_at: "Ints") -> "pa.Array":
    import numpy as np

    from pipeline_assets.processing.features.values import feature_of, values_of

    if feature.transform != "value":
        return _clock(feature, observations)
    observations = with_default(feature, observations)
    values = values_of(observations, OBSERVATIONS, feature.column, feature.values)
    return feature_of(values, np.arange(len(decided_at)), np.ones(len(decided_at), np.bool_), decided_at)


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


def _clock(feature: RequestFeature, observations: "pa.Table") -> "pa.Array":
    import polars as pl
    import pyarrow as pa

    from pipeline_assets.processing.features.columns import plain_column

    column = plain_column(observations, OBSERVATIONS, feature.column)
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        problem = f"has {column.type} in column '{feature.column}', expected timestamp[us, tz=UTC]"
        raise TableMismatch(OBSERVATIONS, problem, observations.column_names)
    # Polars brings its own time zones; Arrow would look for those of the machine.
    local = pl.Series(feature.column, column.cast(pa.timestamp("us", tz="UTC"))).dt.convert_time_zone(feature.time_zone)
    return CLOCK[feature.transform](local).cast(pl.Int64).rechunk().to_arrow()
