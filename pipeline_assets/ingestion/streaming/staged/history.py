"""From the records of some keys of a change log to all versions of their rows: what stood in them, from when on, and until when.

The versions of a key follow from its own records and from what holds for the whole log (`facts`), and from those of other keys only
where a row was given another key: such keys must be merged together. So a log can be merged by parts of its keys.

The order of changes is that of `changes`, over all epochs of the log. A later snapshot reads a table again: a row that is as it was is no
new version, one that differs is, and one that is missing was deleted by then. So a restored table, or a replication slot that was lost and
made again, moves nothing that was known. A change that was emitted again counts where it stood first.

When a version is known. By the table's own field of `known_at`, as long as that moves on: a change that leaves the field as it was, or sets
it back, is known at its commit, or else it would seem to have been known before it was made. So is one whose field is later than its
commit, or else it would hide all changes until then. A deletion is known at its commit. A version that equals the one before in all other
fields changes nothing, but that its field may have moved on.

A change with a value that cannot be read is a version too, known as any other: it ends the one before, and counts until the next. So its
replay, with the value, gives the same times. What equals it but for values that are not known is taken for no new version.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow as pa

from pipeline_assets.core.versions import DELETED_AT, in_table, versioned
from pipeline_assets.ingestion.sources.contracts import Reason
from pipeline_assets.ingestion.streaming.staged import changes
from pipeline_assets.ingestion.streaming.staged.change_log import (
    BROKEN,
    COMMITTED_AT,
    DELETED,
    LSN,
    OFFSET,
    OPERATION,
    READ,
    TRUNCATED,
)
from pipeline_assets.ingestion.streaming.staged.facts import EPOCH, IS_CHANGE, ORDER, Facts, has_broken, is_unread, numbered, snapshots
from pipeline_assets.spec.contracts import CLOCK_TOLERANCE, Contract
from pipeline_assets.spec.sources import Source


@dataclass(frozen=True, kw_only=True)
class Versions:
    """All versions of some keys that ever counted, in the order of their keys and times.

    rows: the contract's fields (any of them may be null; no rule was checked) and `_deleted_at`. offsets: where each stands in the topic.
    next_at: when the next version of its key was known, or its deletion; null for the current one. `unresolved` lists, by row, the first
    field whose value is nowhere in the log: null in `rows`. `unread` says, by row, of a change that is broken what is wrong with each field
    that is. `keys` counts those that were merged, also such without any version.
    """

    rows: pa.Table
    offsets: pa.Array
    next_at: pa.Array
    unresolved: dict[int, str]
    unread: dict[int, dict[str, Reason]]
    keys: int


def versions(records: pa.Table, source: Source, facts: Facts) -> Versions:
    """All versions of the keys of some records: all that the log of a table has of these keys, in any order and with any repeats."""
    contract, there = source.contract, in_table(source)
    log = _of_rows(numbered(changes.frame(records, there), facts.epochs), contract.primary_key)
    whole = _filled(_with_missing(log, contract.primary_key, facts), there, facts)
    timed = _timed(_that_differ(_with_own_time(whole, source), there), contract)
    counted = timed.filter(pl.col(OPERATION) != DELETED)
    ended = pl.when("_is_ended").then(pl.col("_next")).alias(DELETED_AT)
    rows = counted.with_columns(ended, pl.col("_known").alias(contract.known_at)).with_row_index("_at")
    lost, broken = (rows.filter(pl.col(name).is_not_null()) for name in ("_lost", BROKEN))
    return Versions(
        rows=changes.rows_in(rows, versioned(contract)),
        offsets=rows[OFFSET].to_arrow(),
        next_at=rows["_next"].to_arrow(),
        unresolved=dict(zip(lost["_at"].to_list(), lost["_lost"].to_list(), strict=True)),
        unread=dict(zip(broken["_at"].to_list(), map(json.loads, broken[BROKEN].to_list()), strict=True)),
        keys=log.n_unique(contract.primary_key),
    )


def _of_rows(records: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The records of which it is known whose row they changed."""
    is_lost = pl.col(BROKEN).is_not_null() & pl.any_horizontal(pl.col(name).is_null() for name in key)
    return records.filter((pl.col(OPERATION) != TRUNCATED) & ~is_lost)


def _with_missing(records: pl.DataFrame, key: Sequence[str], facts: Facts) -> pl.DataFrame:
    """The changes of rows in their order, each once, with a deletion of each row that a complete snapshot lacks."""
    is_read = pl.col(OPERATION) == READ
    # The LSNs of a database that was restored begin anew, the times of its commits do not.
    made = records.filter(~is_read).unique([LSN, COMMITTED_AT, OPERATION, *key], keep="first", maintain_order=True)
    rows = pl.concat([records.filter(is_read), made])
    begun = rows.group_by(key).agg(pl.col(EPOCH).min().alias("_begun"))
    missing = (
        begun.join(snapshots(facts.epochs), how="cross")
        .filter(pl.col("_begun") < pl.col(EPOCH))
        .join(rows.filter(is_read), on=[*key, EPOCH], how="anti")
        .drop("_begun")
        .with_columns(pl.lit(DELETED).alias(OPERATION), pl.lit(value=False).alias(IS_CHANGE))
    )
    return pl.concat([rows, missing], how="diagonal").sort(ORDER).with_row_index("_row")


