"""Declared defaults: what a feature is where it would be null, the same for decisions of the past and for questions online."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline_assets.processing.features.catalogue import FeatureColumn


def with_defaults(columns: Sequence[FeatureColumn], features: pa.Table) -> pa.Table:
    """The features with the declared default of each where it is null: of an unknown entity, a missing value, one that has expired.

    Features without a default stay as they are, and so do the order and types of all.
    """
    for column in columns:
        if column.default is not None:
            found = features[column.name]
            filled = found.fill_null(pa.scalar(column.default).cast(found.type))
            features = features.set_column(features.column_names.index(column.name), column.name, filled)
    return features
