"""What happened before a stream began: rows of a staged history, taken as the stream's first events."""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import date, timedelta

import pyarrow.compute as pc

from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.stage import Staged, Target, stage_each, target_of
from pipeline_assets.ingestion.batch.staging import Manifest, partition_of, read_manifests, read_staged
from pipeline_assets.ingestion.sources.contracts import Checked, check_batch
from pipeline_assets.spec.sources import EventStream


def stage_history(settings: Settings, stream: EventStream, first: date, last: date, *, run_id: str) -> list[Staged]:
    """Stages the events of the UTC days first..last (inclusive) that stand in the stream's history, and gives them back by day.

    Raises NotStaged for days of the history that were never staged; ContractViolation as for any source.
    """
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    found = read_manifests(settings, stream.history.contract.name, [partition_of(day) for day in days])
    manifests = dict(zip(days, found, strict=True))
    target = target_of(settings, stream.contract, run_id=run_id)

    def read(day: date | None) -> Iterator[Checked]:
        return iter(()) if day is None else _events(target, stream, manifests[day], day)

    staged = stage_each(settings, target, days, lambda: nullcontext(read))
    return sorted(staged, key=lambda one: one.manifest.partition)


def _events(target: Target, stream: EventStream, manifest: Manifest, day: date) -> Iterator[Checked]:
    fields = [field.name for field in stream.contract.fields]
    position = 0
    for batch in read_staged(target.client, target.bucket, manifest, list(dict.fromkeys([*fields, stream.history_field]))):
        own = batch.filter(pc.equal(batch.column(stream.history_field), stream.history_value)).select(fields)
        yield check_batch(stream.contract, own, first_position=position, day=day)
        position += own.num_rows
