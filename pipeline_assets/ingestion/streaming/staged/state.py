"""Tables that are followed by their changes: all versions of their rows, staged as one partition.

A version that breaks the contract goes to quarantine; what the row was before ended with it, as what it is since is not known.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.errors import SnapshotIncomplete, UnknownName
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import DELETED_AT, versioned
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked, check_batch
from pipeline_assets.ingestion.sources.originals import row_bytes
from pipeline_assets.ingestion.staging.stage import Staged, stage_each, target_of
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.staged.history import Versions, versions
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import Source

# The metadata of a staged table that says which snapshot of its change log it was made of.
LOG_SNAPSHOT = "log_snapshot_id"


@dataclass(frozen=True, kw_only=True)
class StagedState:
    """The staged versions of a table, what they came from, and the snapshot of the log (None: it is empty)."""

    staged: Staged
    versions: Versions
    log_snapshot: int | None


def stage_state(settings: Settings, source: Source, *, run_id: str) -> StagedState:
    """Stages all versions of the rows of a table from its change log in the lake, as its one partition.

    Raises UnknownName where there is no log, SnapshotIncomplete while the first snapshot is being emitted, ContractViolation as any source.
    """
    log, snapshot = read_log(settings, source.contract)
    found = versions(log, source)
    return StagedState(staged=stage_versions(settings, source.contract, found, run_id=run_id), versions=found, log_snapshot=snapshot)


def read_log(settings: Settings, contract: Contract) -> tuple[pa.Table, int | None]:
    """The change log of a contract's table at its newest snapshot, and which that is; all of it, in memory."""
    from pyiceberg.exceptions import NoSuchTableError

    identifier = names.typed(log_contract(contract).name)
    with catalog(settings) as lake:
        try:
            table = lake.load_table(identifier)
        except NoSuchTableError as error:
            known = [".".join(found) for found in lake.list_tables(names.TYPED)] if lake.namespace_exists(names.TYPED) else []
            raise UnknownName("change log", ".".join(identifier), known) from error
        newest = table.current_snapshot()
        return table.scan().to_arrow(), None if newest is None else newest.snapshot_id


def stage_versions(settings: Settings, contract: Contract, found: Versions, *, run_id: str) -> Staged:
    """Stages versions; one with a large value that is nowhere in the log goes to quarantine, its field as missing."""
    if not found.is_complete:
        raise SnapshotIncomplete(contract.name, found.changes)
    target = target_of(settings, contract, run_id=run_id)

    def read(_: date | None) -> Iterator[Checked]:
        yield _checked(contract, found)

    (staged,) = stage_each(settings, target, [None], lambda: nullcontext(read))
    return staged


def _checked(contract: Contract, found: Versions) -> Checked:
    """The versions that keep the contract; a broken one ended the one before it."""
    (batch,) = found.rows.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], found.rows.schema)]
    checked = check_batch(versioned(contract), batch, first_position=0)
    known = {row.position for row in checked.broken}
    lost = [
        BrokenRow(position=row, field=field, reason="missing", original=row_bytes(batch, row))
        for row, field in found.unresolved.items()
        if row not in known
    ]
    broken = [*checked.broken, *lost]
    is_broken = np.zeros(batch.num_rows, dtype=bool)
    is_broken[[row.position for row in broken]] = True
    kept = np.flatnonzero(~is_broken)
    good = _ended(checked.good, batch, found, is_broken) if broken else checked.good
    offsets = found.offsets.to_numpy()
    return replace(checked, good=good, positions=kept, broken=broken).at(offsets)


def _ended(good: pa.RecordBatch, batch: pa.RecordBatch, found: Versions, is_broken: np.ndarray) -> pa.RecordBatch:
    """The rows that are whole, in the schema of `good`, those before a broken version ended when that was known."""
    is_last = found.next_at.is_null().to_numpy(zero_copy_only=False)
    before_broken = pa.array(np.append(is_broken[1:], [False]) & ~is_last)
    ended = pc.if_else(before_broken, found.next_at, batch.column(DELETED_AT))
    rows = batch.set_column(batch.schema.get_field_index(DELETED_AT), DELETED_AT, ended).filter(pa.array(~is_broken))
    return pa.RecordBatch.from_arrays(rows.columns, schema=good.schema)
