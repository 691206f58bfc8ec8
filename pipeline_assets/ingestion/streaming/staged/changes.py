"""Change data capture: from the log of a table's changes to the rows that stand in it.

A change log is a table of changes as they came, in any order, each as often as it was delivered: the contract's fields as they were after
the change (of a deleted row its key) beside the columns of `change_log`. Its topic has one partition, so that offsets say what came first.

The order of changes. Two changes of one row have the order of their LSNs, since a row is locked until the commit. Rows of a snapshot all
carry the LSN at which it was taken, and a transaction that was open then has changes with a smaller one that come after it. So the log is
cut into epochs first, where by offset a snapshot begins; within an epoch the snapshot comes first, then changes by LSN, then by offset.

The newest snapshot that is complete replaces all before it: what it does not contain is gone. That is what makes a lost replication slot
harmless, which leaves a hole in the log and a snapshot after it. A snapshot is complete when its last row is marked as such or a change
follows, as changes are only emitted after it. A truncated table is as after an empty snapshot.

What a change does not have. Of a large value that a change did not touch, and of a column that the table did not have while it changed
(it was dropped, and is there again), a row keeps the value of the change before. Nothing is made up where the log never had it.

A broken change. One with a value that cannot be read is in the log without it (`_broken`): its row is not what it was before, and what it
is now is known with a later change, or with the replay of this one, which is then in the log at the same offset and takes its place. Where
the key itself cannot be read nobody knows which row it is, and only its place in a snapshot counts. A deletion says enough by its key.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.ingestion.sources.arrow_types import arrow_type
from pipeline_assets.ingestion.streaming.staged.change_log import (
    ABSENT,
    BROKEN,
    COMMITTED_AT,
    CREATED,
    DELETED,
    LSN,
    OFFSET,
    OPERATION,
    PARTITION,
    SNAPSHOT,
    TOPIC,
    TRANSACTION,
    TRUNCATED,
)
from pipeline_assets.ingestion.streaming.staged.facts import (
    EPOCH,
    ORDER,
    Place,
    change_offsets,
    epochs_of,
    first_values,
    has_broken,
    is_from,
    is_unread,
    marks,
    numbered,
)
from pipeline_assets.spec.contracts import Contract

# What Debezium emits in the place of a large value that a change did not touch.
UNAVAILABLE = "__debezium_unavailable_value"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The rows of a table at an LSN, by key, with the contract's fields (any of them may be null; no rule was checked).

    `lsn` is that of the newest change that was seen (None: no change at all), `changes` how many distinct ones there were since the newest
    complete snapshot. Without any (`is_complete` false) rows are missing that stood in the table before its changes were read. `unresolved`
    lists, as row and field, the absent values that are nowhere in the log: they are null in `rows`, and only the source knows them.
    `broken` are the keys whose newest change cannot be read, which are not among the rows.
    """

    rows: pa.Table
    lsn: int | None
    changes: int
    is_complete: bool
    broken: pl.DataFrame
    unresolved: Sequence[tuple[int, str]] = ()


def absent_fields(changes: pa.RecordBatch) -> set[str]:
    """The declared fields that any of some changes lacked; none in rows that are no changes."""
    if ABSENT not in changes.schema.names or changes.column(ABSENT).null_count == changes.num_rows:
        return set()
    return {name for listed in changes.column(ABSENT).unique().to_pylist() if listed is not None for name in json.loads(listed)}


def merge(log: pa.Table, contract: Contract, *, at: int | None = None) -> Merged:
    """The rows of a table as of an LSN (None: the newest), by key.

    log: the contract's fields and the columns of `change_log`, one row a record, in any order and with any repeats. Raises TableMismatch
    for a log with a missing column or with more than one partition.
    """
    check(log, contract)
    records = frame(log, contract)
    changes = _in_order(numbered(records, epochs_of(marks(records), change_offsets(records))), contract.primary_key, at)
    last = changes.unique(contract.primary_key, keep="last")
    standing = last.filter(~pl.col(OPERATION).is_in((DELETED, TRUNCATED))).sort(contract.primary_key)
    is_broken, key = pl.col(BROKEN).is_not_null(), list(contract.primary_key)
    filled, absent = resolved(standing.filter(~is_broken), changes, contract, _first_values(changes, contract))
    unresolved = sorted((row, name) for name in absent for row in filled[f"_is_lost_{name}"].arg_true().to_list())
    return Merged(
        rows=rows_in(filled, contract),
        lsn=newest_lsn(changes),
        changes=changes.height,
        is_complete=bool((changes[EPOCH] > 0).any() and changes["_is_complete"].any()),
        broken=standing.filter(is_broken).select(key).drop_nulls(),
        unresolved=tuple(unresolved),
    )


def rows_in(frame: pl.DataFrame, contract: Contract) -> pa.Table:
    """The columns of a contract, in its order and types, any of them nullable."""
    fields = [pa.field(field.name, arrow_type(field)) for field in contract.fields]
    return frame.select(field.name for field in contract.fields).to_arrow().cast(pa.schema(fields))


def newest_lsn(records: pl.DataFrame) -> int | None:
    """The LSN of the newest change; None where there is none."""
    return None if records.is_empty() else int(records.select(pl.col("_lsn_of_effect").max()).item())


