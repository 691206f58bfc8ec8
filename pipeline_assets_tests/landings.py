"""Records as Kafka Connect lands them, and a catalog in a folder to land them in; shared by the tests of typing."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.spec.sources import EventStream, History, PostgresTable, Source
from pipeline_assets_tests.readings import READINGS, reading

TOPIC = "sensor-readings"
# After all readings of the tests: what is known before it was received is in order.
RECEIVED_AT = datetime(2013, 6, 1, 12, 10, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Landed:
    """A record in its topic."""

    offset: int
    payload: bytes | None
    partition: int = 0
    received_at: datetime | None = RECEIVED_AT
    topic: str = TOPIC
    headers: Mapping[str, bytes | None] = field(default_factory=dict)


def stream_of(name: str = READINGS.name, topic: str = TOPIC, share: float = 0.5) -> EventStream:
    """A stream of readings under a name of its own."""
    contract = replace(READINGS, name=name, broken_share=share)
    history = Source(contract=replace(READINGS, name=f"{name}_history"), origin=PostgresTable(database="db", table="t"), load="daily")
    return EventStream(contract=contract, topic=topic, history=History(source=history, field="kind", value="indoor"))


def event(number: int, **changed: object) -> bytes:
    """A reading that keeps the contract, identified by its number (its value)."""
    return json_bytes(reading(0, **{"value": float(number), **changed}))


def plain(number: int) -> bytes:
    """The same as a producer would write it who writes short."""
    return json.dumps(json.loads(event(number)), separators=(",", ":")).encode()


def records(first: int, end: int, partition: int = 0, broken: Mapping[int, bytes | None] | None = None) -> list[Landed]:
    """Good records at the offsets first to end - 1, but for those that are broken."""
    bad = broken or {}
    payloads = {offset: bad[offset] if offset in bad else plain(offset) for offset in range(first, end)}
    return [Landed(offset=offset, payload=payload, partition=partition) for offset, payload in payloads.items()]


def table_of(landed: Sequence[Landed], headers: Sequence[str] = ()) -> pa.Table:
    """Records in the landing's columns, with some of their headers."""
    columns = [[getattr(one, name) for one in landed] for name in landing.SCHEMA.names]
    beside = [[one.headers.get(header) for one in landed] for header in headers]
    return pa.table([*columns, *beside], schema=landing.schema_with(headers))


def land(lake: Catalog, landed: Sequence[Landed], topic: str = TOPIC, headers: Sequence[str] = ()) -> int:
    """The snapshot with which some records were appended to the landing table of a topic, with some of their headers."""
    table = landing.ensure_landing_table(lake, topic, headers)
    with warnings.catch_warnings():
        # Kafka Connect knows the size of row groups by bytes; pyiceberg says that it does not.
        warnings.filterwarnings("ignore", message="Parquet writer option")
        table.append(table_of(landed, headers))
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return snapshot.snapshot_id


@contextmanager
def folder_catalog(folder: Path) -> Iterator[Catalog]:
    """An empty catalog in a folder."""
    with SqlCatalog("lake", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/lake") as catalog:
        yield catalog
