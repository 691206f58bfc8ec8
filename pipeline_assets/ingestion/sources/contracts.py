"""Contracts at work: the Arrow schema they stand for, and which rows keep them.

Checks run over whole columns. A column that is in order costs one pass (its minimum, its maximum, its longest value); only where that
pass finds something are single rows looked at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.ingestion.sources.arrow_types import ARROW_TYPES, arrow_type
from pipeline_assets.ingestion.sources.originals import row_bytes
from pipeline_assets.ingestion.sources.text_columns import Typed
from pipeline_assets.ingestion.sources.typed_columns import EPOCH, MICROSECOND, typed, without_sentinels
from pipeline_assets.spec.contracts import CLOCK_TOLERANCE, Contract, Field

Reason = Literal[
    "missing", "wrong type", "without zone", "not finite", "too precise", "out of range", "not allowed", "too long", "outside the day",
    "too late", "from the future", "repeated version", "not a JSON object", "nested too deeply", "repeated field",
    "empty record", "not a CSV line", "not this Avro schema", "not this Protobuf message", "unknown field", "no schema id",
    "unknown schema id", "not a CloudEvent", "not a change event", "unknown event type", "unknown columns",
]  # fmt: skip
# The instants that every part of the platform can hold; those outside are Postgres' infinity and its like.
INSTANTS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
# Of the two times of a row the days before and after are asked for too.
FIRST_INSTANT, LAST_INSTANT = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)

Finding = tuple[str, Reason, np.ndarray]
Bound = float | Decimal | None


def fault(field: str, reason: str) -> str:
    """Field and reason in a few words, as broken rows are counted; the reason alone where no single field is at fault."""
    return f"{field} {reason}".strip()


@dataclass(frozen=True, kw_only=True)
class BrokenRow:
    """One row that broke its contract: where it stood in its source's partition, the first field at fault, and the bytes it came as.

    `place` is where a person finds it at its source, such as file and line; None where its source has no such place. `columns` are those
    that the first line of its file named, where the bytes are a line of values.
    """

    position: int
    field: str
    reason: Reason
    original: bytes
    place: str | None = None
    columns: tuple[str, ...] | None = None

    @property
    def fault(self) -> str:
        """What is wrong with the row, as broken rows are counted."""
        return fault(self.field, self.reason)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Part of a partition after its check; `good` has the contract's schema, `positions` says where each of its rows stood.

    `originals` holds the bytes of the good rows where they cannot be made again from their values; `fields` names what the rows came with.
    """

    good: pa.RecordBatch
    positions: np.ndarray
    broken: Sequence[BrokenRow] = ()
    originals: Sequence[bytes] | None = None
    fields: frozenset[str] = frozenset()

    def at(self, places: np.ndarray) -> "Checked":
        """The same rows, where the one at position n stands at `places[n]`."""
        broken = [replace(row, position=int(places[row.position])) for row in self.broken]
        return replace(self, positions=places[self.positions], broken=broken)


def arrow_schema(contract: Contract) -> pa.Schema:
    """The schema of checked rows: the contract's fields in its order, null only where not required, described in their metadata.

    No field carries an id: the lake maps columns by name, which is what lets it take over staged files as they are.
    """
    return pa.schema(
        [
            pa.field(field.name, arrow_type(field), nullable=not field.required, metadata={"description": field.description})
            for field in contract.fields
        ]
    )


def check_batch(
    contract: Contract,
    batch: pa.RecordBatch,
    *,
    first_position: int,
    original: Callable[[int], bytes] | None = None,
    day: date | None = None,
    received_at: pa.Array | None = None,
) -> Checked:
    """Which rows of a batch keep their contract, and what is wrong with the others: the first fault in the contract's order.

    `batch` has every field of the contract (others are left out) in a type that `typed` takes; its rows stand at `first_position` and
    after in their partition. `original` gives the bytes of a row by its index in the batch (by default the row as JSON). With `day`,
    rows whose `event_at` is on another UTC day are broken; with `received_at` (UTC, null where nobody knows), those that say that they were
    known after they had been received.
    """
    columns = {field.name: typed(field, batch.column(field.name)) for field in contract.fields}
    written, fields = original or partial(row_bytes, batch), frozenset(batch.schema.names)
    return check_columns(contract, columns, written, first_position=first_position, day=day, received_at=received_at, fields=fields)