def check(log: pa.Table, contract: Contract) -> None:
    """Raises TableMismatch for a log with a missing column or with more than one partition."""
    wanted = [*(field.name for field in contract.fields), OPERATION, LSN, COMMITTED_AT, TOPIC, PARTITION, OFFSET]
    missing = [name for name in wanted if name not in log.column_names]
    if missing:
        raise TableMismatch(f"change log of {contract.name}", f"lacks {', '.join(missing)}", log.column_names)
    places = log.select([TOPIC, PARTITION]).group_by([TOPIC, PARTITION]).aggregate([]).num_rows
    if places > 1:
        problem = f"comes from {places} topic partitions, where one says what came first"
        raise TableMismatch(f"change log of {contract.name}", problem, log.column_names)


def frame(log: pa.Table, contract: Contract) -> pl.DataFrame:
    """Each record once, by offset; one that was replayed as it is since."""
    optional = [name for name in (TRANSACTION, SNAPSHOT, ABSENT, BROKEN) if name in log.column_names]
    columns = list(dict.fromkeys([*(field.name for field in contract.fields), OPERATION, LSN, COMMITTED_AT, OFFSET, *optional]))
    frame = pl.DataFrame(pl.from_arrow(log.select(columns)))
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in (SNAPSHOT, ABSENT, BROKEN) if name not in optional)
    if not has_broken(frame):
        return frame.unique(OFFSET, keep="any").sort(OFFSET)
    return frame.sort(pl.col(BROKEN).is_not_null()).unique(OFFSET, keep="first").sort(OFFSET)


def _in_order(records: pl.DataFrame, key: Sequence[str], at: int | None) -> pl.DataFrame:
    """The changes that count at an LSN, each once, in their order; `_row` numbers them."""
    seen = records if at is None else records.filter(pl.col("_lsn_of_effect") <= at)
    base = seen.filter(pl.col("_is_complete")).select(pl.col(EPOCH).max()).item()
    return (
        seen.filter(pl.col(EPOCH) >= (base if base is not None else 0))
        .sort(ORDER)
        .unique([EPOCH, LSN, OPERATION, *key], keep="last", maintain_order=True)
        .with_row_index("_row")
    )


def _first_values(changes: pl.DataFrame, contract: Contract) -> Mapping[str, Place]:
    return first_values(changes, [field.name for field in contract.fields], {})


def resolved(
    rows: pl.DataFrame, changes: pl.DataFrame, contract: Contract, first_values: Mapping[str, Place]
) -> tuple[pl.DataFrame, list[str]]:
    """Some of the changes with the values that they did not have, from the newest change of the row that did; and the fields of these.

    Each such field comes with `_is_lost_<field>`: whether its value is nowhere in the log, or could not be read. What a change lacks that
    stands before any record with a value (`first_values`) is null: the table did not have the column.
    """
    values = [field.name for field in contract.fields if field.name not in contract.primary_key]
    absent = [name for name in values if changes.select(_is_absent(changes, name).any()).item()]
    if not absent:
        return rows, []
    known = _last_known(_with_life(changes, contract.primary_key), absent, first_values)
    return rows.drop(absent).join(known, on="_row", how="left", maintain_order="left"), absent


def _with_life(changes: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Changes with the life of the row that they belong to: from its creation to its end, under whatever key.

    A changed key is emitted as the end of the old row and the creation of a new one, both with the LSN of the one change: one life.
    """
    ends = (pl.col(OPERATION) == DELETED).cast(pl.Int64)
    stretched = changes.with_columns(_ended=ends.cum_sum().over(key) - ends).with_columns(_life=pl.col("_row").first().over(*key, "_ended"))
    left = stretched.filter(pl.col(OPERATION) == DELETED).select(EPOCH, LSN, _before="_life")
    moves = stretched.filter(pl.col(OPERATION) == CREATED).join(left, on=[EPOCH, LSN]).sort("_row").select("_life", "_before").rows()
    first: dict[int, int] = {}
    for life, before in moves:
        first[life] = first.get(before, before)
    return stretched.with_columns(pl.col("_life").replace(first)) if first else stretched


def _last_known(changes: pl.DataFrame, absent: Sequence[str], first_values: Mapping[str, Place]) -> pl.DataFrame:
    """For every change the values of these columns as they then were, and whether the log has none."""
    is_gone = pl.col(OPERATION) == DELETED
    newest: Mapping[str, pl.Expr] = {
        name: pl.when(~is_gone & ~_is_absent(changes, name)).then(pl.col("_row")).forward_fill().over("_life") for name in absent
    }
    places = changes.select("_row", *(place.alias(f"_at_{name}") for name, place in newest.items()))
    values = [changes[name].gather(places[f"_at_{name}"]).alias(name) for name in absent]
    had = changes.select((is_from(first_values[name]) if name in first_values else pl.lit(value=False)).alias(name) for name in absent)
    unread = changes.select("_row", *(is_unread(changes, name).alias(name) for name in absent))
    gone = {name: unread[name].gather(places[f"_at_{name}"]).fill_null(value=False) for name in absent}
    lost = [((places[f"_at_{name}"].is_null() & had[name]) | gone[name]).alias(f"_is_lost_{name}") for name in absent]
    return pl.DataFrame([places["_row"], *values, *lost])


def _is_absent(changes: pl.DataFrame, name: str) -> pl.Expr:
    """Whether a change has no value of a field."""
    is_lacking = pl.col(ABSENT).str.contains(json.dumps(name), literal=True).fill_null(value=False)
    return is_lacking | pl.col(name).eq_missing(UNAVAILABLE) if changes.schema[name] == pl.String else is_lacking
