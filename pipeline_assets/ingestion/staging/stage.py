"""Checked rows to staged partitions: written, audited, and only then published.

Under the lock of the partition its files come first, then its quarantine in one transaction, and its manifest last: a manifest says that
all the rest is there. Whatever kills the process, running again ends with the same rows: files that no manifest names do not count.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import date
from queue import SimpleQueue
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.connections import object_store, warehouse
from pipeline_assets.core.errors import ContractViolation, SourceChanged
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.waits import as_done, ending_at
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.sources.forgotten import Forgotten, read_rules
from pipeline_assets.ingestion.sources.quarantine import Quarantine
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.draft import FILE_BYTES, Draft
from pipeline_assets.ingestion.staging.earlier import add_earlier
from pipeline_assets.ingestion.staging.partitions import Manifest, StagedFile, partition_of
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa
    from mypy_boto3_s3 import S3Client

# Two processors are kept busy while other days wait for the network; each worker holds one file and one batch in memory.
WORKERS = 4

Read = Callable[[date | None], Iterable[Checked]]
OpenReader = Callable[[], AbstractContextManager[Read]]


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A partition that was staged: its manifest, how long it took, and how the fields of the source differ from the contract's.

    `unknown_fields` are left out of the files; `absent_fields` stand in no row of the partition. `is_taken_up` when an earlier run of the
    same load had staged it, so that nothing was asked for.
    """

    manifest: Manifest
    seconds: float
    unknown_fields: tuple[str, ...] = ()
    absent_fields: tuple[str, ...] = ()
    is_taken_up: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a contract's rows are staged, and in whose name; `keeps_earlier` where a source holds rows as they are now alone.

    `made_from` is how far the source was read, as the manifest will say it.
    """

    client: "S3Client"
    bucket: str
    contract: Contract
    run_id: str
    load_id: str = ""
    keeps_earlier: bool = False
    file_bytes: int = FILE_BYTES
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def draft(self, partition: str) -> Draft:
        """An empty draft of a partition."""
        return Draft(self.client, self.bucket, self.contract, partition, file_bytes=self.file_bytes)


def target_of(settings: Settings, contract: Contract, *, run_id: str, load_id: str = "", keeps_earlier: bool = False) -> Target:
    """Where the settings have the rows of a contract staged."""
    client, bucket = object_store(settings), settings.s3_bucket
    return Target(client=client, bucket=bucket, contract=contract, run_id=run_id, load_id=load_id, keeps_earlier=keeps_earlier)


def stage_each(settings: Settings, target: Target, days: Sequence[date | None], open_reader: OpenReader) -> Iterator[Staged]:
    """Stages the partitions of days (None: the snapshot) side by side, and gives each as it is done.

    The first error ends the others at their next batch, or while they wait for the database, and is raised; what was done stays done.
    """
    quarantine.create(settings)
    stop, desks = Event(), SimpleQueue[tuple[Read, "psycopg.Connection"]]()
    with ExitStack() as stack:
        workers = min(WORKERS, len(days))
        for _ in range(workers):
            desks.put((stack.enter_context(open_reader()), stack.enter_context(closing(warehouse(settings)))))
        pool = stack.enter_context(ThreadPoolExecutor(max(1, workers), thread_name_prefix=target.contract.name))

        def work(day: date | None) -> Staged:
            read, connection = desk = desks.get()
            try:
                with ending_at(stop):
                    return stage_partition(connection, target, partition_of(day), _until(stop, read(day)))
            finally:
                desks.put(desk)

        futures = [pool.submit(work, day) for day in days]
        try:
            for future in as_done(futures):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def stage_partition(connection: "psycopg.Connection", target: Target, partition: str, parts: Iterable[Checked]) -> Staged:
    """Puts checked parts in the place of all that a partition and its quarantine held, but for the earlier versions that a target keeps.

    Earlier versions in damaged files, or in all files where the manifest is damaged, are gone, which the log says.
    Raises ContractViolation if more than the contract's share of the rows is broken, SourceChanged if a required field stands in no row;
    then partition and quarantine stay as they were.
    """
    began, contract = monotonic(), target.contract
    with quarantine.locked(connection, contract.name, partition):
        with connection.transaction():
            # Read under the lock, so that whoever forgets a key and then takes the lock finds all rows of it that will ever come.
            forgotten = read_rules(connection, contract.name)
        with quarantine.replacing(connection, contract.name, partition, target.run_id) as broken:
            files, fields = _write(target, partition, parts, broken, forgotten)
        manifest = staging.manifest_of(
            contract,
            partition,
            files,
            run_id=target.run_id,
            load_id=target.load_id,
            reasons=broken.reasons,
            made_from=target.made_from,
        )
        staging.publish(target.client, target.bucket, manifest)
    promised = {field.name for field in contract.fields}
    return Staged(
        manifest=manifest,
        seconds=monotonic() - began,
        unknown_fields=tuple(sorted(fields - promised)),
        absent_fields=tuple(sorted(promised - fields)) if fields else (),
    )


def _write(
    target: Target, partition: str, parts: Iterable[Checked], broken: Quarantine, forgotten: Forgotten
) -> tuple[list[StagedFile], set[str]]:
    """The files of a partition that passed its audit, and the names of all fields that its rows came with."""
    draft, fields = target.draft(partition), set[str]()
    for part in map(forgotten.without, parts):
        draft.add(part)
        broken.add(part.broken)
        fields |= part.fields
    broken.add(draft.drop_repeats())
    _audit(target.contract, partition, draft, broken, fields)
    if target.keeps_earlier:
        _add_earlier(target, partition, draft)
    return draft.upload(), fields


def _add_earlier(target: Target, partition: str, draft: Draft) -> None:
    manifest = staging.readable_manifest(target.client, target.bucket, target.contract.name, partition)
    if manifest is None:
        return
    add_earlier(target.contract, _readable(target, manifest), draft)


def _readable(target: Target, manifest: Manifest) -> "Iterator[pa.RecordBatch]":
    """The rows of a manifest's files as versions, but for those of damaged ones."""
    for file in manifest.files:
        with staging.passing_over_damage():
            yield from staging.read_versions(target.client, target.bucket, replace(manifest, files=(file,)), target.contract)


def _audit(contract: Contract, partition: str, draft: Draft, broken: Quarantine, fields: set[str]) -> None:
    absent = [field.name for field in contract.fields if field.required and field.name not in fields] if fields else []
    if absent:
        raise SourceChanged(contract.name, dict.fromkeys(absent, f"stands in no row of {partition}"))
    refuse_too_many_broken(contract, partition, draft.rows, broken.reasons)


def refuse_too_many_broken(contract: Contract, partition: str, good: int, reasons: Mapping[str, int]) -> None:
    """Raises ContractViolation if the broken rows, by fault, are more than the contract's share of all."""
    broken = sum(reasons.values())
    if broken > contract.broken_share * (good + broken):
        raise ContractViolation(
            contract=contract.name,
            partition=partition,
            broken=broken,
            rows=good + broken,
            share=contract.broken_share,
            reasons=reasons,
        )


def _until(stop: Event, parts: Iterable[Checked]) -> Iterator[Checked]:
    for part in parts:
        if stop.is_set():
            raise CancelledError
        yield part