def check_columns(
    contract: Contract,
    columns: Mapping[str, Typed],
    original: Callable[[int], bytes],
    *,
    first_position: int = 0,
    day: date | None = None,
    received_at: pa.Array | None = None,
    fields: frozenset[str] | None = None,
) -> Checked:
    """As `check_batch`, of columns in the contract's types by field, null where a value cannot be read, with which these are by reason.

    At fault is the first field that cannot be read, then the first that breaks a rule. `fields` names what the rows came with (None: the
    columns).
    """
    values = {field.name: without_sentinels(field, columns[field.name][0]) for field in contract.fields}
    unread = [(field.name, reason, mask) for field in contract.fields for reason, mask in columns[field.name][1].items()]
    findings = [*unread, *_field_findings(contract, values), *_time_findings(contract, values, day, received_at)]
    rows = pa.RecordBatch.from_arrays(list(values.values()), names=list(values))
    positions, named = np.arange(first_position, first_position + rows.num_rows), frozenset(values) if fields is None else fields
    if not findings:
        return Checked(good=_as_promised(contract, rows), positions=positions, fields=named)
    first = _first_finding(findings, rows.num_rows)
    kept = first == len(findings)
    broken = [
        BrokenRow(position=first_position + row, field=findings[first[row]][0], reason=findings[first[row]][1], original=original(row))
        for row in np.flatnonzero(~kept).tolist()
    ]
    good = _as_promised(contract, rows.filter(pa.array(kept)))
    return Checked(good=good, positions=positions[kept], broken=broken, fields=named)


def _as_promised(contract: Contract, rows: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(rows.columns, schema=arrow_schema(contract))


def _field_findings(contract: Contract, values: Mapping[str, pa.Array]) -> Iterator[Finding]:
    for field in contract.fields:
        column = values[field.name]
        if field.required and column.null_count:
            yield field.name, "missing", _mask(column.is_null())
        if field.type == "timestamp":
            first, last = (FIRST_INSTANT, LAST_INSTANT) if field.name in {contract.event_at, contract.known_at} else INSTANTS
            for reason, mask in _outside("out of range", column.view(pa.int64()), _microseconds(first), _microseconds(last)):
                yield field.name, reason, mask
        for reason, mask in _value_findings(field, column):
            yield field.name, reason, mask


def _value_findings(field: Field, column: pa.Array) -> Iterator[tuple[Reason, np.ndarray]]:
    if field.type == "number" and pc.all(pc.is_finite(column)).as_py() is False:
        yield "not finite", _mask(pc.invert(pc.is_finite(column)))
    if field.type in {"integer", "number"}:
        yield from _outside("out of range", column, field.minimum, field.maximum)
    if field.type == "decimal":
        yield from _outside("out of range", column, *(None if one is None else Decimal(str(one)) for one in (field.minimum, field.maximum)))
    if field.allowed:
        is_allowed = pc.is_in(column, value_set=pa.array(field.allowed, column.type))
        if is_allowed.true_count < len(column) - column.null_count:
            yield "not allowed", _mask(pc.and_(pc.invert(is_allowed), column.is_valid()))
    # A character has at least one byte, so counting bytes settles most columns.
    if field.max_length is not None and (pc.max(pc.binary_length(column)).as_py() or 0) > field.max_length:
        mask = _mask(pc.greater(pc.utf8_length(column), field.max_length))
        if mask.any():
            yield "too long", mask


def _time_findings(contract: Contract, values: Mapping[str, pa.Array], day: date | None, received_at: pa.Array | None) -> Iterator[Finding]:
    if not {contract.event_at, contract.known_at} <= values.keys():
        return
    event_at, known_at = (values[name].view(pa.int64()) for name in (contract.event_at, contract.known_at))
    if day is not None:
        start = _microseconds(datetime.combine(day, time(), UTC))
        end = start + timedelta(days=1) // MICROSECOND - 1
        for reason, mask in _outside("outside the day", event_at, start, end):
            yield contract.event_at, reason, mask
    if received_at is not None:
        ahead = pc.subtract(known_at, received_at.cast(ARROW_TYPES["timestamp"]).view(pa.int64()))
        for reason, mask in _outside("from the future", ahead, None, CLOCK_TOLERANCE // MICROSECOND):
            yield contract.known_at, reason, mask
    if contract.event_at != contract.known_at:
        late = pc.subtract(known_at, event_at)
        for reason, mask in _outside("from the future", late, -(contract.earliness // MICROSECOND), None):
            yield contract.event_at, reason, mask
        for reason, mask in _outside("too late", late, None, contract.lateness // MICROSECOND):
            yield contract.known_at, reason, mask


def _outside(reason: Reason, column: pa.Array, low: Bound, high: Bound) -> Iterator[tuple[Reason, np.ndarray]]:
    """The rows below `low` or above `high`, if there are any. Nulls and NaN are not."""
    if low is None and high is None:
        return
    found = pc.min_max(column)
    least, most = found["min"].as_py(), found["max"].as_py()
    below = low is not None and least is not None and least < low
    above = high is not None and most is not None and most > high
    if below or above:
        is_low = _mask(pc.less(column, pa.scalar(low))) if below else False
        is_high = _mask(pc.greater(column, pa.scalar(high))) if above else False
        yield reason, np.logical_or(is_low, is_high)


def _first_finding(findings: Sequence[Finding], rows: int) -> np.ndarray:
    """For every row the index of its first finding; the number of findings where it has none."""
    first = np.full(rows, len(findings))
    for index in reversed(range(len(findings))):
        first[findings[index][2]] = index
    return first


def _mask(found: pa.Array) -> np.ndarray:
    """A boolean array for numpy; null is false."""
    return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)


def _microseconds(instant: datetime) -> int:
    return (instant - EPOCH) // MICROSECOND
