"""Statistics of files: those of pyiceberg, whichever columns are counted alone."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import compute_statistics_plan, data_file_statistics_from_parquet_metadata, parquet_path_to_id_mapping
from pyiceberg.table import Table

from pipeline_assets.processing.lake.catalog import table_for_arrow
from pipeline_assets.processing.lake.statistics import StatisticsOf

START = datetime(2013, 1, 1, tzinfo=UTC)
ROWS = pa.table(
    {
        "key": pa.array(["a", "b", None, "é", "a"] * 40),
        "asked_at": pa.array([START + timedelta(minutes=minute) for minute in range(200)], pa.timestamp("us", "UTC")),
        "count": pa.array([*range(199), None], pa.int64()),
        "mean": pa.array([None, 0.5, -0.0, 1e300, 2.5] * 40),
        "nothing": pa.nulls(200, pa.float64()),
        "is_late": pa.array([True, None, False, True, True] * 40),
        "built_on": pa.array([date(2013, 1, 1)] * 200),
    }
)


def made(lake: Catalog, columns: list[str], default: str) -> Table:
    """A table of these columns, of which metrics of a kind are kept."""
    table = table_for_arrow(lake, ("features", f"{default}_{len(columns)}"), ROWS.select(columns).schema, None)
    with table.transaction() as transaction:
        transaction.set_properties({"write.metadata.metrics.default": default})
    return table


@pytest.mark.parametrize("default", ["counts", "none", "full", "truncate(2)"])
@pytest.mark.parametrize("columns", [ROWS.column_names, ["asked_at", "key"], ["mean", "asked_at", "count"]], ids=len)
def test_statistics_are_those_of_pyiceberg(tmp_path: Path, columns: list[str], default: str) -> None:
    """Of each kind of metrics, of files of one group of rows or several, with nulls, in columns of any order."""
    with SqlCatalog("lake", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/lake") as lake:
        table = made(lake, columns, default)
        statistics_of, schema = StatisticsOf(table), table.schema()
        plan, ids = compute_statistics_plan(schema, table.properties), parquet_path_to_id_mapping(schema)
        for order, group_rows in ((columns, 200), (columns, 60), (columns[::-1], 7)):
            pq.write_table(ROWS.select(order), tmp_path / "rows.parquet", row_group_size=group_rows)
            footer = pq.read_metadata(tmp_path / "rows.parquet")
            theirs = data_file_statistics_from_parquet_metadata(footer, plan, ids)

            assert statistics_of(footer).to_serialized_dict() == theirs.to_serialized_dict()
