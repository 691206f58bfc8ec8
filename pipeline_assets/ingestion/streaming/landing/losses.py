"""Records of topics that are lost for good, as a person has accepted: an append-only table beside the quarantine.

The typing of a topic stops at offsets that did not land and that the topic does not keep. Once their loss is accepted it goes on after
them, and the audit shows them for as long as there is a warehouse.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.errors import UnknownName, UserInputError
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.topics import watermarks
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.landing.offsets import Span, Spans, minus, spans_of, union
from pipeline_assets.ingestion.streaming.landing.refetch import Refetch, Refetched
from pipeline_assets.ingestion.streaming.typed.table import position_of
from pipeline_assets.spec.sources import RecordStream

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

TABLE = "accepted_losses"
DDL = """
    create schema if not exists {schema};
    create table if not exists {table} (
        id bigint generated always as identity primary key,
        topic text not null,
        partition integer not null check (partition >= 0),
        first_offset bigint not null check (first_offset >= 0),
        last_offset bigint not null check (last_offset >= first_offset),
        reason text not null check (reason <> ''),
        actor text not null,
        accepted_at timestamptz not null default clock_timestamp()
    );
    create or replace function {guard}() returns trigger language plpgsql as $$
    begin
        raise exception 'accepted losses are append-only: % is refused', tg_op;
    end
    $$;
    create or replace trigger append_only before update or delete on {table} for each row execute function {guard}();
    create or replace trigger never_truncated before truncate on {table} for each statement execute function {guard}();
"""
INSERT = """
    insert into {table} (topic, partition, first_offset, last_offset, actor, reason) values (%s, %s, %s, %s, %s, %s) returning accepted_at
