"""Spines of absurd sizes: refused at once by the name of the limit, before their content is read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_assets.core.errors import TableRejected
from pipeline_assets.model_lifecycle.feature_store.spine import MOST_COLUMNS, check_table
from pipeline_assets.model_lifecycle.feature_store.spine_files import read_spine

WIDE = 20_000
LONG = "x" * 20_000_000
ROW_LIMIT = "a row of more than 1,048,576 bytes, the limit of a spine"


def test_a_spine_has_so_many_columns_at_most(tmp_path: Path) -> None:
    """As CSV, as Parquet and as a table of Arrow."""
    table = pa.table({f"c{number}": [1.0] for number in range(WIDE)})
    pq.write_table(table, tmp_path / "wide.parquet")
    names = ",".join(table.column_names)
    (tmp_path / "wide.csv").write_text(f"{names}\n{'1,' * (WIDE - 1)}1\n")
    refused = r"has 20,000 columns\. Expected: at most 2,000"

    with pytest.raises(TableRejected, match=refused):
        read_spine(tmp_path / "wide.csv")
    with pytest.raises(TableRejected, match=refused):
        read_spine(tmp_path / "wide.parquet")
    with pytest.raises(TableRejected, match=refused):
        check_table("spine", table)
    check_table("spine", table.select(range(MOST_COLUMNS)))


@pytest.mark.parametrize(
    "content",
    [
        f"{LONG},a\n1,2\n",
        f"a,b\n1,{LONG}\n",
        "a,b\n" + "1,2\n" * 400_000 + f"{LONG},3\n",
        f'a,b\n"{LONG}",3\n',
        'a,b\n"' + "x\n" * 10_000_000,
    ],
    ids=["names", "first", "late", "quoted", "lines in quotes"],
)
def test_a_row_has_so_many_bytes_at_most(tmp_path: Path, content: str) -> None:
    """Wherever it stands, and also where it is of many lines."""
    (tmp_path / "long.csv").write_text(content)

    allocated = pa.total_allocated_bytes()
    with pytest.raises(TableRejected, match=ROW_LIMIT):
        read_spine(tmp_path / "long.csv")

    assert pa.total_allocated_bytes() - allocated < 32 << 20
