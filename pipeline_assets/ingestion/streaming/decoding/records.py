"""Landed records of a topic, held against the contract of a stream: plain ones as whole columns, all others one by one."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.ingestion.sources.contracts import Checked, check_batch
from pipeline_assets.ingestion.sources.forgotten import NOTHING, Forgotten, readings
from pipeline_assets.ingestion.sources.json_objects import Fault
from pipeline_assets.ingestion.sources.json_rows import check_objects
from pipeline_assets.ingestion.sources.plain_json import PlainRows, plain_json
from pipeline_assets.ingestion.streaming.decoding.broken_changes import partly_read
from pipeline_assets.ingestion.streaming.decoding.formats import NO_WIDTHS, Headers, decoder, headers_of, json_frame
from pipeline_assets.ingestion.streaming.decoding.frames import FRAME_BYTES
from pipeline_assets.ingestion.streaming.decoding.schema_registry import SchemaOf, nobody
from pipeline_assets.ingestion.streaming.staged.change_log import BROKEN_FIELD
from pipeline_assets.spec.sources import EventStream, JsonObject, RecordStream

# Of a binary column of Arrow.
LONGEST = 2**31 - 1
PAYLOAD, RECEIVED_AT = "payload", "received_at"
Found = Mapping[str, Any] | Fault
NotOurs = Literal["left", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a stream takes of its topic: all of it (`own` is None), or the events of one type.

    `others` are the types that other streams of the topic take. A stream that `takes_strays` has the duty to quarantine what is none of
    these and what cannot be read, so that each record of the topic has one place.
    """

    field: str | None = None
    own: str | None = None
    others: frozenset[str] = frozenset()
    takes_strays: bool = True


def share_of(stream: RecordStream, streams: Sequence[RecordStream]) -> Share:
    """What a stream takes of its topic beside the other streams of the same topic, in the order of their declaration."""
    if stream.route is None:
        return Share()
    beside = [one for one in streams if one.topic == stream.topic and one.route is not None]
    others = frozenset(one.route.value for one in beside if one.route is not None) - {stream.route.value}
    first = beside[0].contract.name if beside else stream.contract.name
    return Share(field=stream.route.field, own=stream.route.value, others=others, takes_strays=first == stream.contract.name)


@dataclass(frozen=True, kw_only=True)
class CheckedRecords:
    """Some records after their check: `checked` has their places among those given as its positions.

    `left` counts the records that are events of other streams, `skipped` those that are no events by the rules of their format.
    `partly` has the broken changes of a table's log as far as they can be read; None for all other records.
    """

    checked: Checked
    left: int
    skipped: int
    partly: Checked | None = None

    @property
    def parts(self) -> tuple[Checked, ...]:
        """All rows that there are of the records, those of broken ones last."""
        return (self.checked,) if self.partly is None else (self.checked, self.partly)


