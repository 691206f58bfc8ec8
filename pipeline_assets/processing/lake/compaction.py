"""Many small files made few: the same rows in a new snapshot, and readers keep the files they began with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core.errors import LakeBusy, TableMismatch
from pipeline_assets.core.iceberg import manifests_of
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.processing.lake import files, scans
from pipeline_assets.processing.lake.commits import Change, replace_files

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table

DAYS_A_COMMIT = 31
ROW_GROUP_BYTES = 64 << 20  # in memory


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """How many days were rewritten, from how many files into how many."""

    days: int
    files_before: int
    files_after: int


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A day whose rows were written anew, in files that no commit names yet; `sources` are the files it was read from."""

    day: date | None
    sources: set[str]
    files: "Sequence[DataFile]"


def compact(store: "S3FileSystem", table: "Table", *, min_files: int, target_bytes: int) -> Compacted:
    """Rewrite each day (a table without partitions: the whole) that has at least `min_files` files where half as many of `target_bytes` do.

    A month of days at a time is one snapshot, with the rows it had. A day that another writer changes meanwhile is left to the next time.
    """
    due = [(day, tasks) for day, tasks in _groups(table).items() if _is_due(tasks, min_files, target_bytes)]
    removed = added = days = 0
    for start in range(0, len(due), DAYS_A_COMMIT):
        rewritten = [_rewrite(store, table, day, tasks, target_bytes) for day, tasks in due[start : start + DAYS_A_COMMIT]]
        change = _commit(table, rewritten)
        removed, added = removed + len(change.remove), added + len(change.add)
        days += len({files.day_of(file) for file in change.add})
    return Compacted(days=days, files_before=removed, files_after=added)


def merge_manifests(table: "Table", *, min_manifests: int) -> bool:
    """Whether the table's manifests were merged: done where it has at least `min_manifests`; no row and no file changes."""
    from pyiceberg.exceptions import CommitFailedException

    snapshot = table.current_snapshot()
    if snapshot is None or len(manifests_of(table, snapshot)) < min_manifests:
        return False
    try:
        with table.transaction() as transaction:
            transaction.update_snapshot().merge_append().commit()
    except CommitFailedException as error:
        raise LakeBusy(".".join(table.name()), str(error)) from error
    return True


def _groups(table: "Table") -> "dict[date | None, list[FileScanTask]]":
    groups: dict[date | None, list[FileScanTask]] = {}
    for task in files.plan(table):
        groups.setdefault(files.day_of(task.file), []).append(task)
    return groups


def _is_due(tasks: "Sequence[FileScanTask]", min_files: int, target_bytes: int) -> bool:
    wanted = -(-sum(task.file.file_size_in_bytes for task in tasks) // target_bytes)
    return len(tasks) >= min_files and wanted * 2 <= len(tasks) and not any(task.delete_files for task in tasks)


def _rewrite(store: "S3FileSystem", table: "Table", day: date | None, tasks: "Sequence[FileScanTask]", target_bytes: int) -> Rewritten:
    sources = {task.file.file_path for task in tasks}
    digest = files.digest_of_sources(sources)
    footers = [
        files.put(store, files.new_path(table, day, digest, position), day, content)
        for position, content in enumerate(_contents(table, tasks, target_bytes))
    ]
    rows = sum(footer.metadata.num_rows for footer in footers)
    if rows != sum(task.file.record_count for task in tasks):
        raise TableMismatch(".".join(table.name()), f"would hold {rows} rows of {day} after compaction", table.schema().column_names)
    return Rewritten(day=day, sources=sources, files=files.describe(table, footers))


def _commit(table: "Table", rewritten: Sequence[Rewritten]) -> Change:
    first, last = rewritten[0].day, rewritten[-1].day
    rows = files.rows_between(table, first, last)

    def plan(table: "Table") -> Change:
        live = files.by_day(files.live_files(table, rows))
        same = [one for one in rewritten if {file.file_path for file in live.get(one.day, [])} == one.sources]
        return Change(remove=[file for one in same for file in live[one.day]], add=[file for one in same for file in one.files])

    return replace_files(table, rows, plan)


def _contents(table: "Table", tasks: "Sequence[FileScanTask]", target_bytes: int) -> Iterator[pa.Buffer]:
    """The rows of the files, in their order, as Parquet files that are closed once they have grown to the target."""
    sink, writer = pa.BufferOutputStream(), None
    for group in _row_groups(scans.batches(table, tasks, table.schema().as_arrow())):
        writer = writer or staging.parquet_writer(sink, group.to_batches()[0])
        writer.write_table(group)
        if sink.tell() >= target_bytes:
            writer.close()
            yield sink.getvalue()
            sink, writer = pa.BufferOutputStream(), None
    if writer is not None:
        writer.close()
        yield sink.getvalue()


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches gathered to tables of a row group's size: small files would else become small row groups."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(waiting).combine_chunks()
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()
