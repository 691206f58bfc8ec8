"""What came to a change log since it was merged, merged with the keys that it touches alone.

All records of these keys, and of those connected with them, are read and merged again, and held against what is staged of them. A version
more is appended in a new file; only files with a row that changed or is gone are written again. The quarantine of other keys stays. Where
it cannot be proven that the rows and the quarantine are those that a merge of the whole log leaves, nothing is done and the reason given.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.sealed_objects import fetched, verified
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import Checked, arrow_schema
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.draft import FILE_BYTES
from pipeline_assets.ingestion.staging.partitions import Manifest, StagedFile
from pipeline_assets.ingestion.staging.stage import Staged, Target, refuse_too_many_broken
from pipeline_assets.ingestion.streaming.staged.change_log import BROKEN, LSN, OFFSET, OPERATION, READ
from pipeline_assets.ingestion.streaming.staged.checks import checked
from pipeline_assets.ingestion.streaming.staged.facts import Facts
from pipeline_assets.ingestion.streaming.staged.history import Versions, versions
from pipeline_assets.ingestion.streaming.staged.keys import Moves, hashes_of, is_among, rows_of
from pipeline_assets.ingestion.streaming.staged.log import PLACE, Log
from pipeline_assets.ingestion.streaming.staged.position import Position, position_of, rules_of
from pipeline_assets.ingestion.streaming.staged.whole import Merged
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import Source

if TYPE_CHECKING:
    import psycopg
    from pyarrow.fs import S3FileSystem

# Beyond these a merge of the whole is no slower, and its memory is bounded.
MOST_FRESH, MOST_RECORDS = 250_000, 1_000_000
# Each increment may leave a small file; so many are written together with the next.
SMALL_BYTES, MOST_SMALL = FILE_BYTES // 4, 16
FILE, ROW = "_file", "_row"


def merge_increment(
    connection: "psycopg.Connection", target: Target, store: "S3FileSystem", log: Log, source: Source, manifest: Manifest | None
) -> Merged | str:
    """What a merge of the new records staged, beside what a manifest says was staged; a reason where the whole log has to be merged."""
    began, position = monotonic(), None if manifest is None else position_of(manifest.made_from)
    if manifest is None or position is None or position.rules != rules_of(source):
        return "nothing was staged by this declaration"
    if dict(quarantine.faults(connection, source.contract.name, names.SNAPSHOT)) != manifest.reasons:
        return "a quarantine that is not that of the staged files"
    fresh = _fresh(log, position)
    if isinstance(fresh, str):
        return fresh
    frame = pl.DataFrame(pl.from_arrow(fresh))
    obstacle = position.obstacle(frame, [field.name for field in log.contract.fields])
    if obstacle is not None or log.snapshot_id is None:
        return obstacle or "an empty log"
    found = _merged_again(log, source, fresh, position.facts)
    if isinstance(found, str):
        return found
    reached = position.after(frame, log.snapshot_id)
    published = _stage(connection, replace(target, made_from=reached.stored()), store, manifest, found)
    staged = Staged(manifest=published, seconds=monotonic() - began)
    return Merged(staged=staged, position=reached, keys=found.versions.keys, unresolved=len(found.versions.unresolved))


def _fresh(log: Log, position: Position) -> pa.Table | str:
    """The records that the log did not have at a position; a reason where that is not known, or they are many.

    The content of a file never changes, so it is what new files hold beside what was in files that are gone, which compaction took away. A
    broken change and its replay stand at one offset, and are two records.
    """
    schema = pa.schema([*log.schema, *PLACE])
    files = log.files_since(position.snapshot)
    if files is None:
        return "a snapshot of the log that is gone"
    added, gone = files
    if sum(file.record_count for file in added) - sum(file.record_count for file in gone) > MOST_FRESH:
        return f"more than {MOST_FRESH:,} new records"
    known = np.unique(np.concatenate([np.empty(0, np.int64), *map(_identities, log.batches(gone, [OFFSET, BROKEN]))]))
    parts, there = [schema.empty_table()], 0
    for batch in log.batches(added, schema.names):
        found = _identities(batch)
        is_known = is_among(known, found)
        there += np.unique(found[is_known]).size
        parts.append(pa.Table.from_batches([batch.filter(pa.array(~is_known))]))
    return pa.concat_tables(parts) if there == len(known) else "records that are gone from the log"


def _identities(records: pa.RecordBatch) -> np.ndarray:
    """A number for each record that no other has: its offset, and whether it is broken."""
    is_broken = records.column(BROKEN).is_valid().to_numpy(zero_copy_only=False)
    return np.asarray(2 * records.column(OFFSET).to_numpy() + is_broken, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class _Again:
    """The keys that were merged again, as sorted hashes, where all their records stand in the topic, and all their versions."""

    keys: np.ndarray
    offsets: np.ndarray
    versions: Versions


def _merged_again(log: Log, source: Source, fresh: pa.Table, facts: Facts) -> _Again | str:
    """The versions of all keys that new records touch; a reason where they have very many records."""
    touched = np.unique(hashes_of(fresh, log.contract.primary_key))
    keys = _moves(log).connected().with_connected(touched) if len(touched) else touched
    parts, rows = [log.schema.empty_table()], 0
    for part in log.records_of(keys) if len(keys) else ():
        parts.append(part)
        rows += part.num_rows
        if rows > MOST_RECORDS:
            return f"more than {MOST_RECORDS:,} records of the keys that changed"
    records = pa.concat_tables(parts)
    return _Again(keys=keys, offsets=records.column(OFFSET).to_numpy(), versions=versions(records, source, facts))


def _moves(log: Log) -> Moves:
    moves, key = Moves(), log.contract.primary_key
    for batch in log.batches(log.files(), [*dict.fromkeys([*key, OPERATION, LSN])], skipped=READ):
        moves.add(pl.DataFrame(pl.from_arrow(batch)), key)
    return moves


def _stage(connection: "psycopg.Connection", target: Target, store: "S3FileSystem", manifest: Manifest, again: _Again) -> Manifest:
    """Puts the versions of some keys in the place of what is staged and in quarantine of them: files, quarantine, and the manifest last."""
    contract, partition = target.contract, manifest.partition
    now = checked(contract, again.versions)
    before = _staged_rows(store, manifest, contract, again.keys)
    added, gone = difference(before, pl.DataFrame(pl.from_arrow(now.good)))
    with quarantine.replacing(connection, contract.name, partition, target.run_id, positions=again.offsets.tolist()) as broken:
        broken.add(now.broken)
        reasons = quarantine.faults(connection, contract.name, partition)
        refuse_too_many_broken(contract, partition, manifest.rows - gone.height + added.height, reasons)
        files = _written(target, manifest, added, gone)
    return staging.publish(
        target.client,
        target.bucket,
        staging.manifest_of(contract, partition, files, run_id=target.run_id, reasons=reasons, made_from=target.made_from),
    )


def _staged_rows(store: "S3FileSystem", manifest: Manifest, contract: Contract, keys: np.ndarray) -> pl.DataFrame:
    """The staged rows of some keys, with file and row that they stand in."""
    schema = arrow_schema(versioned(contract))
    parts = [pl.DataFrame(pl.from_arrow(schema.empty_table())).with_columns(pl.lit(0, pl.Int64).alias(name) for name in (FILE, ROW))]
    for number, file in enumerate(manifest.files if len(keys) else ()):
        content = verified(fetched(store, file.path.removeprefix(staging.SCHEME), file.path), file.path)
        for places, rows in rows_of(pq.ParquetFile(pa.BufferReader(content)), keys, contract.primary_key, schema):
            frame = pl.DataFrame(pl.from_arrow(rows))
            parts.append(frame.with_columns(pl.lit(number, pl.Int64).alias(FILE), pl.Series(ROW, places.astype(np.int64))))
    return pl.concat(parts)


def difference(before: pl.DataFrame, now: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that are new, and those that were there and are not as they were."""
    same = now.columns
    return now.join(before, on=same, how="anti", nulls_equal=True), before.join(now, on=same, how="anti", nulls_equal=True)


