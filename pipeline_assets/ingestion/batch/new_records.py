"""Records of an API that are new since it was last read, by a field of theirs: a time, or a whole number that grows.

The next reading asks for records from the newest value that was read, less the declared lateness. A time that had not come when a reading
began counts as the time at which it began: a clock that is ahead does not hide what comes after, and a record that changed while pages were
read is read again. Values of broken records, and null, do not count. The position never goes back, but by a reading from the start.

All records are asked for, without the parameters that take the cursor, where nothing was read by this declaration before, after a replay
of quarantined rows, and where it is asked for. What an API leaves out then is not taken for deleted, unless the run looks for deletions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.digests import digest_of
from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.requests import Since
from pipeline_assets.ingestion.batch.rest import Patience, open_endpoint
from pipeline_assets.ingestion.sources.contracts import Checked
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.staging.increment import Part, Touched, bare, stage_increment, staged_before
from pipeline_assets.ingestion.staging.partitions import Manifest
from pipeline_assets.ingestion.staging.stage import Staged
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import Cursor, RestEndpoint, Source

RULES, REACHED = "rules", "reached"


def stage_new_records(
    settings: Settings,
    source: Source,
    *,
    run_id: str,
    find_deletes: bool = False,
    from_the_start: bool = False,
    patience: Patience | None = None,
) -> Staged:
    """Stages the records of an endpoint that are new since it was last read, beside what was staged of it.

    Raises as `open_endpoint` and `stage_increment` do; what was staged is then as it was, and the next reading begins where this one did.
    """
    contract, (origin, cursor), made_from = source.contract, _declared(source), {RULES: _rules(source)}
    with (
        open_endpoint(settings, contract, origin, patience) as reader,
        staged_before(settings, contract, run_id=run_id, from_the_start=from_the_start) as before,
    ):
        reached = None if from_the_start or find_deletes else _reached(source, before.manifest)
        newest = Newest(column=cursor.column, value=reached, asked_at=datetime.now(UTC))
        touched = Touched(contract=contract, is_whole=reached is None, all_keys=None)
        found = reader.since(_since(reached, cursor), before.next_position)
        parts = _parts(contract, found, newest, touched, made_from, find_deletes=find_deletes)
        return stage_increment(before, parts, touched, made_from)


@dataclass(kw_only=True)
class Newest:
    """The newest value of a cursor while records are read; `asked_at` is when their reading began."""

    column: str
    value: datetime | int | None
    asked_at: datetime

    def add(self, rows: pa.RecordBatch) -> None:
        """Adds records that kept the contract."""
        found = pc.max(rows.column(self.column)).as_py()
        if found is None:
            return
        bounded = min(found, self.asked_at) if isinstance(found, datetime) else found
        self.value = bounded if self.value is None else max(self.value, bounded)


def _declared(source: Source) -> tuple[RestEndpoint, Cursor]:
    if not isinstance(source.origin, RestEndpoint) or source.cursor is None:
        raise SourceRefused(source.contract.name, "only an endpoint with a cursor is read by what is new of its records")
    return source.origin, source.cursor


def _rules(source: Source) -> str:
    return digest_of((source.contract, source.origin, source.cursor))


def _reached(source: Source, manifest: Manifest | None) -> datetime | int | None:
    """How far the cursor was when what is staged was read by this declaration; None where all has to be read."""
    if manifest is None or manifest.made_from.get(RULES) != _rules(source):
        return None
    reached = manifest.made_from.get(REACHED)
    return datetime.fromisoformat(reached) if isinstance(reached, str) else reached


def _since(before: Any, cursor: Cursor) -> Since | None:
    """What is asked for from; None for all records."""
    return None if before is None else Since(before - cursor.lateness)


def _parts(
    contract: Contract, found: Iterator[Checked], newest: Newest, touched: Touched, made_from: dict[str, Any], *, find_deletes: bool
) -> Iterator[Part]:
    """The records with the keys of all of them; once they are read, `made_from` says how far, and `touched` what there is."""
    key = list(contract.primary_key)
    for checked in found:
        newest.add(checked.good)
        broken = check_json_rows(bare(contract, key), [row.original for row in checked.broken]).good
        tables = [pa.Table.from_batches([rows.select(key)]) for rows in (checked.good, broken)]
        yield checked, pa.concat_tables(tables, promote_options="default")
    value = newest.value
    made_from[REACHED] = value.isoformat() if isinstance(value, datetime) else value
    if find_deletes:
        touched.all_keys = touched.keys()
