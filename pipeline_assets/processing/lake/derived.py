"""Derived rows on their way into the lake: in the table's terms, in order, one set of files a day, written only where they are new."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.arrow import columns_in
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.iceberg import Identifier
from pipeline_assets.core.project import days_between
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.processing.lake import files, scans
from pipeline_assets.processing.lake.files import Footer
from pipeline_assets.processing.lake.intact import damaged

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

FILE_BYTES = 256 << 20  # in memory; about a fifth of it on disk
DAYS_AT_ONCE = 4
# Rows of so many bytes that were written together are held as they are for those who read them next: a feature table of some months.
HELD_ROWS_BYTES = 48 << 20
DAY_US = 86_400_000_000


def sorted_rows(identifier: Identifier, data: pa.Table, time_column: str, first: date, last: date) -> pa.Table:
    """The rows by `time_column` and the columns before it, checked before any table is touched.

    Raises TableMismatch if two columns have the same name, if there is no `time_column` in UTC, or if a row has no time or lies outside
    the days `first` to `last` (UTC, inclusive).
    """
    _check_columns(identifier, data, time_column)
    keys = data.column_names[: data.column_names.index(time_column)]
    times = data.column(time_column).cast(pa.timestamp("us", tz="UTC"))
    start, end = (pa.scalar(datetime.combine(day, time(), UTC), times.type) for day in (first, last + timedelta(days=1)))
    inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
    outside = len(data) - (pc.sum(inside).as_py() or 0) - times.null_count
    if times.null_count:
        raise TableMismatch(".".join(identifier), f"has {times.null_count} rows without '{time_column}'", data.column_names)
    if outside:
        problem = f"has {outside} of {len(data)} rows outside {first} to {last} by '{time_column}'"
        raise TableMismatch(".".join(identifier), problem, data.column_names)
    order = pc.sort_indices(data, [(name, "ascending") for name in (time_column, *keys)])
    # To look takes a hundredth of what it takes to bring seventy columns into the order that they have.
    return data if order.equals(pa.array(np.arange(len(data)), order.type)) else data.take(order)


def split(table: "Table", rows: pa.Table, time_column: str, first: date, last: date) -> dict[date, pa.Table]:
    """The rows of each day `first` to `last` (UTC, inclusive) in all columns of the table, null in those that the rows lack.

    rows: as `sorted_rows` gives them. Raises TableMismatch if they do not fit the columns' types.
    """
    fitted = _fitted(table, rows)
    days = days_between(first, last)
    starts = [(day - files.EPOCH).days * DAY_US for day in (*days, last + timedelta(days=1))]
    edges = np.searchsorted(fitted.column(time_column).cast(pa.int64()).to_numpy(), starts)
    return {day: fitted.slice(start, end - start) for day, start, end in zip(days, edges[:-1], edges[1:], strict=True)}


def write_changed(
    store: "S3FileSystem", table: "Table", days: "Mapping[date, tuple[pa.Table, Sequence[DataFile]]]"
) -> "dict[date, list[DataFile]]":
    """New files for each day whose rows are not those of its live files: day → (rows, live files) gives day → files, some of them none.

    Live files that are damaged hold no rows.
    """

    def write(item: "tuple[date, tuple[pa.Table, Sequence[DataFile]]]") -> list[Footer] | None:
        day, (rows, live) = item
        contents = encode(rows)
        digests = [files.digest_of_bytes(memoryview(content)) for content in contents]
        if digests == files.digests(live) and not damaged(table, live):
            return None
        paths = [files.new_path(table, day, digest, position) for position, digest in enumerate(digests)]
        for path, content in zip(paths, contents, strict=True):
            scans.hold(path, content, rows if are_few and len(paths) == 1 else None)
        return [files.put(store, path, day, content) for path, content in zip(paths, contents, strict=True)]

    # Days are parts of one table in memory, which stays there as long as one of them is held.
    are_few = sum(rows.nbytes for rows, _ in days.values()) <= HELD_ROWS_BYTES
    changed: list[date] = []

    def footers(written: Iterable[list[Footer] | None]) -> Iterator[Footer]:
        for day, found in zip(days, written, strict=True):
            if found is not None:
                changed.append(day)
                yield from found

    with ThreadPoolExecutor(DAYS_AT_ONCE) as pool:
        # The files of a day are described while those of later days are written.
        new = files.by_day(files.describe(table, footers(pool.map(write, days.items()))))
    return {day: new.get(day, []) for day in changed}


def write_whole(
    store: "S3FileSystem", table: "Table", rows: pa.RecordBatchReader, old: "Sequence[DataFile]"
) -> "tuple[list[DataFile], list[DataFile]]":
    """The old files that hold some of the rows as they are, and new files of the others; about a file is held in memory at a time.

    Old files that are damaged hold no rows.
    """
    known = {files.digests([file])[0]: file for file in old}
    kept: list[DataFile] = []
    footers: list[Footer] = []
    for part in _parts(rows):
        content = _file(_fitted(table, part))
        digest = files.digest_of_bytes(memoryview(content))
        if digest in known and not damaged(table, [known[digest]]):
            kept.append(known.pop(digest))
        else:
            footers.append(files.put(store, files.new_path(table, None, digest, len(footers)), None, content))
    return kept, files.describe(table, footers)


def _parts(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The rows in tables that each make about one file."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in (batch for batch in rows if batch.num_rows):
        waiting.append(batch)
        size += batch.nbytes
        if size >= FILE_BYTES:
            yield pa.Table.from_batches(waiting, rows.schema)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting, rows.schema)


def _check_columns(identifier: Identifier, data: pa.Table, time_column: str) -> None:
    doubled = sorted(name for name, times in Counter(data.column_names).items() if times > 1)
    if doubled:
        raise TableMismatch(".".join(identifier), f"has two columns of the name '{doubled[0]}'", data.column_names)
    if time_column not in data.column_names or getattr(data.schema.field(time_column).type, "tz", None) != "UTC":
        raise TableMismatch(".".join(identifier), f"has no column '{time_column}' of times in UTC", data.column_names)


def _fitted(table: "Table", rows: pa.Table) -> pa.Table:
    schema = table.schema().as_arrow()
    try:
        return pa.Table.from_arrays(columns_in(rows, schema), names=schema.names).cast(schema)
    except (pa.ArrowInvalid, ValueError) as error:
        raise TableMismatch(".".join(table.name()), f"cannot take the rows: {error}", rows.column_names) from error


def encode(rows: pa.Table) -> list[pa.Buffer]:
    """The rows as Parquet, in as many files as keep each below the target; none for no rows. The same rows give the same bytes."""
    if not len(rows):
        return []
    step = max(1, int(len(rows) * FILE_BYTES / max(rows.nbytes, 1)))
    return [_file(rows.slice(start, step)) for start in range(0, len(rows), step)]


def _file(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with staging.parquet_writer(sink, rows.combine_chunks().to_batches()[0]) as writer:
        writer.write_table(rows)
    return sink.getvalue()
