"""Rows that come as texts by field, as in CSV: read strictly, whole columns at once where a value is written as most are.

An empty text is null. Nothing is guessed: a text that is no number is no number, and a time without a zone names no instant.
"""

from collections.abc import Callable
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.ingestion.sources.contracts import ARROW_TYPES, BrokenRow, Checked, Reason, check_batch
from pipeline_assets.ingestion.sources.json_rows import read_values
from pipeline_assets.ingestion.sources.plain_json import INSTANT
from pipeline_assets.ingestion.sources.text_values import value_of
from pipeline_assets.spec.contracts import Contract, Field, FieldType

# How most values are written; Arrow reads these as Python does. All others are read one by one.
PLAIN: dict[FieldType, str] = {
    "string": r"^[^\x00]*$",
    "integer": r"^-?[0-9]{1,18}$",
    "number": r"^-?[0-9]{1,17}(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?$",
    "boolean": r"^(true|false)$",
    "timestamp": f"^{INSTANT}$",
}
Faults = dict[int, tuple[str, Reason]]


def check_texts(contract: Contract, texts: pa.RecordBatch, original: Callable[[int], bytes], *, day: date | None = None) -> Checked:
    """Which rows keep their contract; `texts` has a column of strings for each field, and its rows stand at 0 and after.

    `original` gives the bytes of a row by its index. At fault is the first field that cannot be read, then what `check_batch` finds.
    """
    columns: list[pa.Array] = []
    faults: Faults = {}
    for field in contract.fields:
        column, unread = _read(field, texts.column(field.name))
        columns.append(column)
        for row, reason in unread.items():
            faults.setdefault(row, (field.name, reason))
    rows = pa.RecordBatch.from_arrays(columns, names=[field.name for field in contract.fields])
    if not faults:
        return check_batch(contract, rows, first_position=0, original=original, day=day)
    kept = np.setdiff1d(np.arange(rows.num_rows), list(faults), assume_unique=True)
    checked = check_batch(contract, rows.take(pa.array(kept)), first_position=0, original=lambda row: original(int(kept[row])), day=day)
    unread_rows = [BrokenRow(position=row, field=name, reason=reason, original=original(row)) for row, (name, reason) in faults.items()]
    placed = checked.at(kept)
    broken = sorted([*unread_rows, *placed.broken], key=lambda row: row.position)
    return Checked(good=placed.good, positions=placed.positions, broken=broken, fields=placed.fields)


def _read(field: Field, texts: pa.Array) -> tuple[pa.Array, dict[int, Reason]]:
    """A column in its type, null where a text is empty or cannot be read, and why by its row."""
    filled = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    is_plain = pc.or_(filled.is_null(), pc.match_substring_regex(filled, PLAIN[field.type]).fill_null(False))
    try:
        column = _cast(field.type, filled if is_plain.true_count == len(texts) else pc.if_else(is_plain, filled, None))
    except pa.ArrowInvalid:  # such as the 30th of February
        is_plain, column = filled.is_null(), pa.nulls(len(texts), ARROW_TYPES[field.type])
    odd = np.flatnonzero(~is_plain.to_numpy(zero_copy_only=False))
    if not odd.size:
        return column, {}
    values, unread = read_values(field, [value_of(field.type, text) for text in filled.take(pa.array(odd)).to_pylist()])
    mended = pc.replace_with_mask(column, pc.invert(is_plain), pa.array(values, column.type))
    return mended, {int(odd[place]): reason for place, reason in unread.items()}


def _cast(kind: FieldType, texts: pa.Array) -> pa.Array:
    if kind == "boolean":
        return pc.equal(texts, "true")
    # Arrow wants the `T` and the `Z` of a time in upper case.
    return (pc.utf8_upper(texts) if kind == "timestamp" else texts).cast(ARROW_TYPES[kind])
