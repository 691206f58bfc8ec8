"""Maintenance of lake tables: small files compacted, old snapshots expired, orphan files deleted, by one policy.

Every step is a commit or a deletion of its own and continues where the last one ended, so it may be killed at any point. No step removes a
file that a kept snapshot or a current staging manifest refers to.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import stamina

from pipeline_assets.core import connections
from pipeline_assets.core.errors import LakeBusy
from pipeline_assets.core.iceberg import tables_of
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.lake import files
from pipeline_assets.processing.lake.compaction import compact, merge_manifests
from pipeline_assets.processing.lake.policy import Policy
from pipeline_assets.processing.lake.sweep import Swept, sweep

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem
    from pyiceberg.table import Table


@dataclass(frozen=True, kw_only=True)
class MaintainedTable:
    """One table before and after: its live files, its snapshots, and the days that were compacted."""

    table: str
    files_before: int
    files_after: int
    snapshots_before: int
    snapshots_after: int
    compacted_days: int
    merged_manifests: bool


@dataclass(frozen=True, kw_only=True)
class Maintained:
    """The maintenance of a namespace: what was done to each table, and to orphan files."""

    tables: tuple[MaintainedTable, ...]
    swept: Swept


def maintain(settings: Settings, namespace: str, policy: Policy, now: datetime) -> Maintained:
    """Compact, expire and sweep all tables of a namespace as of `now` (aware).

    Rows never change, and a scan opened before goes on. Raises LakeBusy if a table's snapshots could not be expired for other writers.
    """
    store = connections.arrow_files(settings)
    with connections.catalog(settings) as catalog:
        maintained = tuple(_maintain_table(store, table, policy, now) for table in tables_of(catalog, namespace))
        return Maintained(tables=maintained, swept=sweep(settings, catalog, namespace, orphan_age=policy.orphan_age, now=now))


def expire(table: "Table", policy: Policy, now: datetime) -> int:
    """How many snapshots were expired: all but the newest, the young, and those a branch or young tag names. No file is touched here."""
    from pyiceberg.exceptions import CommitFailedException

    try:
        for attempt in stamina.retry_context(on=CommitFailedException, attempts=5, wait_initial=0.05, wait_max=1.0, wait_jitter=0.1):
            with attempt:
                _drop_old_tags(table.refresh(), policy, now)
                old = _old_snapshots(table.refresh(), policy, now)
                if old:
                    table.maintenance.expire_snapshots().by_ids(old).commit()
    except CommitFailedException as error:
        raise LakeBusy(".".join(table.name()), str(error)) from error
    return len(old)


def _maintain_table(store: "S3FileSystem", table: "Table", policy: Policy, now: datetime) -> MaintainedTable:
    files_before, snapshots_before = len(files.live_files(table)), len(table.snapshots())
    compacted = compact(store, table, min_files=policy.min_files, target_bytes=policy.target_file_bytes)
    merged = merge_manifests(table, min_manifests=policy.min_manifests)
    expire(table, policy, now)
    return MaintainedTable(
        table=".".join(table.name()),
        files_before=files_before,
        files_after=len(files.live_files(table)),
        snapshots_before=snapshots_before,
        snapshots_after=len(table.snapshots()),
        compacted_days=compacted.days,
        merged_manifests=merged,
    )


def _drop_old_tags(table: "Table", policy: Policy, now: datetime) -> None:
    """Removes the tags of snapshots that are older than tagged ones are kept."""
    from pyiceberg.table.refs import SnapshotRefType

    ages = {snapshot.snapshot_id: snapshot.timestamp_ms for snapshot in table.snapshots()}
    oldest_ms = int((now - policy.tagged_age).timestamp() * 1000)
    tags = {name: ref.snapshot_id for name, ref in table.refs().items() if ref.snapshot_ref_type == SnapshotRefType.TAG}
    old = [name for name, snapshot in tags.items() if ages[snapshot] < oldest_ms]
    if old:
        with table.manage_snapshots() as manage:
            for name in old:
                manage.remove_tag(name)


def _old_snapshots(table: "Table", policy: Policy, now: datetime) -> list[int]:
    newest_first = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0, reverse=True)
    named = {ref.snapshot_id for ref in table.refs().values()}
    oldest_ms = int((now - policy.snapshot_age).timestamp() * 1000)
    beyond = newest_first[policy.kept_snapshots :]
    return [snapshot.snapshot_id for snapshot in beyond if snapshot.timestamp_ms < oldest_ms and snapshot.snapshot_id not in named]
