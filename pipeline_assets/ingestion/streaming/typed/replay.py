"""Quarantined records of topics, checked again: those that keep the present contract join their typed table, once.

Only records that the typed table has been read past are replayed; those ahead of it will be read again anyway. A record whose row is there
already, because a replay was killed after its commit, is marked and not added.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import stamina

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.errors import LakeBusy
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.replay import Replayed
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.forgotten import read_rules
from pipeline_assets.ingestion.sources.quarantine import QuarantinedRow
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.streams import broken_field
from pipeline_assets.ingestion.streaming.typed.readers import reader_of
from pipeline_assets.ingestion.streaming.typed.table import (
    OFFSET_SCHEMA,
    append_events,
    days_of,
    position_of,
    typed_days,
    typed_events,
    typed_table,
)
from pipeline_assets.spec.sources import RecordStream

if TYPE_CHECKING:
    import psycopg
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

ATTEMPTS = 5
PAGE_ROWS = 5_000
EMPTY = "empty record"


def replay_records(settings: Settings, asked: Sequence[RecordStream], streams: Sequence[RecordStream]) -> list[Replayed]:
    """Checks the quarantined records of the streams asked for again, and types those that pass; `streams` are all that are declared.

    Gives one entry a day that got rows, and one of the partition `stream` for what is still broken.
    """
    quarantine.create(settings)
    found: list[Replayed] = []
    for stream in asked:
        contract = stream.contract
        with (
            closing(warehouse(settings)) as connection,
            quarantine.locked(connection, contract.name, names.STREAM),
            catalog(settings) as lake,
        ):
            connection.autocommit = True
            forgotten = read_rules(connection, contract.name)
            reader, days, still_broken = reader_of(settings, lake, stream, streams, forgotten), Counter[date](), 0
            for page in _pages(connection, stream):
                passed, kept = _replay(connection, lake, stream, reader, page)
                days.update(passed)
                still_broken += kept
        found += [Replayed(source=contract.name, partition=str(day), replayed=rows, still_broken=0) for day, rows in sorted(days.items())]
        if still_broken:
            found.append(Replayed(source=contract.name, partition=names.STREAM, replayed=0, still_broken=still_broken))
    return found


def _pages(connection: "psycopg.Connection", stream: RecordStream) -> Iterator[list[QuarantinedRow]]:
    after = 0
    while page := quarantine.waiting_records(connection, stream.contract.name, stream.topic, after=after, limit=PAGE_ROWS):
        after = page[-1].id
        yield page


def _replay(
    connection: "psycopg.Connection", lake: "Catalog", stream: RecordStream, reader: RecordReader, page: Sequence[QuarantinedRow]
) -> tuple[list[date], int]:
    """The days of the rows that passed, one a row, and how many did not."""
    table = typed_table(lake, stream.contract)
    seen = position_of(table).seen
    rows = [row for row in page if seen.has(row.topic_partition or 0, np.array([row.topic_offset]))[0]]
    records = _records(rows, reader.headers)
    found = reader.read(records)
    checked = found.checked
    _append(lake, table, stream, pa.concat_tables([typed_events(stream.contract, part, records) for part in found.parts]))
    with connection.transaction():
        for broken in checked.broken:
            quarantine.mark_still_broken(connection, rows[broken.position].id, broken)
        quarantine.mark_replayed(connection, [rows[place].id for place in checked.positions])
        known = {*checked.positions.tolist(), *(broken.position for broken in checked.broken)}
        gone = [row.id for place, row in enumerate(rows) if place not in known and reader.is_forgotten(row.original, row.headers_in_bytes)]
        quarantine.remove_rows(connection, gone)
    return days_of(checked.good.column(stream.contract.event_at)).to_pylist(), len(rows) - checked.good.num_rows - len(gone)


def _records(rows: Sequence[QuarantinedRow], headers: Sequence[str]) -> pa.Table:
    columns = [
        [None if row.reason == EMPTY else row.original for row in rows],
        [row.topic for row in rows],
        [row.topic_partition for row in rows],
        [row.topic_offset for row in rows],
        [row.received_at for row in rows],
        *([row.header(header) for row in rows] for header in headers),
    ]
    return pa.table(columns, schema=landing.schema_with(headers))


def _append(lake: "Catalog", table: "Table", stream: RecordStream, events: pa.Table) -> None:
    """Adds the events that are not in the table; its position stays as it is."""
    from pyiceberg.exceptions import CommitFailedException

    try:
        for attempt in stamina.retry_context(on=CommitFailedException, attempts=ATTEMPTS, wait_initial=0.05, wait_max=2.0, wait_jitter=0.1):
            with attempt:
                fresh = _not_there(lake, stream, events)
                if fresh.num_rows:
                    append_events(table.refresh(), fresh, position_of(table), run_id="replay")
    except CommitFailedException as error:
        raise LakeBusy(".".join(table.name()), str(error)) from error


def _not_there(lake: "Catalog", stream: RecordStream, events: pa.Table) -> pa.Table:
    """The events whose place is not in the table on the days of the events; a broken change is no other than itself."""
    days = sorted(days_of(events.column(stream.contract.event_at)).unique().to_pylist())
    if not days:
        return events
    typed = typed_days(lake, stream.contract, days[0], days[-1])
    broken = broken_field(stream)
    schema = pa.schema([*OFFSET_SCHEMA, *([] if broken is None else [(broken, pa.string())])])
    asked, known = _places(events.select(schema.names), broken).with_row_index(), np.zeros(events.num_rows, dtype=bool)
    for batch in (batch for day in days for batch in typed.read(day, schema)):
        there = _places(batch, broken)
        known[asked.join(there, on=there.columns, how="semi")["index"].to_numpy()] = True
    return events.filter(pa.array(~known))


def _places(rows: pa.Table | pa.RecordBatch, broken: str | None) -> pl.DataFrame:
    """The place of each row in its topic, and whether it stands for a record in quarantine."""
    is_broken = pl.lit(value=False) if broken is None else pl.col(broken).is_not_null()
    return pl.DataFrame(pl.from_arrow(rows)).select(*OFFSET_SCHEMA.names, is_broken.alias("_is_broken"))