"""
SELECT = "select topic, partition, first_offset, last_offset, reason, actor, accepted_at from {table} where topic = %s order by id"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That offsets `first_offset` to `last_offset` (inclusive) of a partition are lost for good: who says so, and why."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    reason: str
    actor: str


@dataclass(frozen=True, kw_only=True)
class Loss(Claim):
    """A claim that was accepted, and when (aware)."""

    accepted_at: datetime

    def __str__(self) -> str:
        count = self.last_offset - self.first_offset + 1
        what = f"{count} offsets of partition {self.partition}, {self.first_offset} to {self.last_offset}, accepted as lost"
        return f"{what} by {self.actor} on {self.accepted_at:%Y-%m-%d %H:%M} UTC: {self.reason}"


def accepted(connection: "psycopg.Connection", topic: str) -> tuple[Loss, ...]:
    """The accepted losses of a topic, oldest first."""
    from psycopg.rows import class_row

    if not _exists(connection):
        return ()
    with connection.cursor(row_factory=class_row(Loss)) as cursor:
        return tuple(cursor.execute(_statement(SELECT), [topic]).fetchall())


def passing_over(refetch: Refetch, losses: Sequence[Loss]) -> Refetch:
    """As `refetch`, but that offsets of a topic whose loss was accepted are not asked for: none of them holds a record."""
    by_partition: dict[int, Spans] = {}
    for loss in losses:
        span = (loss.first_offset, loss.last_offset + 1)
        by_partition[loss.partition] = union((*by_partition.get(loss.partition, ()), span))

    def fetch(topic: str, partition: int, first: int, last: int) -> Iterator[Refetched]:
        for start, end in minus([(first, last + 1)], by_partition.get(partition, ())):
            yield from refetch(topic, partition, start, end - 1)

    return fetch


def accept(settings: Settings, streams: Sequence[RecordStream], claim: Claim) -> Loss:
    """Writes down that offsets are lost for good.

    Raises UnknownName for a topic that no stream has or a partition that it has not, UserInputError where the topic still keeps some of
    the offsets, or some have landed: these are not lost. Nothing is written then.
    """
    own = [stream for stream in streams if stream.topic == claim.topic]
    if not own:
        raise UnknownName("topic", claim.topic, sorted({stream.topic for stream in streams}))
    _check_lost(settings, own, claim)
    with warehouse(settings) as connection:
        _create(connection)
        values = [claim.topic, claim.partition, claim.first_offset, claim.last_offset, claim.actor, claim.reason]
        ((at,),) = connection.execute(_statement(INSERT), values).fetchall()
        return Loss(**asdict(claim), accepted_at=at)


def accepted_of(settings: Settings, topic: str) -> tuple[Loss, ...]:
    """As `accepted`, with a connection of its own."""
    with closing(warehouse(settings)) as connection:
        return accepted(connection, topic)


def _check_lost(settings: Settings, own: Sequence[RecordStream], claim: Claim) -> None:
    topic, partition, first, last = claim.topic, claim.partition, claim.first_offset, claim.last_offset
    known = {number: kept for (_, number), kept in watermarks(settings, [topic]).items()}
    if partition not in known:
        raise UnknownName(f"partition of topic '{topic}'", str(partition), [str(number) for number in sorted(known)])
    if first > last:
        raise UserInputError(f"Offsets {first} to {last} are none: the first is after the last.")
    low, high = known[partition]
    place = f"partition {partition} of topic '{topic}'"
    if first >= high:
        raise UserInputError(f"Offsets {first} to {last} of {place} are after its end, {high}. If it was made anew, give it another name.")
    if last >= low:
        raise UserInputError(
            f"Offsets {first} to {last} of {place} are not lost: it still keeps its records from offset {low} on. Give offsets before that."
        )
    here = union((*_typed_by_all(settings, own, partition), *_landed(settings, claim)))
    there = _common([(first, last + 1)], here)
    if there:
        listed = ", ".join(f"{start} to {end - 1}" for start, end in there)
        raise UserInputError(
            f"Offsets {listed} of {place} are not lost: they have landed. `pipeline audit sources` says which are missing."
        )


def _typed_by_all(settings: Settings, streams: Sequence[RecordStream], partition: int) -> Spans:
    """The offsets of a partition that every one of the streams has typed."""
    found: Spans | None = None
    with catalog(settings) as lake:
        for stream in streams:
            table = open_table(lake, names.typed(stream.contract.name))
            seen = () if table is None else position_of(table).seen.partitions.get(partition, ())
            found = seen if found is None else _common(found, seen)
    return found or ()


def _landed(settings: Settings, claim: Claim) -> Spans:
    """The offsets of a claim that have landed."""
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThanOrEqual

    asked = And(
        EqualTo(term=landing.PARTITION, value=claim.partition),
        GreaterThanOrEqual(term=landing.OFFSET, value=claim.first_offset),
        LessThanOrEqual(term=landing.OFFSET, value=claim.last_offset),
    )
    with catalog(settings) as lake:
        table = open_table(lake, names.landed(claim.topic))
        if table is None:
            return ()
        found = table.scan(row_filter=asked, selected_fields=(landing.OFFSET,)).to_arrow()
    return spans_of(found.column(landing.OFFSET).to_numpy())


def _common(spans: Sequence[Span], others: Spans) -> Spans:
    """What is in both."""
    return minus(spans, minus(spans, others))


def _exists(connection: "psycopg.Connection") -> bool:
    row = connection.execute("select to_regclass(%s)", [f"{names.QUARANTINE}.{TABLE}"]).fetchone()
    return row is not None and row[0] is not None


def _create(connection: "psycopg.Connection") -> None:
    if not _exists(connection):
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [names.QUARANTINE])
        connection.execute(_statement(DDL))


def _statement(text: str) -> "sql.Composed":
    from psycopg import sql

    return sql.SQL(cast("Any", text)).format(
        schema=sql.Identifier(names.QUARANTINE),
        table=sql.Identifier(names.QUARANTINE, TABLE),
        guard=sql.Identifier(names.QUARANTINE, "refuse_change_of_losses"),
    )
