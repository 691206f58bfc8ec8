"""Tables that are followed by their changes: the rows that stand in them now, staged as if they had been read in a batch."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.errors import SnapshotIncomplete, UnknownName
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked, check_batch
from pipeline_assets.ingestion.sources.originals import row_bytes
from pipeline_assets.ingestion.staging.stage import Staged, stage_each, target_of
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.staged.changes import Merged, merge
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import Source

# The metadata of a staged table that says which snapshot of its change log it was made of.
LOG_SNAPSHOT = "log_snapshot_id"


@dataclass(frozen=True, kw_only=True)
class StagedState:
    """The staged rows of a table, the merge that they came from, and the snapshot of the log (None: it is empty)."""

    staged: Staged
    merged: Merged
    log_snapshot: int | None


def stage_state(settings: Settings, source: Source, *, run_id: str, at: int | None = None) -> StagedState:
    """Stages the rows of a table as of an LSN (None: the newest) from its change log in the lake, as its one partition.

    Raises UnknownName where there is no log, SnapshotIncomplete while the first snapshot is being emitted, ContractViolation as any source.
    """
    log, snapshot = read_log(settings, source.contract)
    merged = merge(log, source.contract, at=at)
    return StagedState(staged=stage_merged(settings, source.contract, merged, run_id=run_id), merged=merged, log_snapshot=snapshot)


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


def stage_merged(settings: Settings, contract: Contract, merged: Merged, *, run_id: str) -> Staged:
    """Stages merged rows; a row with a large value that is nowhere in the log goes to quarantine, its field as missing."""
    if not merged.is_complete:
        raise SnapshotIncomplete(contract.name, merged.changes)
    target = target_of(settings, contract, run_id=run_id)

    def read(_: date | None) -> Iterator[Checked]:
        return _checked(contract, merged)

    (staged,) = stage_each(settings, target, [None], lambda: nullcontext(read))
    return staged


def _checked(contract: Contract, merged: Merged) -> Iterator[Checked]:
    lost = dict(reversed(merged.unresolved))
    position = 0
    for batch in merged.rows.to_batches():
        own = {row - position: lost[row] for row in range(position, position + batch.num_rows) if row in lost} if lost else {}
        checked = check_batch(contract, batch, first_position=position)
        yield _without(checked, batch, own, position) if own else checked
        position += batch.num_rows


def _without(checked: Checked, batch: pa.RecordBatch, lost: dict[int, str], first_position: int) -> Checked:
    """The same without the rows of which a value is lost; `lost` holds the field by the row's index in the batch."""
    is_whole = ~np.isin(checked.positions - first_position, list(lost))
    known = {row.position for row in checked.broken}
    broken = [
        BrokenRow(position=first_position + row, field=field, reason="missing", original=row_bytes(batch, row))
        for row, field in lost.items()
        if first_position + row not in known
    ]
    return Checked(
        good=checked.good.filter(pa.array(is_whole)),
        positions=checked.positions[is_whole],
        broken=[*checked.broken, *broken],
        fields=checked.fields,
    )
