"""Earlier versions of a partition that is read from its source again: what was known by then stays, also of rows that are gone since.

A source that is read in batches holds its rows as they are now. A row that it published before with another `known_at` is an earlier
version, and stays beside the new one. A row that is gone, or that stands there again as it was long ago, was deleted by the time of this
reading at the latest, as nobody knows when. Under the same `known_at` a row is the same version, and is as it was read last.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.core.versions import DELETED_AT, versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.staging.draft import Draft, version_hashes
from pipeline_assets.spec.contracts import Contract


def earlier_versions(contract: Contract, staged: Iterator[pa.RecordBatch], draft: Draft) -> pa.Table:
    """The staged rows of a partition that are other versions than those of a draft, those without a later one ended now.

    In memory are the hashes of the draft's versions, and the rows that are given back.
    """
    drafted, schema = np.sort(draft.hashes()), arrow_schema(versioned(contract))
    others = [batch.filter(pa.array(~_is_in(drafted, version_hashes(contract, batch)))) for batch in staged]
    earlier = pa.Table.from_batches(others, schema)
    return _ended(contract, earlier, draft).cast(schema) if earlier.num_rows else earlier


def _is_in(ordered: np.ndarray, asked: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(ordered, asked), max(len(ordered) - 1, 0))
    return ordered[places] == asked if len(ordered) else np.zeros(len(asked), dtype=bool)


def _ended(contract: Contract, earlier: pa.Table, draft: Draft) -> pa.Table:
    key, known_at = list(contract.primary_key), contract.known_at
    rows = pl.DataFrame(pl.from_arrow(earlier))
    now = draft.rows_of(rows.select(key).unique(), [*key, *({known_at} - {*key})])
    newest = now.group_by(key).agg(pl.col(known_at).max().alias("_newest"))
    is_gone = pl.col("_newest").is_null() | (pl.col("_newest") < pl.col(known_at))
    ended = pl.coalesce(DELETED_AT, pl.when(is_gone).then(pl.lit(datetime.now(UTC))))
    return rows.join(newest, on=key, how="left", maintain_order="left").with_columns(ended.alias(DELETED_AT)).drop("_newest").to_arrow()
