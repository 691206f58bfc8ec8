"""Tables that are followed by their changes: all versions of their rows, staged as one partition.

A version that breaks the contract goes to quarantine; what the row was before ended with it, as what it is since is not known. What came
to the log since it was merged is merged alone wherever that leaves the same rows as a merge of the whole log, see `increment`.
"""

from contextlib import closing
from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_files, catalog, warehouse
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import in_table
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.stage import Staged, target_of
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.staged.increment import merge_increment
from pipeline_assets.ingestion.streaming.staged.log import open_log
from pipeline_assets.ingestion.streaming.staged.whole import Merged, merge_whole
from pipeline_assets.spec.sources import Source

# The metadata of a staged table that says which snapshot of its change log it was made of.
LOG_SNAPSHOT = "log_snapshot_id"


@dataclass(frozen=True, kw_only=True)
class StagedState:
    """The staged versions of a table, and what they came from.

    `log_snapshot` is that of the log, `changes` counts all its records, `lsn` is that of the newest. `keys_merged` counts the keys that
    this merge made all versions of, `values_not_in_log` their values that are nowhere in the log. `whole_because` says why the whole log
    was merged; None where what had come since the merge before was.
    """

    staged: Staged
    log_snapshot: int
    changes: int
    lsn: int
    keys_merged: int
    values_not_in_log: int
    whole_because: str | None


def stage_state(settings: Settings, source: Source, *, run_id: str) -> StagedState:
    """Stages all versions of the rows of a table from its change log in the lake, as its one partition.

    Raises UnknownName where there is no log, SnapshotIncomplete while the first snapshot is being emitted, ContractViolation as any source.
    """
    contract, target = source.contract, target_of(settings, source.contract, run_id=run_id)
    quarantine.create(settings)
    with (
        closing(warehouse(settings)) as connection,
        quarantine.locked(connection, contract.name, names.SNAPSHOT),
        catalog(settings) as lake,
    ):
        connection.autocommit = True
        log = open_log(lake, in_table(source), log_contract(contract).name)
        merged: Merged | str
        try:
            manifest = staging.manifest_from(target.client, target.bucket, contract.name, names.SNAPSHOT)
            merged = merge_increment(connection, target, arrow_files(settings), log, source, manifest)
        except ObjectDamaged as error:
            # A merge of the whole log needs nothing of what is staged; if it is the log that is damaged, it ends by the same error.
            merged = f"a damaged object: {error.path} {error.problem}"
        if isinstance(merged, str):
            merged = merge_whole(connection, target, log, source, because=merged)
    return StagedState(
        staged=merged.staged,
        log_snapshot=merged.position.snapshot,
        changes=merged.position.changes,
        lsn=merged.position.lsn,
        keys_merged=merged.keys,
        values_not_in_log=merged.unresolved,
        whole_because=merged.whole_because,
    )
