"""What holds for the whole of a change log, whichever of its keys are looked at: its epochs, and from where on a column had values.

The log is cut into epochs, where by offset a snapshot begins or the table was truncated; see `changes` for what that is good for. They
follow from the operation, LSN and offset of each record alone. With them the records of any keys can be merged without the others.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from pipeline_assets.ingestion.streaming.staged.change_log import BROKEN, COMMITTED_AT, LSN, OFFSET, OPERATION, READ, SNAPSHOT, TRUNCATED

LAST_OF_SNAPSHOT = ("last", "last_in_data_collection")
# The order of changes: an epoch's snapshot comes first, then its changes by LSN, then by offset.
EPOCH, IS_CHANGE = "_epoch", "_is_change"
ORDER = (EPOCH, IS_CHANGE, LSN, OFFSET)
# A place in that order.
Place = tuple[int, bool, int, int]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The record that an epoch begins with, a truncation or the first of a snapshot, and whether all of its snapshot is in the log.

    `committed_at` is in microseconds since 1970.
    """

    begins_at: int
    is_truncation: bool
    lsn: int
    committed_at: int
    is_complete: bool


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The epochs of a log after the one before any snapshot, in order; and by column the place of the first record with a value."""

    epochs: Sequence[Epoch] = ()
    first_values: Mapping[str, Place] = field(default_factory=dict)


def marks(records: pl.DataFrame) -> pl.DataFrame:
    """The records among some that are of a snapshot or a truncation, as `epochs_of` takes them: 26 bytes each."""
    return records.filter(pl.col(OPERATION).is_in((READ, TRUNCATED))).select(
        OFFSET,
        LSN,
        COMMITTED_AT,
        _is_truncation=pl.col(OPERATION) == TRUNCATED,
        _is_last=pl.col(SNAPSHOT).is_in(LAST_OF_SNAPSHOT).fill_null(value=False),
    )


def change_offsets(records: pl.DataFrame) -> np.ndarray:
    """The offsets of the changes of rows among some records."""
    return records.filter(~pl.col(OPERATION).is_in((READ, TRUNCATED)))[OFFSET].to_numpy()


def epochs_of(marked: pl.DataFrame, changes: np.ndarray) -> tuple[Epoch, ...]:
    """The epochs of a log from all its `marks` and `change_offsets`, both in any order and with any repeats."""
    if marked.is_empty():
        return ()
    marked, changes = _by_offset(marked), np.sort(changes)
    offsets, lsns = marked[OFFSET].to_numpy(), marked[LSN].to_numpy()
    is_truncation = marked["_is_truncation"].to_numpy()
    changes_before = np.searchsorted(changes, offsets)
    follows_other = (np.diff(changes_before) > 0) | (np.diff(lsns) != 0) | is_truncation[1:] | is_truncation[:-1]
    begins = np.flatnonzero(np.concatenate([[True], follows_other]))
    changes_by_end = np.append(changes_before[begins[1:]], len(changes))
    is_proof = is_truncation | marked["_is_last"].to_numpy()
    is_complete = np.logical_or.reduceat(is_proof, begins) | (changes_by_end > changes_before[begins])
    first = marked[begins]
    rows = zip(offsets[begins], is_truncation[begins], lsns[begins], first[COMMITTED_AT].to_physical(), is_complete, strict=True)
    return tuple(
        Epoch(begins_at=int(at), is_truncation=bool(truncates), lsn=int(lsn), committed_at=int(time), is_complete=bool(whole))
        for at, truncates, lsn, time, whole in rows
    )


def _by_offset(marked: pl.DataFrame) -> pl.DataFrame:
    """Each once, in the order of the offsets; most come so."""
    if (np.diff(marked[OFFSET].to_numpy()) > 0).all():
        return marked
    ordered = marked.sort(OFFSET)
    return ordered.filter((pl.col(OFFSET) != pl.col(OFFSET).shift(1)).fill_null(value=True))


def numbered(records: pl.DataFrame, epochs: Sequence[Epoch]) -> pl.DataFrame:
    """Records with the number of their epoch (0: before any snapshot), whether its snapshot is complete, and when it was taken.

    `_lsn_of_effect` is from where on a record counts: a change that was open at a snapshot, from there on. A record that is older than
    the truncation before it is left out: a truncation waits for every open transaction, so it is one that was emitted again.
    """
    epoch = np.searchsorted(np.array([one.begins_at for one in epochs], np.int64), records[OFFSET].to_numpy(), side="right")
    lsns = records[LSN].to_numpy()
    taken_at = np.array([0, *(0 if one.is_truncation else one.lsn for one in epochs)])[epoch]
    emptied_at = np.array([0, *(one.lsn if one.is_truncation else 0 for one in epochs)])[epoch]
    complete = np.array([True, *(one.is_complete for one in epochs)])[epoch]
    return records.with_columns(
        pl.Series(EPOCH, epoch),
        pl.Series("_is_complete", complete),
        pl.Series("_lsn_of_effect", np.maximum(lsns, taken_at)),
        (pl.col(OPERATION) != READ).alias(IS_CHANGE),
    ).filter(pl.Series(lsns >= emptied_at))


def snapshots(epochs: Sequence[Epoch]) -> pl.DataFrame:
    """The complete snapshots by epoch, with LSN, offset and time of their first record; a truncation is as a snapshot of nothing."""
    found = [(number, one.lsn, one.begins_at, one.committed_at) for number, one in enumerate(epochs, 1) if one.is_complete]
    schema = {EPOCH: pl.Int64, LSN: pl.Int64, OFFSET: pl.Int64, COMMITTED_AT: pl.Int64}
    return pl.DataFrame(found, schema, orient="row").with_columns(pl.col(COMMITTED_AT).cast(pl.Datetime("us", "UTC")))


def first_values(records: pl.DataFrame, columns: Sequence[str], known: Mapping[str, Place]) -> dict[str, Place]:
    """By column the place of the first record with a value, readable or not, among numbered records and those `known` already."""
    if records.is_empty():
        return dict(known)
    ordered = records.select(*ORDER, *(pl.col(name).is_not_null() | is_unread(records, name) for name in columns)).sort(ORDER)
    least, found = _place(ordered, 0), dict(known)
    for name in columns:
        if (name not in found or least < found[name]) and ordered[name].any():
            place = _place(ordered, int(ordered[name].arg_max() or 0))
            found[name] = min(place, found.get(name, place))
    return found


def has_broken(records: pl.DataFrame) -> bool:
    """Whether any of some records is broken."""
    return records[BROKEN].null_count() < records.height


def is_unread(records: pl.DataFrame, name: str) -> pl.Expr:
    """Whether one of some records has a value of a field that could not be read."""
    if not has_broken(records):
        return pl.lit(value=False)
    return pl.col(BROKEN).str.contains(f"{json.dumps(name)}: ", literal=True).fill_null(value=False)


def _place(ordered: pl.DataFrame, row: int) -> Place:
    epoch, is_change, lsn, offset = ordered.row(row)[:4]
    return int(epoch), bool(is_change), int(lsn), int(offset)


def is_from(place: Place) -> pl.Expr:
    """Whether a numbered record stands at a place of the order, or after it."""
    epoch, is_change, lsn, offset = place
    by_offset = (pl.col(LSN) > lsn) | ((pl.col(LSN) == lsn) & (pl.col(OFFSET) >= offset))
    by_change = by_offset & pl.col(IS_CHANGE) if is_change else pl.col(IS_CHANGE) | by_offset
    return (pl.col(EPOCH) > epoch) | ((pl.col(EPOCH) == epoch) & by_change)
