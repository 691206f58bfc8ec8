"""Files of spines: read as they are, and written whole or not at all."""

from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline_assets.core.errors import TableRejected
from pipeline_assets.model_lifecycle.feature_store.spine import check_finite, check_table, check_width

PARQUET, CSV = ".parquet", ".csv"
KINDS = (PARQUET, CSV)
LONGEST_ROW_BYTES = 1 << 20
# What Arrow says of a row that does not end in a block of so many bytes.
TOO_LONG = ("straddling", "block boundar", "cannot infer number of columns")


def read_spine(path: Path) -> pa.Table:
    """The table in a `.parquet` or `.csv` file, columns and rows in the file's order.

    All columns of a CSV are text, and stay what the file says; an empty cell without quotes is null.
    Raises TableRejected if there is no such file, its kind is unknown, it cannot be read, `check_table` refuses it, or a cell of a CSV
    spells NaN or an infinite number.
    """
    _check_kind(path)
    if not path.is_file():
        raise TableRejected(str(path), "there is no such file", " or ".join(KINDS))
    try:
        table = _read_csv(path) if _is_csv(path) else _read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        problem = "is empty" if path.stat().st_size == 0 else f"cannot be read: {error}"
        if any(sign in str(error) for sign in TOO_LONG):
            problem = f"has a row of more than {LONGEST_ROW_BYTES:,} bytes, the limit of a spine"
        raise TableRejected(str(path), problem, f"a whole {path.suffix} file") from error
    check_table(str(path), table)
    for column in table.column_names if _is_csv(path) else ():
        check_finite(str(path), column, table[column])
    return table


def write_table(table: pa.Table, path: Path) -> None:
    """Writes `table` to a `.parquet` or `.csv` file, which appears whole or not at all.

    Raises TableRejected as `check_output` does, and if the file cannot be written or its kind cannot hold the columns.
    """
    check_output(path)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        (pa_csv.write_csv if _is_csv(path) else pq.write_table)(table, unfinished)
        unfinished.replace(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise TableRejected(str(path), f"cannot be written: {error}", "room for the file, and .parquet for nested columns") from error
    finally:
        unfinished.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Raises TableRejected if no table could be written to `path`: its kind is unknown, it is a folder, or its folder is missing."""
    _check_kind(path)
    if path.is_dir():
        raise TableRejected(str(path), "is a folder", "the name of a file")
    if not path.absolute().parent.is_dir():
        raise TableRejected(str(path), f"its folder {path.absolute().parent} does not exist", "a folder that exists")


def _check_kind(path: Path) -> None:
    if path.suffix.lower() not in KINDS:
        raise TableRejected(str(path), f"has the unknown extension {path.suffix!r}", " or ".join(KINDS))


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == CSV


def _read_parquet(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as opened:
        check_width(str(path), opened.metadata.num_columns)
        return opened.read()


def _read_csv(path: Path) -> pa.Table:
    size, parse = pa_csv.ReadOptions(block_size=LONGEST_ROW_BYTES), pa_csv.ParseOptions(newlines_in_values=True)
    with pa_csv.open_csv(path, size, parse) as opened:
        columns = opened.schema.names
    check_width(str(path), len(columns))
    options = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    return pa_csv.read_csv(path, size, parse_options=parse, convert_options=options)
