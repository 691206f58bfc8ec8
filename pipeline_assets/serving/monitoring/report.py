"""Evidently's HTML report of a sample, kept on the object store and opened by a link that is signed for a week."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.connections import object_store
from pipeline_assets.core.foreign import in_page
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.contract import ModelFeature

if TYPE_CHECKING:
    import pandas as pd
    from evidently.core.container import MetricContainer
    from evidently.core.metric_types import Metric
    from evidently.core.report import Context

LINK_SECONDS = 7 * 24 * 3600
SEED = 2013
UNKNOWN = "(null)"


def sample(rows: pa.Table, size: int) -> pa.Table:
    """At most `size` rows drawn without replacement, in their order; the same rows give the same sample."""
    if rows.num_rows <= size:
        return rows
    return rows.take(np.sort(np.random.default_rng(SEED).choice(rows.num_rows, size, replace=False)))


def category_names(features: Sequence[ModelFeature]) -> dict[str, tuple[str, ...]]:
    """The categories of each categorical feature."""
    return {feature.name: feature.categories for feature in features if feature.is_categorical}


def drift_report(
    current: pa.Table, reference: pa.Table, columns: Sequence[str], categories: Mapping[str, Sequence[str]], size: int
) -> bytes:
    """Evidently's drift report of `columns`, from samples of at most `size` rows, as one HTML page that needs no network.

    `categories` names the categorical columns among them, with the names that their codes stand for; one that is text is shown as it is.
    A number without a finite value in one of the samples is left out, as Evidently refuses it; its drift is measured all the same.
    """
    with warnings.catch_warnings():
        # Evidently pulls in a web framework that warns of its own deprecations; nothing of it is used here.
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        class TableOfColumns(DataDriftPreset):  # type: ignore[misc] # Evidently has no types
            """The preset without a figure of each column on its own: half of its time, and its page draws all of them from the table."""

            def generate_metrics(self, context: "Context") -> "Sequence[Metric | MetricContainer]":
                table, *_ = super().generate_metrics(context)
                return [table]

        numbers = [column for column in columns if column not in categories]
        frames = [_frame(rows, numbers, categories, size) for rows in (current, reference)]
        compared = [column for column in numbers if all(np.isfinite(frame[column]).any() for frame in frames)]
        definition = DataDefinition(numerical_columns=compared, categorical_columns=[*categories])
        drawn = [Dataset.from_pandas(frame[[*compared, *categories]], data_definition=definition) for frame in frames]
        page: str = Report([TableOfColumns(method="psi")]).run(*drawn).get_html_str(as_iframe=False)
    return page.encode()


def keep(settings: Settings, key: str, page: bytes) -> str:
    """Puts `page` at `key` of the object store and gives a link that opens it for a week without further rights."""
    store = object_store(settings)
    store.put_object(Bucket=settings.s3_bucket, Key=key, Body=page, ContentType="text/html; charset=utf-8")
    place = {"Bucket": settings.s3_bucket, "Key": key}
    return str(store.generate_presigned_url("get_object", Params=place, ExpiresIn=LINK_SECONDS))


def _frame(rows: pa.Table, numbers: Sequence[str], categories: Mapping[str, Sequence[str]], size: int) -> "pd.DataFrame":
    """The sampled columns in the form that Evidently takes: floats with NaN for null, and text in which null is a category of its own."""
    drawn = sample(rows.select([*numbers, *categories]), size)
    frame: pd.DataFrame = drawn.select(list(numbers)).to_pandas().astype("float64")
    for column, values in categories.items():
        frame[column] = _named(drawn[column], values).to_pandas()
    return frame


def _named(column: pa.ChunkedArray, categories: Sequence[str]) -> pa.ChunkedArray:
    """Categories by their names: codes are looked up, text is taken as it is."""
    is_code = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    named = pa.array(categories, pa.string()).take(column.cast(pa.int64()).combine_chunks()) if is_code else column.cast(pa.string())
    # The page that Evidently makes takes a value that has a tag for a tag.
    found = (named if isinstance(named, pa.ChunkedArray) else pa.chunked_array([named])).combine_chunks().dictionary_encode()
    words = pa.array([None if word is None else in_page(word) for word in found.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([pc.fill_null(words.take(found.indices), UNKNOWN)])