def _written(target: Target, manifest: Manifest, added: pl.DataFrame, gone: pl.DataFrame) -> list[StagedFile]:
    """The files of the partition without the rows that are gone, and with those that are new at the end; most are as they were."""
    leaving = {number: part[ROW].to_numpy() for (number,), part in gone.partition_by(FILE, as_dict=True).items()}
    small = [number for number, file in enumerate(manifest.files) if file.bytes < SMALL_BYTES]
    again = {*leaving, *(small if len(small) >= MOST_SMALL else ())}
    draft = target.draft(manifest.partition)
    for number in sorted(again):
        for rows in _without(target, replace(manifest, files=(manifest.files[number],)), leaving.get(number)):
            draft.add(Checked(good=rows, positions=np.arange(rows.num_rows)))
    for batch in added.to_arrow().cast(arrow_schema(versioned(target.contract))).to_batches():
        draft.add(Checked(good=batch, positions=np.arange(batch.num_rows)))
    return [*(file for number, file in enumerate(manifest.files) if number not in again), *draft.upload()]


def _without(target: Target, manifest: Manifest, leaving: np.ndarray | None) -> Iterator[pa.RecordBatch]:
    """The rows of a manifest's files but for some, by their places."""
    start = 0
    for rows in staging.read_versions(target.client, target.bucket, manifest, target.contract):
        kept = np.ones(rows.num_rows, dtype=bool)
        if leaving is not None:
            kept[leaving[(leaving >= start) & (leaving < start + rows.num_rows)] - start] = False
        start += rows.num_rows
        yield rows if kept.all() else rows.filter(pa.array(kept))