class RecordReader:
    """Reads the records of a topic as the rows of a stream; `schema_of` asks the registry that its format names, if any.

    widths: of the changes of a table the columns whose values are filled up with blanks to so many characters.
    forgotten: the keys whose records are passed over, as if they were no events.
    """

    def __init__(
        self,
        stream: RecordStream,
        share: Share,
        schema_of: SchemaOf = nobody,
        widths: Mapping[str, int] = NO_WIDTHS,
        forgotten: Forgotten = NOTHING,
    ) -> None:
        self.contract, self.headers = stream.contract, headers_of(stream)
        self._share, self._forgotten = share, forgotten
        self._decode = decoder(stream.contract, stream.format, schema_of, widths)
        self._plain = plain_json(stream.contract, share.field) if isinstance(stream.format, JsonObject) else None
        written = stream.format
        self._frame = json_frame(written, schema_of) if isinstance(written, JsonObject) and written.is_framed else None
        self._is_log = BROKEN_FIELD in stream.contract.fields
        self._known_at = stream.contract.known_at if stream.known_at_record_time else None
        # The clock of a database that is followed decides nothing: its changes go by the order of its log.
        self._is_dated = isinstance(stream, EventStream)

    def value_of(self, payload: bytes, headers: Headers, field: str) -> object:
        """The value of a field in a record that can be read; None where it has none."""
        event = self._decode(payload, headers)
        return None if event is None else event.values.get(field)

    def is_event(self, payload: bytes | None, headers: Mapping[str, bytes | None]) -> bool:
        """Whether a record, with all headers that it has, is an event by the rules of its format, or was to be one and is broken."""
        known = {name: value for name in self.headers if (value := headers.get(name)) is not None}
        try:
            return self._decode(payload, known) is not None
        except Fault:
            return True

    def is_forgotten(self, payload: bytes | None, headers: Mapping[str, bytes | None]) -> bool:
        """Whether a record is of a key that is forgotten, as far as it can be read."""
        known = {name: value for name in self.headers if (value := headers.get(name)) is not None}
        try:
            event = self._decode(payload, known)
        except Fault:
            return any(self._forgotten.names(one) for one in readings(payload or b""))
        return event is not None and self._forgotten.names(event.values)

    def read(self, records: pa.Table) -> CheckedRecords:
        """Which records keep the contract; `records` has `payload` (binary), `received_at` (UTC) and the columns of `headers`.

        Records of keys that are forgotten count as skipped.
        """
        found = self._read(records)
        kept = self._forgotten.without(found.checked)
        gone = found.checked.good.num_rows - kept.good.num_rows + len(found.checked.broken) - len(kept.broken)
        if not gone:
            return found
        partly = None if found.partly is None else _at_places(found.partly, [row.position for row in kept.broken])
        return replace(found, checked=kept, partly=partly, skipped=found.skipped + gone)

    def _read(self, records: pa.Table) -> CheckedRecords:
        payloads = records.column(PAYLOAD).combine_chunks()
        times = records.column(RECEIVED_AT).combine_chunks()
        if self._plain is None:
            return self._read_one_by_one(payloads, times, np.arange(len(payloads)), self.headers_in(records))
        plain = self._plain.read(payloads if self._frame is None else _unframed(payloads, self._frame))
        quick, rest = self._read_plain(plain, payloads, times)
        odd = np.setdiff1d(np.arange(len(payloads)), plain.places, assume_unique=True)
        return _together(quick, self._read_one_by_one(payloads, times, np.union1d(odd, rest), self.headers_in(records)))

    def _read_plain(self, plain: PlainRows, payloads: pa.Array, times: pa.Array) -> tuple[CheckedRecords, np.ndarray]:
        """The plain records of the own type after their check, and the places of those that are of no known type."""
        columns, places = plain.columns, plain.places
        left, strays = 0, np.empty(0, dtype=np.int64)
        if plain.routes is not None:
            own = _mask(pc.equal(plain.routes, self._share.own))
            others = _mask(pc.is_in(plain.routes, value_set=pa.array(sorted(self._share.others), pa.string())))
            left, strays = int(others.sum()), places[~own & ~others]
            columns, places = columns.filter(pa.array(own)), places[own]
        if self._known_at is not None:
            position = columns.schema.get_field_index(self._known_at)
            columns = columns.set_column(position, self._known_at, times.take(pa.array(places)))
        received_at = times.take(pa.array(places)) if self._is_dated else None
        checked = check_batch(
            self.contract, columns, first_position=0, original=lambda row: _bytes(payloads, int(places[row])), received_at=received_at
        )
        found = replace(checked.at(places), fields=plain.fields)
        return CheckedRecords(checked=found, left=left, skipped=0), strays

    def headers_in(self, records: pa.Table) -> list[Headers]:
        """The headers of each record, as far as its format reads any."""
        if not self.headers:
            return [{}] * records.num_rows
        columns = [records.column(names.landed_header(header)).to_pylist() for header in self.headers]
        rows = zip(*columns, strict=True)
        return [{name: value for name, value in zip(self.headers, row, strict=True) if value is not None} for row in rows]

    def _read_one_by_one(self, payloads: pa.Array, times: pa.Array, places: np.ndarray, headers: Sequence[Headers]) -> CheckedRecords:
        found: list[Found] = []
        taken: list[int] = []
        passed: Counter[NotOurs] = Counter()
        asked = pa.array(places)
        for place, payload, time in zip(places.tolist(), payloads.take(asked).to_pylist(), times.take(asked).to_pylist(), strict=True):
            one = self._one(payload, time, headers[place])
            if isinstance(one, str):
                passed[one] += 1
            else:
                found.append(one)
                taken.append(place)
        received_at = times.take(pa.array(taken, pa.int64())) if self._is_dated else None
        checked = check_objects(self.contract, found, [_bytes(payloads, place) for place in taken], received_at=received_at)
        placed = replace(checked.at(np.array(taken, dtype=np.int64)), originals=None)
        partly = self._partly(dict(zip(taken, found, strict=True)), placed)
        return CheckedRecords(checked=placed, left=passed["left"], skipped=passed["skipped"], partly=partly)

    def _partly(self, found: Mapping[int, Found], checked: Checked) -> Checked | None:
        if not self._is_log:
            return None
        changes = {row.position: one for row in checked.broken if not isinstance(one := found[row.position], Fault)}
        return partly_read(self.contract, changes, checked.broken)

    def _one(self, payload: bytes | None, received_at: datetime | None, headers: Headers) -> Found | NotOurs:
        """The values of a record or its fault; `left` if it is another stream's, `skipped` if it is no event."""
        share = self._share
        try:
            event = self._decode(payload, headers)
        except Fault as fault:
            return fault.as_value() if share.takes_strays else "left"
        if event is None:
            return "skipped"
        kind = event.envelope.get(share.field) if share.field is not None else share.own
        if kind != share.own:
            is_stray = share.takes_strays and not (isinstance(kind, str) and kind in share.others)
            return Fault("unknown event type", share.field or "") if is_stray else "left"
        if self._known_at is None:
            return event.values
        return {**event.values, self._known_at: None if received_at is None else received_at.astimezone(UTC).isoformat()}