def _filled(records: pl.DataFrame, contract: Contract, facts: Facts) -> pl.DataFrame:
    """The records with the values that a change did not have.

    `_lost` is the first field whose value the log does not have at all, null for a broken change; `_unknown` lists all without a value for
    that reason, or as it could not be read, where there are any.
    """
    filled, absent = changes.resolved(records, records, contract, facts.first_values)
    lost = {name: pl.col(f"_is_lost_{name}") & (pl.col(OPERATION) != DELETED) for name in absent}
    first = pl.coalesce(pl.lit(None, pl.String), *(pl.when(is_lost).then(pl.lit(name)) for name, is_lost in lost.items()))
    names = [field.name for field in contract.fields if has_broken(filled) or field.name in lost]
    unread = {name: is_unread(filled, name) | lost.get(name, pl.lit(value=False)) for name in names}
    listed = [pl.when(is_unknown).then(pl.lit(f"{name},")) for name, is_unknown in unread.items()]
    unknown = [pl.concat_str(listed, ignore_nulls=True).alias("_unknown")] if listed else []
    return filled.with_columns(pl.when(pl.col(BROKEN).is_null()).then(first).alias("_lost"), *unknown)


def _with_own_time(records: pl.DataFrame, source: Source) -> pl.DataFrame:
    """The records by key in their order, with the time since when each was known as it says itself (`_own`), null where that cannot be."""
    key, commit = source.contract.primary_key, pl.col(COMMITTED_AT)
    ordered = records.sort(*key, "_row")
    if source.known_at_commit:
        return ordered.with_columns(_own=commit)
    field = pl.when(pl.col(OPERATION) != DELETED).then(pl.col(source.contract.known_at))
    # Ranks that are higher for each next key, so that the greatest so far is one of the same key; a window over the keys is slow.
    rank = field.rank("dense").fill_null(0).cast(pl.Int64) + _is_as_before(key).not_().cum_sum().cast(pl.Int64) * (pl.len() + 1)
    moves_on = (rank > rank.cum_max().shift(1)).fill_null(value=True)
    return ordered.with_columns(_own=pl.when(moves_on & (field <= commit + CLOCK_TOLERANCE)).then(field))


def _that_differ(records: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """Those of the records, which are by key in their order, that change what is known of their key."""
    key = contract.primary_key
    values = [field.name for field in contract.fields if field.name not in {*key, contract.known_at}]
    values += [name for name in records.columns if name == "_unknown"]
    is_deleted = pl.col(OPERATION) == DELETED
    was_deleted = pl.when(_is_as_before(key)).then(is_deleted.shift(1))
    differs = (
        pl.when(is_deleted)
        .then(was_deleted.not_().fill_null(value=False))
        .otherwise((was_deleted | _is_as_before(values).not_()).fill_null(value=True))
    )
    return records.filter(differs)


def _is_as_before(columns: Sequence[str]) -> pl.Expr:
    """Whether a record has in these columns what the one before it has; a window over the keys takes ten times as long."""
    return pl.all_horizontal(pl.lit(value=True), *(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in columns)) & (
        pl.int_range(pl.len()) > 0
    )


def _timed(records: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """The records that counted for a while: when they were known, when the next one of their key was, and whether that ends the row."""
    key = contract.primary_key
    timed = records.with_columns(_is_first=_is_as_before(key).not_())
    known = _moving_on(timed.select("_own", COMMITTED_AT, "_is_first"))
    with_next = _with_next(timed.with_columns(known.alias("_known")), key)
    return _with_next(with_next.filter((pl.col("_known") < pl.col("_next")).fill_null(value=True)), key)


def _with_next(timed: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Records with the time of the next one of their key, and whether that is a deletion; null where there is none."""
    has_next = _is_as_before(key).shift(-1, fill_value=False)
    return timed.with_columns(
        _next=pl.when(has_next).then(pl.col("_known").shift(-1)),
        _is_ended=pl.when(has_next).then((pl.col(OPERATION) == DELETED).shift(-1)),
    )


def _moving_on(times: pl.DataFrame) -> pl.Series:
    """When each record was known: its own time if that is after the one before, else its commit, never before the one before.

    Each depends on the one before it, so the records of keys with several are gone through one by one.
    """
    known = times.select(pl.coalesce("_own", COMMITTED_AT)).to_series()
    own, commits, before = times["_own"], times[COMMITTED_AT], None
    later = (~times["_is_first"]).arg_true().to_list()
    moved: list[datetime] = []
    for row in later:
        before = moved[-1] if moved and later[len(moved) - 1] == row - 1 else known[row - 1]
        moved.append(own[row] if own[row] is not None and own[row] > before else max(commits[row], before))
    return known.scatter(later, moved) if later else known
