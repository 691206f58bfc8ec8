"""Rows that come as JSON: typed strictly, checked like any other, and kept as the bytes they were.

A field that is absent and one that is null are the same. How each value is read stands in `values`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked, check_columns
from pipeline_assets.ingestion.sources.json_objects import Fault, json_object
from pipeline_assets.ingestion.sources.text_columns import from_values
from pipeline_assets.spec.contracts import Contract


def check_json_rows(contract: Contract, rows: Sequence[bytes], *, first_position: int = 0, day: date | None = None) -> Checked:
    """Which JSON objects keep their contract; `rows` stand at `first_position` and after in their partition.

    The first fault of a row is kept: unreadable JSON, then the first field that cannot be read, then what `check_columns` finds.
    """
    return check_objects(contract, [_object_or_fault(row) for row in rows], rows, first_position=first_position, day=day)


def check_objects(
    contract: Contract,
    objects: Sequence[Mapping[str, Any] | Fault],
    rows: Sequence[bytes],
    *,
    first_position: int = 0,
    day: date | None = None,
    received_at: pa.Array | None = None,
) -> Checked:
    """Which rows keep their contract, each given by its values as JSON has them, or by what is wrong with it; `rows` holds their bytes.

    `received_at` as for `check_batch`, one time a row.
    """
    kept = [place for place, found in enumerate(objects) if not isinstance(found, Fault)]
    readable = [found for found in objects if not isinstance(found, Fault)]
    columns = {field.name: from_values(field, [found.get(field.name) for found in readable]) for field in contract.fields}
    times = None if received_at is None else received_at.take(pa.array(kept, pa.int64()))
    checked = check_columns(contract, columns, lambda row: bytes(rows[kept[row]]), day=day, received_at=times)
    placed = checked.at(np.array(kept, dtype=np.int64))
    unreadable = [
        BrokenRow(position=place, field=found.field, reason=found.reason, original=bytes(rows[place]))
        for place, found in enumerate(objects)
        if isinstance(found, Fault)
    ]
    return replace(
        placed,
        broken=sorted([*placed.broken, *unreadable], key=lambda row: row.position),
        originals=[bytes(rows[place]) for place in placed.positions.tolist()],
        fields=frozenset().union(*readable),
    ).at(np.arange(first_position, first_position + len(rows)))


def _object_or_fault(row: bytes) -> dict[str, Any] | Fault:
    try:
        return json_object(row)
    except Fault as fault:
        return fault.as_value()
