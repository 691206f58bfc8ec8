"""Quarantined rows read again from their bytes, as their source writes them: a line of a CSV file as such, all others as JSON.

A line of values says nothing without its columns. They are those that the source declares by now, or else those that its own file named in
its first line, which the row kept: what files name today may be others. A row that kept none, as it was quarantined by an earlier
version, cannot be read: reading its file again is what helps.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa

from pipeline_assets.ingestion.batch.file_rows import check_csv_lines
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked, arrow_schema
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.quarantine import QuarantinedRow
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import CsvFile, Files, RecordStream, Source

Row = BrokenRow | QuarantinedRow
Columns = tuple[str, ...]


def check_again(
    declared: Source | RecordStream, rows: Sequence[Row], *, day: date | None = None, contract: Contract | None = None
) -> Checked:
    """Which rows keep the present contract (or another one that is given), each at its position among `rows`.

    Rows that repeat a version are written as JSON, whatever their source, as are those of Parquet.
    """
    contract, written = contract or declared.contract, _csv(declared)
    by_columns: dict[Columns | None, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_columns[_columns(written, row)].append(place)
    parts = [_checked(contract, written, columns, [rows[place] for place in places], day, places) for columns, places in by_columns.items()]
    good = pa.Table.from_batches([part.good for part in parts], arrow_schema(contract))
    broken = sorted((row for part in parts for row in part.broken), key=lambda row: row.position)
    positions = np.concatenate([np.empty(0, np.int64), *(part.positions for part in parts)])
    return Checked(good=_one(good), positions=positions, broken=broken, fields=frozenset().union(*(part.fields for part in parts)))


def _csv(declared: Source | RecordStream) -> CsvFile | None:
    """How the lines of a source of CSV files are written; None for any other."""
    if isinstance(declared, Source) and isinstance(declared.origin, Files) and isinstance(declared.origin.format, CsvFile):
        return declared.origin.format
    return None


def _columns(written: CsvFile | None, row: Row) -> Columns | None:
    """The columns of a line of values, none of them where nobody knows them; None for a row that is JSON."""
    if written is None or row.place is None:
        return None
    return written.columns or tuple(row.columns or ())


def _checked(
    contract: Contract, written: CsvFile | None, columns: Columns | None, rows: Sequence[Row], day: date | None, places: Sequence[int]
) -> Checked:
    originals = [row.original for row in rows]
    if written is None or columns is None:
        return check_json_rows(contract, originals, day=day).at(np.array(places))
    if columns:
        return check_csv_lines(contract, columns, written.delimiter, originals, day).at(np.array(places))
    unread = [
        BrokenRow(position=place, field="", reason="unknown columns", original=original)
        for place, original in zip(places, originals, strict=True)
    ]
    return Checked(good=_one(arrow_schema(contract).empty_table()), positions=np.empty(0, np.int64), broken=unread)


def _one(rows: pa.Table) -> pa.RecordBatch:
    """A table as one batch."""
    return next(iter(rows.combine_chunks().to_batches()), pa.RecordBatch.from_pylist([], rows.schema))
