"""What the footer of a Parquet file says of its columns, as Iceberg keeps it: pyiceberg's statistics, in a third of its time.

pyiceberg compares modes and makes objects for each column of each file. Most columns of derived tables have no bounds: their sizes and
counts are read from the footer alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pyiceberg.io.fileformat import DataFileStatistics
    from pyiceberg.table import Table


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Some columns of a footer, or of a group of its rows, for pyiceberg's statistics."""

    of: pq.FileMetaData | pq.RowGroupMetaData
    positions: Sequence[int]

    @property
    def num_rows(self) -> int:
        return int(self.of.num_rows)

    @property
    def num_row_groups(self) -> int:
        return int(self.of.num_row_groups)

    @property
    def num_columns(self) -> int:
        return len(self.positions)

    def row_group(self, number: int) -> "_Columns":
        return _Columns(of=self.of.row_group(number), positions=self.positions)

    def column(self, place: int) -> pq.ColumnChunkMetaData:
        return self.of.column(self.positions[place])


class StatisticsOf:
    """The statistics of files of a table, as `data_file_statistics_from_parquet_metadata` gives them."""

    def __init__(self, table: "Table") -> None:
        from pyiceberg.io.pyarrow import MetricModeTypes, compute_statistics_plan, parquet_path_to_id_mapping

        self._plan, self._ids = compute_statistics_plan(table.schema(), table.properties), parquet_path_to_id_mapping(table.schema())
        self._counted = {number for number, column in self._plan.items() if column.mode.type == MetricModeTypes.COUNTS}
        self._schema: pq.ParquetSchema | None = None
        self._others: list[int] = []
        self._plain: list[tuple[int, int]] = []

    def __call__(self, footer: pq.FileMetaData) -> "DataFileStatistics":
        """The statistics of one file."""
        from pyiceberg.io.pyarrow import data_file_statistics_from_parquet_metadata

        self._follow(footer.schema)
        statistics = data_file_statistics_from_parquet_metadata(
            _Columns(of=footer, positions=self._others),
            self._plan,
            self._ids,
        )
        for group in map(footer.row_group, range(footer.num_row_groups)):
            self._count(statistics, group)
        return statistics

    def _follow(self, schema: pq.ParquetSchema) -> None:
        """Notes which columns are counted alone; files of one table mostly have the same schema."""
        if self._schema is not None and self._schema.equals(schema):
            return
        numbers = [self._ids[schema.column(place).path] for place in range(len(schema))]
        # The first column is where pyiceberg sees where a group of rows begins.
        self._plain = [(place, number) for place, number in enumerate(numbers) if place and number in self._counted]
        plain = {place for place, _ in self._plain}
        self._others, self._schema = [place for place in range(len(schema)) if place not in plain], schema

    def _count(self, statistics: "DataFileStatistics", group: pq.RowGroupMetaData) -> None:
        sizes, values, nulls = statistics.column_sizes, statistics.value_counts, statistics.null_value_counts
        for place, number in self._plain:
            column = group.column(place)
            sizes[number] = sizes.get(number, 0) + column.total_compressed_size
            values[number] = values.get(number, 0) + column.num_values
            known = column.statistics
            if known is not None and known.has_null_count:
                nulls[number] = nulls.get(number, 0) + known.null_count
