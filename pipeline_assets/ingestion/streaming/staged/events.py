"""The events of a stream by day: what its topic brought, from typed rows, and what happened before that, from a staged history if any.

The two meet at a seam that nobody has to declare. A version that stands in both on a day is taken from the topic: its rows carry their
place there, while the history was copied once. It does not count as a repeated version; two different rows of the topic with one key and
one `known_at` do, and go to quarantine but for the one that came last.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.connections import catalog
from pipeline_assets.core.project import days_between
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import version_key, versioned
from pipeline_assets.ingestion.sources.contracts import Checked, arrow_schema, check_batch
from pipeline_assets.ingestion.staging.partitions import Manifest, partition_of, read_manifests, read_versions
from pipeline_assets.ingestion.staging.stage import Staged, Target, stage_each, target_of
from pipeline_assets.ingestion.streaming.typed.table import OFFSET, OFFSET_SCHEMA, PARTITION, TypedDays, typed_days
from pipeline_assets.spec.sources import EventStream, History


@dataclass(frozen=True, kw_only=True)
class StagedEvents:
    """The staged days of a stream, and the snapshot of its typed table that they were read from; None where nothing was ever typed."""

    days: list[Staged]
    typed_snapshot: int | None


def stage_events(settings: Settings, stream: EventStream, first: date, last: date, *, run_id: str) -> StagedEvents:
    """Stages the events of the UTC days first..last (inclusive), and gives them back by day.

    Raises NotStaged for days of the history that were never staged; ContractViolation as for any source.
    """
    days = days_between(first, last)
    manifests = _manifests(settings, stream, days)
    target = target_of(settings, stream.contract, run_id=run_id)
    with catalog(settings) as lake:
        typed = typed_days(lake, stream.contract, first, last)

        def read(day: date | None) -> Iterator[Checked]:
            return iter(()) if day is None else _events(target, stream, manifests.get(day), typed, day)

        staged = stage_each(settings, target, days, lambda: nullcontext(read))
        return StagedEvents(days=sorted(staged, key=lambda one: one.manifest.partition), typed_snapshot=typed.snapshot_id)


def _manifests(settings: Settings, stream: EventStream, days: Sequence[date]) -> dict[date, Manifest]:
    """The staged days of a stream's history; none where it has none."""
    if stream.history is None:
        return {}
    found = read_manifests(settings, stream.history.source.contract.name, [partition_of(day) for day in days])
    return dict(zip(days, found, strict=True))


def _events(target: Target, stream: EventStream, manifest: Manifest | None, typed: TypedDays, day: date) -> Iterator[Checked]:
    position, contract = 0, versioned(stream.contract)
    if stream.history is not None and manifest is not None:
        versions = _versions(stream, typed, day)
        for own in _past_events(target, stream, stream.history, manifest):
            places = position + _places_without(own, versions)
            yield check_batch(contract, own.take(pa.array(places - position)), first_position=0, day=day).at(places)
            position += own.num_rows
    yield from _topic_events(stream, typed, day, position)


def _past_events(target: Target, stream: EventStream, history: History, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    """The rows of a history that are events of the stream, in its columns, all versions of them."""
    fields = [field.name for field in versioned(stream.contract).fields]
    read = fields if history.field is None else list(dict.fromkeys([*fields, history.field]))
    for rows in read_versions(target.client, target.bucket, manifest, history.source.contract, read):
        own = rows if history.field is None else rows.filter(pc.equal(rows.column(history.field), history.value))
        yield own.select(fields)


def _topic_events(stream: EventStream, typed: TypedDays, day: date, first_position: int) -> Iterator[Checked]:
    """The typed rows of a day; their positions follow the order of the topic, whatever the order of the files."""
    places, start = first_position + _ranks(typed, day), 0
    for batch in typed.read(day, arrow_schema(stream.contract)):
        yield check_batch(stream.contract, batch, first_position=0, day=day).at(places[start : start + batch.num_rows])
        start += batch.num_rows


def _ranks(typed: TypedDays, day: date) -> np.ndarray:
    """Of each typed row of a day, in the order of the files, how many stand before it by partition and offset."""
    rows = pa.Table.from_batches(typed.read(day, OFFSET_SCHEMA), OFFSET_SCHEMA)
    order = np.lexsort((rows.column(OFFSET).to_numpy(), rows.column(PARTITION).to_numpy()))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _versions(stream: EventStream, typed: TypedDays, day: date) -> pl.DataFrame:
    """The versions that the topic has on a day."""
    schema = pa.schema([arrow_schema(stream.contract).field(name) for name in version_key(stream.contract)])
    parts = [pl.DataFrame(pl.from_arrow(batch)) for batch in typed.read(day, schema)]
    return pl.concat(parts).unique() if parts else pl.DataFrame(pl.from_arrow(schema.empty_table()))


def _places_without(rows: pa.RecordBatch, versions: pl.DataFrame) -> np.ndarray:
    """The places of the rows that are none of these versions."""
    asked = pl.DataFrame(pl.from_arrow(rows.select(versions.columns))).with_row_index()
    return asked.join(versions, on=versions.columns, how="anti").get_column("index").sort().to_numpy().astype(np.int64)
