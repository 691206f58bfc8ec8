"""Whether the primary key of a contract is unique."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class DoubledKeys:
    """How many rows there are beyond the first of each key, and some of these keys with their number of rows."""

    surplus: int
    examples: tuple[Mapping[str, object], ...]


def doubled_keys(read: Callable[[], pa.RecordBatchReader], key: Sequence[str]) -> DoubledKeys:
    """The keys that stand in more than one row; null equals null.

    read: returns the key columns of the rows, at each call. Memory is eight bytes per row: keys are compared by hash, and only the rows
    whose hash stands twice are read again and compared by value.
    """
    hashes = [_hashes(batch, key) for batch in read()]
    if not hashes:
        return DoubledKeys(surplus=0, examples=())
    together = np.sort(np.concatenate(hashes))
    repeated = np.unique(together[1:][together[1:] == together[:-1]])
    if not repeated.size:
        return DoubledKeys(surplus=0, examples=())
    suspects = [_frame(batch, key).filter(np.isin(_hashes(batch, key), repeated)) for batch in read()]
    doubled = (
        pl.concat(suspects).group_by(key).len("rows").filter(pl.col("rows") > 1).sort("rows", *key, descending=[True, *[False] * len(key)])
    )
    return DoubledKeys(surplus=int((doubled["rows"] - 1).sum()), examples=tuple(doubled.head(SHOWN).to_dicts()))


def _frame(batch: pa.RecordBatch, key: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(batch)).select(key)


def _hashes(batch: pa.RecordBatch, key: Sequence[str]) -> np.ndarray:
    return _frame(batch, key).hash_rows(seed=0).to_numpy()
