"""Parquet files as Iceberg sees them: read from their footers, found by day, written once and never changed.

A file's name begins with a digest of what it holds. So a writer knows from the names alone that a day already is as it should be, and
writes and commits nothing. The rest of the name is random: a path is never used twice, so a deletion of an old file cannot hit a new
one.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.iceberg import planned, time_column
from pipeline_assets.core.sealed_objects import SEALED_PARQUET, sealed
from pipeline_assets.processing.lake.statistics import StatisticsOf

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.io.fileformat import DataFileStatistics
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.typedef import Record

FOOTERS_AT_ONCE = 8
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What a Parquet file says of itself, and the day it is for (None in a table without partitions)."""

    path: str
    day: date | None
    metadata: pq.FileMetaData
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a file holds: a digest of it, its rows, and the earliest and latest time in a column (UTC; None: no row has one)."""

    digest: str
    rows: int
    first_at: datetime | None
    last_at: datetime | None


def rows_within(column: str, bounds: tuple[datetime | None, datetime]) -> "BooleanExpression":
    """The rows whose time in `column` is at or after the first of `bounds` (None: no limit) and before the second."""
    from pyiceberg.expressions import And, GreaterThanOrEqual, LessThan, Reference
    from pyiceberg.expressions.literals import literal

    time_at, (start, end) = Reference(column), bounds
    before = LessThan(term=time_at, value=literal(end.isoformat()))
    return before if start is None else And(GreaterThanOrEqual(term=time_at, value=literal(start.isoformat())), before)


def rows_of_days(table: "Table", first: date, last: date) -> "BooleanExpression":
    """The rows of the days `first` to `last` (UTC, inclusive); whole partitions, so it never cuts a file."""
    column = time_column(table)
    if column is None:
        raise TableMismatch(".".join(table.name()), "has no day partitions", table.schema().column_names)
    return rows_within(column, (datetime.combine(first, time(), UTC), datetime.combine(last + timedelta(days=1), time(), UTC)))


def rows_between(table: "Table", first: date | None, last: date | None) -> "BooleanExpression":
    """The rows of the days `first` to `last` (UTC, inclusive); all rows where there are no days, as in a table without partitions."""
    from pyiceberg.expressions import AlwaysTrue

    return AlwaysTrue() if first is None or last is None else rows_of_days(table, first, last)


def plan(table: "Table", rows: "BooleanExpression | None" = None, snapshot_id: int | None = None) -> "list[FileScanTask]":
    """What must be read for `rows` (None: all) at a snapshot (None: the newest), by day and path."""
    return sorted(planned(table, rows, snapshot_id), key=lambda task: (day_of(task.file) or EPOCH, task.file.file_path))


def live_files(table: "Table", rows: "BooleanExpression | None" = None, snapshot_id: int | None = None) -> "list[DataFile]":
    """The files that hold `rows` (None: all) at a snapshot (None: the newest), by day and path."""
    return [task.file for task in plan(table, rows, snapshot_id)]


def has_changed(table: "Table", rows: "BooleanExpression", snapshot_id: int) -> bool:
    """Whether the files that hold `rows` hold something else by now than those at a snapshot did."""
    now, then = (sorted(digests(live_files(table, rows, at))) for at in (None, snapshot_id))
    return now != then


def day_of(file: "DataFile") -> date | None:
    """The day of a file of a table by day; None in a table without partitions."""
    return _day(file.partition)


def by_day(files: "Iterable[DataFile]") -> "dict[date | None, list[DataFile]]":
    """Files grouped by their day, in the order given."""
    days: dict[date | None, list[DataFile]] = {}
    for file in files:
        days.setdefault(day_of(file), []).append(file)
    return days


def content(table: "Table", column: str, file: "DataFile") -> Content:
    """What a live file of a table holds, from its statistics; unbounded where it has none of the column."""
    number = table.schema().find_field(column).field_id
    lower, upper = ((bounds or {}).get(number) for bounds in (file.lower_bounds, file.upper_bounds))
    return Content(digest=digests([file])[0], rows=file.record_count, first_at=_instant(lower), last_at=_instant(upper))


def _instant(bound: bytes | None) -> datetime | None:
    """A bound of a column of times: microseconds since 1970, little-endian."""
    if bound is None:
        return None
    return datetime.combine(EPOCH, time(), UTC) + timedelta(microseconds=int.from_bytes(bound, "little", signed=True))


def data_files(table: "Table", paths: Mapping[str, date | None]) -> "list[DataFile]":
    """What Iceberg must know of Parquet files to add them where they are, from their footers; each is held against its seal as a whole.

    paths: the day that each file is for (None in a table without partitions). Raises TableMismatch as `describe` does, and for a file
    that is no Parquet file; ObjectDamaged for one that is damaged or not there.
    """
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return describe(table, list(pool.map(lambda item: _footer(table, *item), paths.items())))


def describe(table: "Table", footers: Iterable[Footer]) -> "list[DataFile]":
    """Files with their statistics and the day they belong to.

    Raises TableMismatch naming the file if it lacks a required column, has one the table does not know, has null where a value is
    required or another type, or holds rows of another day than it is for.
    """
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat

    statistics_of, described, schema = StatisticsOf(table), [], plain_schema(table)
    checked: pq.ParquetSchema | None = None
    for footer in footers:
        if checked is None or not footer.metadata.schema.equals(checked):
            _check_columns(table, footer, schema)
            checked = footer.metadata.schema
        statistics = statistics_of(footer.metadata)
        described.append(
            DataFile.from_args(
                content=DataFileContent.DATA,
                file_path=footer.path,
                file_format=FileFormat.PARQUET,
                partition=_partition(table, footer, statistics),
                file_size_in_bytes=footer.bytes,
                sort_order_id=None,
                spec_id=table.metadata.default_spec_id,
                equality_ids=None,
                key_metadata=None,
                **statistics.to_serialized_dict(),
            )
        )
    return described


def plain_schema(table: "Table", columns: Sequence[str] | None = None) -> pa.Schema:
    """The table's columns (None: all) in plain Arrow types: string rather than large_string, without field ids."""
    schema = pa.schema([pa.field(f.name, plain(f.type), f.nullable) for f in table.schema().as_arrow()])
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def plain(kind: pa.DataType) -> pa.DataType:
    """A type as readers give it."""
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _footer(table: "Table", path: str, day: date | None) -> Footer:
    try:
        with table.io.new_input(path).open() as opened:
            metadata = pq.read_metadata(opened)
            return Footer(path=path, day=day, metadata=metadata, bytes=opened.seek(0, os.SEEK_END))
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise TableMismatch(".".join(table.name()), f"cannot take {path}: {error}", table.schema().column_names) from error


