"""Evidently's HTML report of a sample, kept on the object store and opened by a link that is signed for a week."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline_assets.core.connections import object_store
from pipeline_assets.core.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

LINK_SECONDS = 7 * 24 * 3600
SEED = 2013


def sample(rows: pa.Table, size: int) -> pa.Table:
    """At most `size` rows drawn without replacement, in their order; the same rows give the same sample."""
    if rows.num_rows <= size:
        return rows
    return rows.take(np.sort(np.random.default_rng(SEED).choice(rows.num_rows, size, replace=False)))


def drift_report(current: pa.Table, reference: pa.Table, columns: Sequence[str], size: int) -> bytes:
    """Evidently's drift report of `columns`, from samples of at most `size` rows, as one HTML page that needs no network."""
    with warnings.catch_warnings():
        # Evidently pulls in a web framework that warns of its own deprecations; nothing of it is used here.
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(numerical_columns=list(columns))
        drawn = [Dataset.from_pandas(_frame(rows, columns, size), data_definition=definition) for rows in (current, reference)]
        page: str = Report([DataDriftPreset(method="psi")]).run(*drawn).get_html_str(as_iframe=False)
    return page.encode()


def keep(settings: Settings, key: str, page: bytes) -> str:
    """Puts `page` at `key` of the object store and gives a link that opens it for a week without further rights."""
    store = object_store(settings)
    store.put_object(Bucket=settings.s3_bucket, Key=key, Body=page, ContentType="text/html; charset=utf-8")
    place = {"Bucket": settings.s3_bucket, "Key": key}
    return str(store.generate_presigned_url("get_object", Params=place, ExpiresIn=LINK_SECONDS))


def _frame(rows: pa.Table, columns: Sequence[str], size: int) -> "pd.DataFrame":
    """The sampled columns as floats, in the form that Evidently takes."""
    frame: pd.DataFrame = sample(rows.select(list(columns)), size).to_pandas().astype("float64")
    return frame
