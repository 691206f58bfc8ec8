"""What came to a source since it was last read, beside all that is staged of it.

The rows of the increment come first; staged files stay as they are but for rows that the increment has again, which leave them, and
versions that ended, which are marked. What is read again leaves the quarantine, and is in it again where its row is still broken.
In memory are one file, and 40 bytes for each row of the increment (8 for each key of the table, where all keys are known).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.names import SNAPSHOT
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import DELETED_AT, versioned
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import Checked, arrow_schema
from pipeline_assets.ingestion.sources.forgotten import read_rules
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.quarantine import Quarantine, QuarantinedRow
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.draft import FILE_BYTES, Draft, is_in, version_hashes
from pipeline_assets.ingestion.staging.partitions import Manifest, StagedFile
from pipeline_assets.ingestion.staging.stage import Staged, Target, refuse_too_many_broken, target_of
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    import psycopg

# Each increment may leave a small file; so many are written together with the next.
SMALL_BYTES, MOST_SMALL = FILE_BYTES // 4, 16
KEY, KNOWN_AT = "_key", "_known_at"
# A part of a reading: its rows after their check, and what the reading wants to know of them beside.
Part = tuple[Checked, pa.Table]


class Reading(Protocol):
    """What an increment is about. It gathers the parts as they are read, and then says what of before is settled by them.

    `is_whole` when all rows of the source are read, so that the quarantine begins anew.
    """

    is_whole: bool
    fields: set[str]

    def add(self, checked: Checked, found: pa.Table) -> None:
        """Adds a part of the reading."""

    def settled(self, quarantined: Sequence[QuarantinedRow]) -> list[int]:
        """The positions of rows in quarantine that the reading takes the place of."""

    def ends(self, rows: pl.DataFrame) -> pl.Series:
        """Which staged versions, that the reading has not again, ended."""


@dataclass(kw_only=True)
class Touched:
    """A reading of rows as they are now: the keys as hashes, and the newest version that it has of each.

    `all_keys` are the sorted hashes of all keys that the source holds, where a reading was asked for them; a key that is not there is gone.
    """

    contract: Contract
    is_whole: bool
    all_keys: np.ndarray | None
    fields: set[str] = field(default_factory=set)
    _keys: list[np.ndarray] = field(default_factory=list)
    _versions: list[pl.DataFrame] = field(default_factory=list)

    def add(self, checked: Checked, found: pa.Table) -> None:
        """Adds a part of the reading, with the keys of its rows."""
        self.fields |= checked.fields
        self._keys.append(key_hashes(pl.DataFrame(found).drop_nulls()))
        good = pl.DataFrame(pl.from_arrow(checked.good))
        own = pl.Series(KEY, key_hashes(good.select(self.contract.primary_key)), pl.UInt64)
        self._versions.append(pl.DataFrame([own, good.get_column(self.contract.known_at).alias(KNOWN_AT)]))

    @cached_property
    def newest(self) -> pl.DataFrame:
        """The sorted hashes of the keys that were read, with the time at which the newest good version was known; null: all are broken."""
        keys = pl.DataFrame({KEY: self.keys()}, {KEY: pl.UInt64})
        if not self._versions:
            return keys.with_columns(pl.lit(None, pl.Datetime("us", "UTC")).alias(KNOWN_AT))
        newest = pl.concat(self._versions).group_by(KEY).agg(pl.col(KNOWN_AT).max())
        return keys.join(newest, on=KEY, how="left", maintain_order="left")

    def keys(self) -> np.ndarray:
        """The sorted hashes of the keys that were read."""
        return np.unique(np.concatenate([np.empty(0, np.uint64), *self._keys]))

    def settled(self, quarantined: Sequence[QuarantinedRow]) -> list[int]:
        """The positions of rows whose key was read again, or is gone; of a key that cannot be read nobody knows."""
        key = self.contract.primary_key
        read = check_json_rows(bare(self.contract, key), [row.original for row in quarantined])
        hashes = key_hashes(pl.DataFrame(pl.from_arrow(read.good)).select(key))
        is_settled = is_in(self.newest.get_column(KEY).to_numpy(), hashes)
        if self.all_keys is not None:
            is_settled |= ~is_in(self.all_keys, hashes)
        return [quarantined[place].position for place in read.positions[is_settled].tolist()]

    def ends(self, rows: pl.DataFrame) -> pl.Series:
        """Versions of keys that are gone, that stand there as they were before, or whose row is broken now."""
        keys = key_hashes(rows.select(self.contract.primary_key))
        found = rows.with_columns(pl.Series(KEY, keys, pl.UInt64)).join(self.newest, on=KEY, how="left", maintain_order="left")
        is_older = found.get_column(KNOWN_AT) < found.get_column(self.contract.known_at)
        is_read = pl.Series(is_in(self.newest.get_column(KEY).to_numpy(), keys), dtype=pl.Boolean)
        is_gone = pl.Series(np.zeros(len(keys), bool) if self.all_keys is None else ~is_in(self.all_keys, keys), dtype=pl.Boolean)
        return (is_read & is_older.fill_null(value=True)) | is_gone


def bare(contract: Contract, names: Collection[str]) -> Contract:
    """A contract that asks nothing of a row but that these fields can be read."""
    fields = (field for field in contract.fields if field.name in names)
    freed = tuple(replace(field, required=True, minimum=None, maximum=None, allowed=(), max_length=None) for field in fields)
    return replace(contract, fields=freed, event_at=contract.known_at)


def key_hashes(keys: pl.DataFrame) -> np.ndarray:
    """The hash of each key; equal within a process for equal keys of the contract's types."""
    return keys.hash_rows(seed=0).to_numpy()


