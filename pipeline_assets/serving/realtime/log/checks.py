"""Events as they come by HTTP, held against the contract of their stream by the code that types its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.ingestion.streaming.decoding.records import PAYLOAD, RECEIVED_AT, RecordReader, share_of
from pipeline_assets.spec.contracts import Field
from pipeline_assets.spec.sources import RecordStream

NOT_OURS = "is an event of another stream of its topic, or of none"
# Values of a primary key of several fields, as one key of Kafka.
BETWEEN = "-"


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """The value of a record that is to be, and its headers."""

    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a row: the field at fault (None: the row as a whole), and a sentence about it."""

    field: str | None
    detail: str


class Checker:
    """Checks the rows of one stream; `streams` are all that are declared."""

    def __init__(self, stream: RecordStream, streams: Sequence[RecordStream]) -> None:
        self.stream = stream
        self._reader = RecordReader(stream, share_of(stream, streams))
        self._fields = {one.name: one for one in stream.contract.fields}

    def check(self, rows: Sequence[Incoming], now: datetime | None = None) -> list[bytes | Fault]:
        """For each row the key of its record, or what is wrong with it: what would put its record into quarantine.

        The key is the contract's primary key: its value as text, or those of several fields with a hyphen between them.
        """
        read = self._reader.read(self._table(rows, now or datetime.now(UTC))).checked
        found: list[bytes | Fault] = [Fault(field=None, detail=NOT_OURS) for _ in rows]
        for row in read.broken:
            found[row.position] = self._fault(row.field, row.reason)
        columns = [read.good.column(name).to_pylist() for name in self.stream.contract.primary_key]
        for place, values in zip(read.positions.tolist(), zip(*columns, strict=True), strict=True):
            found[place] = BETWEEN.join(map(_text, values)).encode()
        return found

    def _table(self, rows: Sequence[Incoming], now: datetime) -> pa.Table:
        columns: dict[str, pa.Array] = {
            PAYLOAD: pa.array([row.value for row in rows], pa.binary()),
            RECEIVED_AT: pa.array([now] * len(rows), pa.timestamp("us", "UTC")),
        }
        for header in self._reader.headers:
            columns[names.landed_header(header)] = pa.array([row.headers.get(header) for row in rows], pa.binary())
        return pa.table(columns)

    def _fault(self, name: str, reason: str) -> Fault:
        known = self._fields.get(name)
        if not name:
            return Fault(field=None, detail=f"The row is no event of {self.stream.contract.name}: {reason}.")
        expected = "" if known is None else f" Expected {expected_of(known)}."
        return Fault(field=name, detail=f"'{name}': {reason}.{expected}")


def expected_of(field: Field) -> str:
    """What a field takes, in some words."""
    found = [f"{field.type}{'' if field.required else ' or null'}"]
    if field.type == "timestamp":
        found.append("ISO 8601 with a zone")
    if field.type == "decimal":
        found.append(f"{field.precision} digits, {field.scale} of them after the point")
    if field.minimum is not None or field.maximum is not None:
        found.append(f"from {_bound(field.minimum)} to {_bound(field.maximum)}")
    if field.allowed:
        found.append(f"one of {', '.join(field.allowed)}")
    if field.max_length is not None:
        found.append(f"at most {field.max_length} characters")
    return ", ".join(found)


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