def _check_columns(table: "Table", footer: Footer, schema: pa.Schema) -> None:
    found = footer.metadata.schema.to_arrow_schema()
    problems = [f"has a column '{name}' that the table does not know" for name in found.names if name not in schema.names]
    for wanted in schema:
        position = found.get_field_index(wanted.name)
        if position < 0:
            problems += [] if wanted.nullable else [f"lacks the required column '{wanted.name}'"]
        elif not _are_same(found.field(position).type, wanted.type):
            problems.append(f"has '{wanted.name}' as {found.field(position).type}, not {wanted.type}")
        elif found.field(position).nullable and not wanted.nullable:
            problems.append(f"may hold null in the required column '{wanted.name}'")
    if problems:
        raise _mismatch(table, footer, "; ".join(problems))


def _are_same(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a file's column is of a type; bytes are so whatever the width of their offsets, as Kafka Connect writes short ones."""
    is_bytes = pa.types.is_binary(found) or pa.types.is_large_binary(found)
    return bool(plain(found) == wanted or (is_bytes and (pa.types.is_binary(wanted) or pa.types.is_large_binary(wanted))))


def _partition(table: "Table", footer: Footer, statistics: "DataFileStatistics") -> "Record":
    try:
        partition = statistics.partition(table.spec(), table.schema())
    except ValueError as error:
        raise _mismatch(table, footer, f"holds rows of several days, not of {footer.day} alone") from error
    found = _day(partition)
    if found != footer.day:
        raise _mismatch(table, footer, f"holds rows of {found}, not of {footer.day}")
    return partition


def _mismatch(table: "Table", footer: Footer, problem: str) -> TableMismatch:
    return TableMismatch(".".join(table.name()), f"cannot take {footer.path}: it {problem}", table.schema().column_names)


def digest_of_sources(paths: Iterable[str]) -> str:
    """The digest that marks rows rewritten from exactly these files, in whatever order they are named."""
    return hashlib.sha256("\n".join(sorted(paths)).encode()).hexdigest()[:32]


def digest_of_bytes(content: memoryview) -> str:
    """The digest that marks a file of exactly these bytes."""
    return hashlib.sha256(content).hexdigest()[:32]


def new_path(table: "Table", day: date | None, digest: str, position: int = 0) -> str:
    """A path no file had before, below the table's own data."""
    folder = f"{table.location()}/data" if day is None else f"{table.location()}/data/{day.isoformat()}"
    return f"{folder}/{digest}-{position:05d}-{uuid4().hex}{SEALED_PARQUET}"


def put(store: "S3FileSystem", path: str, day: date | None, content: pa.Buffer) -> Footer:
    """The bytes of a Parquet file, written as a whole or not at all; in no table before a commit names it."""
    whole = sealed(content, path)
    with store.open_output_stream(path.removeprefix("s3://")) as opened:
        opened.write(whole)
    return Footer(path=path, day=day, metadata=pq.read_metadata(pa.BufferReader(content)), bytes=len(whole))


def digests(files: "Sequence[DataFile]") -> list[str]:
    """The digests that the files' names begin with, in the order of their positions."""
    stems = [file.file_path.rpartition("/")[2].split("-") for file in files]
    return [stem[0] for stem in sorted(stems, key=lambda stem: stem[1:])]


def _day(partition: "Record") -> date | None:
    return EPOCH + timedelta(days=partition[0]) if len(partition) and partition[0] is not None else None