@dataclass(frozen=True, kw_only=True)
class Before:
    """What is staged of a source (manifest None: nothing), and the position after those of all its rows in quarantine.

    Where it is read `from_the_start`, what is damaged of it counts as not there.
    """

    connection: "psycopg.Connection"
    target: Target
    manifest: Manifest | None
    next_position: int
    from_the_start: bool


@contextmanager
def staged_before(settings: Settings, contract: Contract, *, run_id: str, from_the_start: bool) -> Iterator[Before]:
    """What an increment comes beside; nobody else stages the source until the block ends.

    Raises ObjectDamaged for a damaged manifest, unless the source is read `from_the_start`.
    """
    quarantine.create(settings)
    with closing(warehouse(settings)) as connection:
        connection.autocommit = True
        with quarantine.locked(connection, contract.name, SNAPSHOT):
            target = target_of(settings, contract, run_id=run_id)
            read = staging.readable_manifest if from_the_start else staging.manifest_from
            manifest = read(target.client, target.bucket, contract.name, SNAPSHOT)
            position = quarantine.next_position(connection, contract.name, SNAPSHOT)
            yield Before(connection=connection, target=target, manifest=manifest, next_position=position, from_the_start=from_the_start)


def stage_increment(before: Before, parts: Iterable[Part], reading: Reading, made_from: Mapping[str, Any]) -> Staged:
    """Puts an increment beside what was staged before.

    `reading` gathers what the parts are about; `made_from` is how far the source was read, once all parts are. Files come first, then the
    quarantine in one transaction, and the manifest last. Raises ContractViolation if more than the contract's share of all rows is broken,
    ObjectDamaged for a damaged staged file unless the source is read from the start; then all is as it was.
    """
    began, connection, target, partition = monotonic(), before.connection, before.target, SNAPSHOT
    contract = target.contract
    with connection.transaction():
        quarantined = [] if reading.is_whole else quarantine.all_rows(connection, contract.name, partition)
        replaced: list[int] | None = None if reading.is_whole else []
        forgotten = read_rules(connection, contract.name)
        kept = ((forgotten.without(checked), found) for checked, found in parts)
        with quarantine.replacing(connection, contract.name, partition, target.run_id, positions=replaced) as broken:
            draft = _draft(target, partition, kept, reading, broken)
        quarantine.remove(connection, contract.name, partition, reading.settled(quarantined))
        quarantine.remove_repeated(connection, contract.name, partition, before.next_position)
        reasons = quarantine.faults(connection, contract.name, partition)
        files = [*_kept_files(before, draft, reading), *draft.upload()]
        refuse_too_many_broken(contract, partition, sum(file.rows for file in files), reasons)
    made = staging.manifest_of(contract, partition, files, run_id=target.run_id, reasons=reasons, made_from=made_from)
    staging.publish(target.client, target.bucket, made)
    promised = {one.name for one in contract.fields}
    return Staged(manifest=made, seconds=monotonic() - began, unknown_fields=tuple(sorted(reading.fields - promised)))


def _draft(target: Target, partition: str, parts: Iterable[Part], reading: Reading, broken: Quarantine) -> Draft:
    """The good rows of the increment; the others are added to the quarantine."""
    draft = target.draft(partition)
    for checked, found in parts:
        reading.add(checked, found)
        draft.add(checked)
        broken.add(checked.broken)
    broken.add(draft.drop_repeats())
    return draft


def _kept_files(before: Before, draft: Draft, reading: Reading) -> Iterator[StagedFile]:
    """The staged files without versions that the draft has, with those that ended marked; many small ones become one."""
    target, manifest = before.target, before.manifest
    if manifest is None:
        return
    again, drafted, files = target.draft(manifest.partition), np.sort(draft.hashes()), manifest.files
    small = {file.path for file in files if file.bytes < SMALL_BYTES}
    for file in files:
        rows, is_as_it_was = pa.table({}), False
        with staging.passing_over_damage() if before.from_the_start else nullcontext():
            rows, is_as_it_was = _rows(target, manifest, file, drafted, reading)
        if is_as_it_was and not (file.path in small and len(small) >= MOST_SMALL):
            yield file
            continue
        for batch in rows.to_batches():
            again.add(Checked(good=batch, positions=np.arange(batch.num_rows)))
    yield from again.upload()


def _rows(target: Target, manifest: Manifest, file: StagedFile, drafted: np.ndarray, reading: Reading) -> tuple[pa.Table, bool]:
    """The rows of a file that stay, and whether they are all that there were, as they were."""
    contract, schema = target.contract, arrow_schema(versioned(target.contract))
    batches = list(staging.read_versions(target.client, target.bucket, replace(manifest, files=(file,)), contract))
    left = [batch.filter(pa.array(~is_in(drafted, version_hashes(contract, batch)))) for batch in batches]
    rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(left, schema)))
    ends = rows.get_column(DELETED_AT).is_null() & reading.ends(rows)
    ended_at = pl.when(ends).then(pl.lit(datetime.now(UTC))).otherwise(pl.col(DELETED_AT)).alias(DELETED_AT)
    return rows.with_columns(ended_at).to_arrow().cast(schema), rows.height == sum(map(len, batches)) and not ends.any()
