"""Versions held against their contract: those that keep it, and what became of those before one that does not."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.versions import DELETED_AT, versioned
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked, Reason, check_batch
from pipeline_assets.ingestion.sources.originals import row_bytes
from pipeline_assets.ingestion.streaming.staged.history import Versions
from pipeline_assets.spec.contracts import Contract


def checked(contract: Contract, found: Versions) -> Checked:
    """The versions that keep the contract, at their offsets; a broken one ended the one before it.

    One with a large value that is nowhere in the log is broken too, its field missing; and so is a change that could not be read.
    """
    (batch,) = found.rows.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], found.rows.schema)]
    held = check_batch(versioned(contract), batch, first_position=0)
    own = [row for row in held.broken if row.position not in found.unread]
    known = {row.position for row in own}
    unread = {row: next(iter(faults.items())) for row, faults in found.unread.items()}
    lost: dict[int, tuple[str, Reason]] = {row: (field, "missing") for row, field in found.unresolved.items() if row not in known}
    others = [
        BrokenRow(position=row, field=field, reason=reason, original=row_bytes(batch, row))
        for row, (field, reason) in {**lost, **unread}.items()
    ]
    broken = [*own, *others]
    is_broken = np.zeros(batch.num_rows, dtype=bool)
    is_broken[[row.position for row in broken]] = True
    kept = np.flatnonzero(~is_broken)
    good = _ended(held.good, batch, found, is_broken) if broken else held.good
    # No source has the time of a deletion.
    whole = replace(held, good=good, positions=kept, broken=broken, fields=held.fields - {DELETED_AT})
    return whole.at(found.offsets.to_numpy())


def _ended(good: pa.RecordBatch, batch: pa.RecordBatch, found: Versions, is_broken: np.ndarray) -> pa.RecordBatch:
    """The rows that are whole, in the schema of `good`, those before a broken version ended when that was known."""
    is_last = found.next_at.is_null().to_numpy(zero_copy_only=False)
    before_broken = pa.array(np.append(is_broken[1:], [False]) & ~is_last)
    ended = pc.if_else(before_broken, found.next_at, batch.column(DELETED_AT))
    rows = batch.set_column(batch.schema.get_field_index(DELETED_AT), DELETED_AT, ended).filter(pa.array(~is_broken))
    return pa.RecordBatch.from_arrays(rows.columns, schema=good.schema)
