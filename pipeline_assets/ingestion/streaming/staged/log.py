"""The change log of a followed table as it stands in the lake, read in batches and by keys, so that it never has to be in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.arrow import batches_in
from pipeline_assets.core.errors import TableMismatch, UnknownName
from pipeline_assets.core.iceberg import open_table, planned
from pipeline_assets.ingestion.sources.arrow_types import ARROW_TYPES, arrow_type
from pipeline_assets.ingestion.streaming.staged.change_log import (
    ABSENT,
    BROKEN,
    COMMITTED_AT,
    LSN,
    OFFSET,
    OPERATION,
    PARTITION,
    SNAPSHOT,
    TOPIC,
)
from pipeline_assets.ingestion.streaming.staged.keys import rows_of
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

REQUIRED = (OPERATION, LSN, COMMITTED_AT, TOPIC, PARTITION, OFFSET)
META = pa.schema(
    [
        (OPERATION, pa.string()),
        (LSN, pa.int64()),
        (COMMITTED_AT, ARROW_TYPES["timestamp"]),
        (OFFSET, pa.int64()),
        (SNAPSHOT, pa.string()),
        (ABSENT, pa.string()),
        (BROKEN, pa.string()),
    ]
)
PLACE = pa.schema([(TOPIC, pa.string()), (PARTITION, pa.int32())])


@dataclass(frozen=True, kw_only=True)
class Log:
    """A change log at its newest snapshot (None: nothing was ever written); `contract` is that of the rows in the table itself."""

    table: "Table"
    contract: Contract
    snapshot_id: int | None

    @property
    def schema(self) -> pa.Schema:
        """The columns that a merge needs."""
        fields = [pa.field(field.name, arrow_type(field)) for field in self.contract.fields if field.name not in META.names]
        return pa.schema([*fields, *META])

    def files(self) -> "list[DataFile]":
        """The files of the log, by the first offset that they hold."""
        return [] if self.snapshot_id is None else self._files_at(self.snapshot_id)

    def files_since(self, snapshot_id: int) -> "tuple[list[DataFile], list[DataFile]] | None":
        """The files that came since a snapshot, and those that are gone; None where nothing is known of that snapshot any more."""
        if self.table.snapshot_by_id(snapshot_id) is None:
            return None
        before, now = self._files_at(snapshot_id), self.files()
        known, held = {file.file_path for file in before}, {file.file_path for file in now}
        return [file for file in now if file.file_path not in known], [file for file in before if file.file_path not in held]

    def _files_at(self, snapshot_id: int) -> "list[DataFile]":
        number = self.table.schema().find_field(OFFSET).field_id
        found = [task.file for task in planned(self.table, None, snapshot_id)]
        return sorted(found, key=lambda file: (int.from_bytes((file.lower_bounds or {}).get(number, b""), "little"), file.file_path))

    def batches(self, files: "Sequence[DataFile]", columns: Sequence[str], *, skipped: str | None = None) -> Iterator[pa.RecordBatch]:
        """These columns of the records of files, but for row groups that hold one `skipped` operation alone; null where there is none."""
        schema = pa.schema([pa.unify_schemas([self.schema, PLACE]).field(name) for name in columns])
        for file in files:
            with self._open(file) as parquet:
                groups = [group for group in range(parquet.num_row_groups) if skipped is None or not _holds_only(parquet, group, skipped)]
                if groups:
                    yield from batches_in(parquet, schema, row_groups=groups)

    def records_of(self, wanted: np.ndarray) -> Iterator[pa.Table]:
        """All records of the keys with some hashes, and of none else."""
        for file in self.files():
            with self._open(file) as parquet:
                yield from (rows for _, rows in rows_of(parquet, wanted, self.contract.primary_key, self.schema))

    @contextmanager
    def _open(self, file: "DataFile") -> Iterator[pq.ParquetFile]:
        with self.table.io.new_input(file.file_path).open() as opened:
            yield pq.ParquetFile(opened)


def open_log(lake: "Catalog", contract: Contract, log_name: str) -> Log:
    """The change log of a table at its newest snapshot; `contract` is that of the rows in the table itself.

    Raises UnknownName where there is no such log, TableMismatch for one that lacks a column.
    """
    identifier = names.typed(log_name)
    table = open_table(lake, identifier)
    if table is None:
        known = [".".join(found) for found in lake.list_tables(names.TYPED)] if lake.namespace_exists(names.TYPED) else []
        raise UnknownName("change log", ".".join(identifier), known)
    columns = table.schema().column_names
    missing = [name for name in (*(field.name for field in contract.fields), *REQUIRED) if name not in columns]
    if missing:
        raise TableMismatch(f"change log of {contract.name}", f"lacks {', '.join(missing)}", columns)
    newest = table.current_snapshot()
    return Log(table=table, contract=contract, snapshot_id=None if newest is None else newest.snapshot_id)


def _holds_only(parquet: pq.ParquetFile, group: int, operation: str) -> bool:
    """Whether the statistics of a row group show that all its records are of one operation."""
    found = parquet.metadata.row_group(group)
    for number in range(found.num_columns):
        column = found.column(number)
        if column.path_in_schema == OPERATION and column.is_stats_set and column.statistics.has_min_max:
            return bool(column.statistics.min == column.statistics.max == operation and not column.statistics.null_count)
    return False
