"""Reading a lake table as a stream of Arrow batches, a few files at a time."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_assets.core.arrow import columns_in
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.processing.lake import files
from pipeline_assets.processing.lake.recent import RECENT

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import FileScanTask, Table

FILES_AHEAD = 4
# Of files of this size some hundreds are held: a day of a table whose days are many.
HELD_BYTES = 1 << 20
# Of larger files a read of few columns fetches these alone.
PARTS_BYTES = 8 << 20


def reader(
    table: "Table", rows: "BooleanExpression | None", columns: Sequence[str] | None = None, snapshot_id: int | None = None
) -> pa.RecordBatchReader:
    """The files that hold `rows` (whole partitions; None: all) at a snapshot (None: the newest), by day and path, as one stream.

    Later commits do not change what the reader gives. Raises UnknownName for a snapshot or column that the table does not have.
    """
    _check(table, columns, snapshot_id)
    schema = files.plain_schema(table, columns)
    return pa.RecordBatchReader.from_batches(schema, batches(table, files.plan(table, rows, snapshot_id), schema))


def within(rows: pa.RecordBatchReader, column: str, bounds: tuple[datetime | None, datetime]) -> pa.RecordBatchReader:
    """The rows of a stream whose time in `column` is at or after the first of `bounds` (None: no limit) and before the second."""
    start, end = (pa.scalar(bound, rows.schema.field(column).type) for bound in bounds)

    def inside(batch: pa.RecordBatch) -> pa.RecordBatch:
        times = batch.column(column)
        is_before = pc.less(times, end)
        return batch.filter(is_before if bounds[0] is None else pc.and_(is_before, pc.greater_equal(times, start)))

    return pa.RecordBatchReader.from_batches(rows.schema, map(inside, rows))


def _check(table: "Table", columns: Sequence[str] | None, snapshot_id: int | None) -> None:
    known = table.schema().column_names
    for column in columns or ():
        if column not in known:
            raise UnknownName(f"column of {'.'.join(table.name())}", column, known)
    if snapshot_id is not None and table.snapshot_by_id(snapshot_id) is None:
        kept = [str(snapshot.snapshot_id) for snapshot in table.snapshots()]
        raise UnknownName(f"snapshot of {'.'.join(table.name())}", str(snapshot_id), kept)


def batches(table: "Table", tasks: "Sequence[FileScanTask]", schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches in the order of the files; pyiceberg's own reader would start on all files at once and hold them all in memory."""
    read = _by_id if _was_renamed(table) else _by_name
    waiting: deque[Future[list[pa.RecordBatch]]] = deque()
    with ThreadPoolExecutor(FILES_AHEAD) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(_by_id if task.delete_files else read, table, task, schema))
                if len(waiting) >= FILES_AHEAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _was_renamed(table: "Table") -> bool:
    """Whether a column ever had another name, or a name another column: then files must be read by field id."""
    pairs = {(field.field_id, field.name) for schema in table.metadata.schemas for field in schema.fields}
    return len({number for number, _ in pairs}) < len(pairs) or len({name for _, name in pairs}) < len(pairs)


def _by_name(table: "Table", task: "FileScanTask", schema: pa.Schema) -> list[pa.RecordBatch]:
    """The file's columns as they are named, null where it has none; three times as fast as by id, where files are small and many."""
    path, size = task.file.file_path, task.file.file_size_in_bytes
    if size < HELD_BYTES:
        found = _held(table, path, schema)
    elif size < PARTS_BYTES or 2 * len(schema) >= len(table.schema().fields):
        with table.io.new_input(path).open() as opened:
            found = _columns(pq.ParquetFile(opened), schema)
    else:
        from pipeline_assets.core.sealed_files import with_columns

        with with_columns(table.io.new_input(path), schema.names) as parquet:
            found = _columns(parquet, schema)
    batches: list[pa.RecordBatch] = pa.Table.from_arrays(found, schema=schema).to_batches()
    return batches


def _held(table: "Table", path: str, schema: pa.Schema) -> list[pa.ChunkedArray]:
    """The columns of a file that is held from now on."""
    held = RECENT.of(path)
    missing = pa.schema([field for field in schema if (field.name, field.type) not in held.columns])
    if len(missing):
        content = held.content or _content(table, path)
        read = zip(missing, _columns(pq.ParquetFile(pa.BufferReader(content)), missing), strict=True)
        new = {(field.name, field.type): column for field, column in read}
        held.columns.update(new)
        RECENT.hold(path, new, content)
    return [held.columns[field.name, field.type] for field in schema]


def hold(path: str, content: pa.Buffer, rows: pa.Table | None = None) -> None:
    """Holds a file that is being written, if it is small: its rows in all columns of the table where they are given, else its bytes."""
    if content.size < HELD_BYTES:
        if rows is None:
            RECENT.hold(path, {}, content)
        else:
            kinds = [(field.name, files.plain(field.type)) for field in rows.schema]
            RECENT.hold(path, {kind: column.cast(kind[1]) for kind, column in zip(kinds, rows.columns, strict=True)})


def _content(table: "Table", path: str) -> pa.Buffer:
    with table.io.new_input(path).open() as opened:
        return pa.py_buffer(opened.read())


def _columns(parquet: pq.ParquetFile, schema: pa.Schema) -> list[pa.ChunkedArray]:
    written = set(parquet.schema_arrow.names)
    return columns_in(parquet.read([name for name in schema.names if name in written], use_threads=False), schema)


def _by_id(table: "Table", task: "FileScanTask", schema: pa.Schema) -> list[pa.RecordBatch]:
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan

    scan = ArrowScan(table.metadata, table.io, table.schema().select(*schema.names), AlwaysTrue())
    return [batch.select(schema.names).cast(schema) for batch in scan.to_record_batches([task])]
