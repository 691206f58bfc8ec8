"""Earlier versions of a partition that is read from its source again: what was known by then stays, also of rows that are gone since.

A source that is read in batches holds its rows as they are now. A row that it published before with another `known_at` is an earlier
version, and stays beside the new one. A row that is gone was deleted by the time of this reading at the latest, as nobody knows when. Under
the same `known_at` a row is the same version, and is as it was read last.

A row that stands there again as it was long ago (its table was restored, or it had been gone) cannot be known by its `known_at`, as another
version or none counted since. So it is a new version, known by this reading, and what counted until then has ended.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.versions import DELETED_AT, version_key, versioned
from pipeline_assets.ingestion.sources.contracts import Checked, arrow_schema
from pipeline_assets.ingestion.staging.draft import Draft, is_in, version_hashes
from pipeline_assets.spec.contracts import Contract

NEWEST, IS_STANDING = "__newest", "__is_standing"


def add_earlier(contract: Contract, staged: Iterator[pa.RecordBatch], draft: Draft) -> None:
    """Adds to a draft, whose repeats were dropped, the staged versions of its partition that it lacks.

    In memory are the hashes of the draft's versions, and the rows that are added.
    """
    before = _before(contract, staged, draft)
    if before.others.is_empty() and before.ended.is_empty():
        return
    now = datetime.now(UTC)
    newest = _newest_drafted(contract, pl.concat([before.others, before.ended]), draft)
    back = _back(contract, before, newest, draft)
    draft.take(back.ended.select(version_key(contract)))
    again = back.drafted.with_columns(pl.lit(now).cast(back.drafted.schema[contract.known_at]).alias(contract.known_at))
    for rows in (_ended(contract, before.others, newest, back, now), back.ended, again):
        _add(contract, draft, rows)


@dataclass(frozen=True, kw_only=True)
class _Before:
    """Staged versions: the others than those of a draft, and those of the draft that had ended at the source."""

    others: pl.DataFrame
    ended: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class _Back:
    """Rows that stand as they were long ago: their staged versions that had ended, how they are drafted, and those that say so by now."""

    ended: pl.DataFrame
    drafted: pl.DataFrame
    standing: pl.DataFrame


def _before(contract: Contract, staged: Iterator[pa.RecordBatch], draft: Draft) -> _Before:
    drafted, schema = np.sort(draft.hashes()), arrow_schema(versioned(contract))
    others, ended = [schema.empty_table()], [schema.empty_table()]
    for batch in staged:
        is_drafted = is_in(drafted, version_hashes(contract, batch))
        was_deleted = batch.column(DELETED_AT).is_valid().to_numpy(zero_copy_only=False)
        others.append(pa.Table.from_batches([batch.filter(pa.array(~is_drafted))], schema))
        ended.append(pa.Table.from_batches([batch.filter(pa.array(is_drafted & was_deleted))], schema))
    return _Before(others=pl.DataFrame(pl.from_arrow(pa.concat_tables(others))), ended=pl.DataFrame(pl.from_arrow(pa.concat_tables(ended))))


def _newest_drafted(contract: Contract, rows: pl.DataFrame, draft: Draft) -> pl.DataFrame:
    """When the newest drafted version of each key of some rows was known; no row for a key that is gone."""
    key, known_at = list(contract.primary_key), contract.known_at
    now = draft.rows_of(rows.select(key).unique(), [*key, *({known_at} - {*key})])
    return now.group_by(key).agg(pl.col(known_at).max().alias(NEWEST))


def _back(contract: Contract, before: _Before, newest: pl.DataFrame, draft: Draft) -> _Back:
    """What stands as it was long ago: its newest drafted version had ended, or is older than a staged one."""
    key, known_at = list(contract.primary_key), pl.col(contract.known_at)
    ended = before.ended.join(newest, on=key).filter(known_at == pl.col(NEWEST)).drop(NEWEST)
    older = before.others.join(newest, on=key).filter(known_at > pl.col(NEWEST)).select(key)
    keys = pl.concat([ended.select(key), older]).unique()
    if keys.is_empty() or _is_time_fixed(contract, draft):
        nothing = before.ended.clear()
        return _Back(ended=nothing, drafted=nothing, standing=nothing)
    drafted = draft.rows_of(keys, before.ended.columns).join(newest, on=key).filter(known_at == pl.col(NEWEST)).drop(NEWEST)
    last = pl.concat([before.others, ended]).sort(known_at).unique(key, keep="last", maintain_order=True)
    same = [field.name for field in contract.fields if field.name != contract.known_at]
    standing = last.filter(pl.col(DELETED_AT).is_null()).join(drafted.select(same), on=same, how="semi", nulls_equal=True)
    return _Back(ended=ended, drafted=drafted.join(standing, on=key, how="anti"), standing=standing)


def _is_time_fixed(contract: Contract, draft: Draft) -> bool:
    """Whether another `known_at` would make another key of a row, or move it out of its day."""
    return contract.known_at in contract.primary_key or (contract.known_at == contract.event_at and draft.partition != names.SNAPSHOT)


def _ended(contract: Contract, others: pl.DataFrame, newest: pl.DataFrame, back: _Back, now: datetime) -> pl.DataFrame:
    """The versions that the draft lacks, those without a later one ended now, but for those that say already how the row stands."""
    key, version = list(contract.primary_key), list(version_key(contract))
    standing = back.standing.select(version).with_columns(pl.lit(value=True).alias(IS_STANDING))
    rows = others.join(newest, on=key, how="left", maintain_order="left").join(standing, on=version, how="left", maintain_order="left")
    is_gone = (pl.col(NEWEST).is_null() | (pl.col(NEWEST) < pl.col(contract.known_at))) & pl.col(IS_STANDING).is_null()
    ended = pl.coalesce(DELETED_AT, pl.when(is_gone).then(pl.lit(now)))
    return rows.with_columns(ended.alias(DELETED_AT)).drop(NEWEST, IS_STANDING)


def _add(contract: Contract, draft: Draft, rows: pl.DataFrame) -> None:
    for batch in rows.to_arrow().cast(arrow_schema(versioned(contract))).to_batches():
        draft.add(Checked(good=batch, positions=np.arange(draft.rows, draft.rows + batch.num_rows)))
