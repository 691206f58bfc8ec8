"""The keys of a change log as hashes: which records are of some keys, and which keys are connected by a row that was given another key.

Keys that have one hash are merged together, which does no harm; so no key needs to be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.ingestion.streaming.staged.change_log import CREATED, DELETED, LSN, OPERATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow.parquet as pq


def hashes_of(rows: pa.RecordBatch | pa.Table, key: Sequence[str]) -> np.ndarray:
    """The hash of each row's key; within one process equal keys have equal hashes."""
    return pl.DataFrame(pl.from_arrow(rows.select(list(key)))).hash_rows(seed=0).to_numpy()


def is_among(values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Which of the asked are among some values."""
    return pl.Series(asked).is_in(pl.Series(values, dtype=pl.Series(asked).dtype).implode()).to_numpy()


def rows_of(
    parquet: "pq.ParquetFile", wanted: np.ndarray, key: Sequence[str], schema: pa.Schema
) -> "Iterator[tuple[np.ndarray, pa.Table]]":
    """The rows of a file whose key has one of some hashes, with their places in the file; null in columns that the file lacks.

    Row groups without any are not read but for their keys; of others one column at a time is in memory.
    """
    written, start = set(parquet.schema_arrow.names), 0
    for group in range(parquet.num_row_groups):
        hashes = hashes_of(parquet.read_row_group(group, columns=list(key)), key)
        rows = np.flatnonzero(is_among(wanted, hashes))
        if len(rows):
            columns = [_taken(parquet, group, one, rows) if one.name in written else pa.nulls(len(rows), one.type) for one in schema]
            yield start + rows, pa.Table.from_arrays(columns, schema=schema)
        start += len(hashes)


def _taken(parquet: "pq.ParquetFile", group: int, column: pa.Field, rows: np.ndarray) -> pa.ChunkedArray:
    return parquet.read_row_group(group, columns=[column.name]).column(0).take(pa.array(rows)).cast(column.type)


@dataclass(kw_only=True)
class Moves:
    """The ends and creations of rows in a log, by LSN: a row that was given another key ended and was created by one change."""

    _ends: list[np.ndarray] = field(default_factory=list)
    _creations: list[np.ndarray] = field(default_factory=list)

    def add(self, records: pl.DataFrame, key: Sequence[str]) -> None:
        """Adds those among some records: 16 bytes each."""
        for operation, found in ((DELETED, self._ends), (CREATED, self._creations)):
            own = records.filter(pl.col(OPERATION) == operation)
            if own.height:
                lsns = own[LSN].to_numpy().astype(np.uint64)
                found.append(np.stack([lsns, own.select(key).hash_rows(seed=0).to_numpy()]))

    def connected(self) -> "Connected":
        """The keys that are connected by them."""
        if not self._ends or not self._creations:
            return Connected(keys=np.empty(0, np.uint64), groups=np.empty(0, np.uint64))
        ends, creations = np.concatenate(self._ends, axis=1), np.concatenate(self._creations, axis=1)
        moved = creations[:, is_among(np.unique(ends[0]), creations[0])]
        left = ends[:, is_among(np.unique(moved[0]), ends[0])]
        pairs = pl.DataFrame({"at": left[0], "from": left[1]}).join(pl.DataFrame({"at": moved[0], "to": moved[1]}), on="at")
        return _groups(pairs["from"].to_numpy(), pairs["to"].to_numpy())


@dataclass(frozen=True, kw_only=True)
class Connected:
    """The hashes of keys that are connected with others, sorted, and of each the hash that stands for its group."""

    keys: np.ndarray
    groups: np.ndarray

    def group_of(self, hashes: np.ndarray) -> np.ndarray:
        """Of each key the hash that stands for its group: its own where it is connected with no other."""
        if not len(self.keys):
            return hashes
        places = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        return np.where(self.keys[places] == hashes, self.groups[places], hashes)

    def with_connected(self, hashes: np.ndarray) -> np.ndarray:
        """Some keys and all that are connected with them, sorted."""
        return np.union1d(hashes, self.keys[is_among(np.unique(self.group_of(hashes)), self.groups)])


def _groups(left: np.ndarray, right: np.ndarray) -> Connected:
    """The groups of keys that pairs of them make; the least stands for each. Every round halves the way to it."""
    keys, nodes = np.unique(np.concatenate([left, right]), return_inverse=True)
    starts, ends = nodes[: len(left)], nodes[len(left) :]
    groups, before = np.arange(len(keys)), np.empty(0, np.int64)
    while not np.array_equal(groups, before):
        before, least = groups.copy(), np.minimum(groups[starts], groups[ends])
        for side in (groups[starts], groups[ends], starts, ends):
            np.minimum.at(groups, side, least)
        groups = groups[groups]
    return Connected(keys=keys, groups=keys[groups])