def _at_places(rows: Checked, places: Sequence[int]) -> Checked:
    """Those of the rows that stand at some places."""
    is_there = np.isin(rows.positions, places)
    return replace(rows, good=rows.good.filter(pa.array(is_there)), positions=rows.positions[is_there])


def _unframed(payloads: pa.Array, check: Callable[[bytes], None]) -> pa.Array:
    """Records without their frames; null where there is none that is good, so that the reading one by one finds out why."""
    frames = pc.binary_slice(payloads, 0, FRAME_BYTES)
    good = [frame for frame in frames.drop_null().unique().to_pylist() if _passes(check, frame)]
    is_good = pc.is_in(frames, value_set=pa.array(good, frames.type))
    # Arrow 25 fails where no end is given.
    return pc.binary_slice(pc.if_else(is_good, payloads, pa.scalar(None, payloads.type)), FRAME_BYTES, LONGEST)


def _passes(check: Callable[[bytes], None], frame: bytes) -> bool:
    try:
        check(frame)
    except Fault:
        return False
    return True


def _together(first: CheckedRecords, second: CheckedRecords) -> CheckedRecords:
    """Both as one, in the order of their places."""
    one, other = first.checked, second.checked
    good, positions = one.good, one.positions
    if other.good.num_rows:
        together = np.concatenate([one.positions, other.positions])
        order = np.argsort(together)
        (good,) = pa.Table.from_batches([one.good, other.good]).take(pa.array(order)).combine_chunks().to_batches()
        positions = together[order]
    broken = sorted([*one.broken, *other.broken], key=lambda row: row.position)
    checked = Checked(good=good, positions=positions, broken=broken, fields=one.fields | other.fields)
    return CheckedRecords(checked=checked, left=first.left + second.left, skipped=first.skipped + second.skipped)


def _bytes(payloads: pa.Array, place: int) -> bytes:
    """The bytes of a record; none where it has no value."""
    return payloads[place].as_py() or b""


def _mask(found: pa.Array) -> np.ndarray:
    return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)
