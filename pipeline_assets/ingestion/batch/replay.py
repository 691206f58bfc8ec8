"""Quarantined rows, checked again: those that keep the present contract join their staged partition, once.

A replay ends as if the partition had been read again with the same rows in its source: each version of a key once, as it was read last.
Rows that the partition holds already are marked as replayed and not added, so a replay that was killed, or asked for twice, is harmless.
Reading the partition from its source again replaces files and quarantine alike, so nothing replayed is there twice either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import DELETED_AT
from pipeline_assets.ingestion.batch.again import check_again
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked
from pipeline_assets.ingestion.sources.forgotten import read_rules
from pipeline_assets.ingestion.sources.quarantine import QuarantinedRow
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.earlier import add_earlier
from pipeline_assets.ingestion.staging.partitions import Manifest
from pipeline_assets.ingestion.staging.stage import Target, target_of
from pipeline_assets.spec.sources import Files, RecordStream, Source

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What became of the quarantined rows of one partition: so many joined it (or were in it already), so many are still broken."""

    source: str
    partition: str
    replayed: int
    still_broken: int


def replay(settings: Settings, declared: Sequence[Source | RecordStream], *, partition: str | None = None) -> list[Replayed]:
    """Checks the quarantined rows of these sources and streams again, of one partition or of all, and stages those that pass.

    Records of topics are not among them: they join their typed table, which is for the streaming room to do. Nor may followed tables be,
    whose versions end with those after them.
    Gives one entry a partition that had rows waiting; the partitions with `replayed` rows are those to publish again.
    """
    quarantine.create(settings)
    found: list[Replayed] = []
    with warehouse(settings) as connection:
        connection.autocommit = True
        for one in declared:
            waiting = quarantine.waiting_partitions(connection, one.contract.name)
            asked = [name for name in waiting if name != names.STREAM and (partition is None or name == partition)]
            found += [_replay_partition(settings, connection, one, name) for name in asked]
    return found


def _replay_partition(settings: Settings, connection: "psycopg.Connection", declared: Source | RecordStream, partition: str) -> Replayed:
    contract = declared.contract
    with quarantine.locked(connection, contract.name, partition), connection.transaction():
        waiting = quarantine.waiting(connection, contract.name, partition)
        target = target_of(settings, contract, run_id="replay")
        manifest = staging.manifest_from(target.client, target.bucket, contract.name, partition)
        if manifest is None:
            return Replayed(source=contract.name, partition=partition, replayed=0, still_broken=len(waiting))
        read = check_again(declared, waiting, day=_day(partition))
        checked, rows = _remembered(connection, contract.name, waiting, read)
        broken = [*checked.broken, *_join(settings, _as_read(declared, target, manifest), manifest, checked)]
        for row in broken:
            quarantine.mark_still_broken(connection, rows[row.position].id, row)
        kept_back = {row.position for row in broken}
        passed = [row.id for place, row in enumerate(rows) if place not in kept_back]
        quarantine.mark_replayed(connection, passed)
    return Replayed(source=contract.name, partition=partition, replayed=len(passed), still_broken=len(kept_back))


def _remembered(
    connection: "psycopg.Connection", contract: str, rows: Sequence[QuarantinedRow], checked: Checked
) -> tuple[Checked, Sequence[QuarantinedRow]]:
    """What was read and its rows, without those of keys that are forgotten, which leave the quarantine."""
    kept = read_rules(connection, contract).without(checked)
    places = sorted([*kept.positions.tolist(), *(row.position for row in kept.broken)])
    gone = [row.id for place, row in enumerate(rows) if place not in set(places)]
    if not gone:
        return checked, rows
    quarantine.remove_rows(connection, gone)
    moved = np.zeros(len(rows), dtype=np.int64)
    moved[places] = np.arange(len(places))
    return kept.at(moved), [rows[place] for place in places]


def _as_read(declared: Source | RecordStream, target: Target, manifest: Manifest) -> Target:
    """The target, which of files that are read once still knows which these were: a replay reads none of them."""
    is_of_files = isinstance(declared, Source) and isinstance(declared.origin, Files)
    return replace(target, made_from=manifest.made_from) if is_of_files else target


def _day(partition: str) -> date | None:
    return None if partition == names.SNAPSHOT else date.fromisoformat(partition)


def _join(settings: Settings, target: Target, manifest: Manifest, checked: Checked) -> list[BrokenRow]:
    """Stages the partition again with the good rows; returns those whose version is there otherwise, by their index among the waiting."""
    fresh = _not_staged(target, manifest, checked)
    if not fresh.good.num_rows:
        return []
    draft = target.draft(manifest.partition)
    for part in _standing(target, manifest):
        draft.add(part)
    draft.add(replace(fresh, positions=fresh.positions + manifest.rows))
    repeats = draft.drop_repeats()
    late = [replace(row, position=row.position - manifest.rows) for row in repeats if row.position >= manifest.rows]
    with warehouse(settings) as connection:
        quarantine.keep(connection, target.contract.name, manifest.partition, target.run_id, repeats[: len(repeats) - len(late)])
    add_earlier(target.contract, staging.read_versions(target.client, target.bucket, manifest, target.contract), draft)
    files = draft.upload()
    grown = staging.manifest_of(
        target.contract,
        manifest.partition,
        files,
        run_id=manifest.run_id,
        load_id=manifest.load_id,
        reasons=manifest.reasons,
        made_from=target.made_from,
    )
    added = fresh.good.num_rows - len(late)
    staging.publish(target.client, target.bucket, replace(grown, replayed=manifest.replayed + added))
    return late


def _standing(target: Target, manifest: Manifest) -> Iterator[Checked]:
    """What the partition holds, under the present contract, without rows that ended; positions count from 0."""
    position = 0
    for rows in staging.read_versions(target.client, target.bucket, manifest, target.contract):
        stands = rows.column(DELETED_AT).is_null()
        places = np.flatnonzero(stands.to_numpy(zero_copy_only=False))
        yield Checked(good=rows.filter(stands), positions=position + places)
        position += rows.num_rows


def _not_staged(target: Target, manifest: Manifest, checked: Checked) -> Checked:
    """The good rows that do not stand in the partition yet, value by value."""
    asked, known = pl.DataFrame(pl.from_arrow(checked.good)), np.zeros(checked.good.num_rows, dtype=bool)
    for part in _standing(target, manifest):
        there = pl.DataFrame(pl.from_arrow(part.good)).select(asked.columns)
        together = asked.with_row_index().join(there, on=asked.columns, how="semi", nulls_equal=True)
        known[together["index"].to_numpy()] = True
    return replace(checked, good=checked.good.filter(pa.array(~known)), positions=checked.positions[~known], originals=None)
