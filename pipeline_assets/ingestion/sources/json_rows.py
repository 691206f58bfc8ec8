"""Rows that come as JSON: typed strictly, checked like any other, and kept as the bytes they were.

Nothing is guessed: "21.5" is not a number, 1 is not true, and a time without a zone names no instant. As in JSON Schema, a number without a
fraction is an integer. A field that is absent and one that is null are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_assets.ingestion.sources.contracts import ARROW_TYPES, BrokenRow, Checked, Reason, check_batch
from pipeline_assets.ingestion.sources.json_objects import Fault, json_object
from pipeline_assets.spec.contracts import Contract, Field, FieldType

INT64 = 2**63
Reader = Callable[[Any], Any]


class _WithoutZoneError(ValueError):
    """A time without a zone."""


def check_json_rows(contract: Contract, rows: Sequence[bytes], *, first_position: int = 0, day: date | None = None) -> Checked:
    """Which JSON objects keep their contract; `rows` stand at `first_position` and after in their partition.

    The first fault of a row is kept: unreadable JSON, then the first field that cannot be read, then what `check_batch` finds.
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
    broken = [
        BrokenRow(position=first_position + index, field=found.field, reason=found.reason, original=bytes(rows[index]))
        for index, found in enumerate(objects)
        if isinstance(found, Fault)
    ]
    indexes = [index for index, found in enumerate(objects) if not isinstance(found, Fault)]
    readable = [found for found in objects if not isinstance(found, Fault)]
    columns, faults = _columns(contract, readable)
    fine = [place for place in range(len(readable)) if place not in faults]
    broken += [
        BrokenRow(position=first_position + indexes[place], field=field, reason=reason, original=bytes(rows[indexes[place]]))
        for place, (field, reason) in faults.items()
    ]
    kept = np.array([indexes[place] for place in fine], dtype=np.int64)
    batch = pa.RecordBatch.from_arrays(columns, names=[field.name for field in contract.fields]).take(pa.array(fine, pa.int64()))
    times = None if received_at is None else received_at.take(pa.array(kept))
    checked = check_batch(contract, batch, first_position=0, original=lambda row: bytes(rows[kept[row]]), day=day, received_at=times)
    broken += [
        BrokenRow(position=first_position + int(kept[row.position]), field=row.field, reason=row.reason, original=row.original)
        for row in checked.broken
    ]
    stood = kept[checked.positions]
    return Checked(
        good=checked.good,
        positions=stood + first_position,
        broken=sorted(broken, key=lambda row: row.position),
        originals=[bytes(rows[index]) for index in stood],
        fields=frozenset().union(*readable),
    )


def _object_or_fault(row: bytes) -> dict[str, Any] | Fault:
    try:
        return json_object(row)
    except Fault as fault:
        return fault.as_value()


def _columns(contract: Contract, objects: Sequence[Mapping[str, Any]]) -> tuple[list[pa.Array], dict[int, tuple[str, Reason]]]:
    """One typed column a field, null where a value cannot be read, and the first such fault of each row."""
    columns: list[pa.Array] = []
    faults: dict[int, tuple[str, Reason]] = {}
    for field in contract.fields:
        values, unread = read_values(field, [found.get(field.name) for found in objects])
        columns.append(pa.array(values, ARROW_TYPES[field.type]))
        for place, reason in unread.items():
            faults.setdefault(place, (field.name, reason))
    return columns, faults


def read_values(field: Field, values: Sequence[Any]) -> tuple[list[Any], dict[int, Reason]]:
    """Values as JSON has them in the type of a field, null where one cannot be read, and why by its place."""
    read, unread = READERS[field.type], dict[int, Reason]()
    found: list[Any] = []
    for place, value in enumerate(values):
        try:
            found.append(None if value is None else read(value))
        except _WithoutZoneError:
            found.append(None)
            unread[place] = "without zone"
        except OverflowError:
            found.append(None)
            unread[place] = "out of range"
        except (TypeError, ValueError):
            found.append(None)
            unread[place] = "wrong type"
    return found, unread


def _string(value: Any) -> str:
    """A text that every part of the platform can hold: lone surrogates have no bytes, and Postgres takes no NUL."""
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    value.encode()
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise TypeError
    if not -INT64 <= value < INT64:
        raise OverflowError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _timestamp(value: Any) -> datetime:
    if not isinstance(value, str):
        raise TypeError
    # RFC 3339 takes `t` and `z` too; Python takes the first alone.
    instant = datetime.fromisoformat(f"{value[:-1]}Z" if value[-1:] == "z" else value)
    if instant.utcoffset() is None:
        raise _WithoutZoneError
    return instant.astimezone(UTC)


READERS: Mapping[FieldType, Reader] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "timestamp": _timestamp,
}
