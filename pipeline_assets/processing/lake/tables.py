"""Lake tables as other rooms use them: whole days put in place of what was there, and read back at a snapshot."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core import connections
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import LakeBusy, TableMismatch, UnknownName
from pipeline_assets.core.iceberg import Identifier, open_table, tables_of
from pipeline_assets.core.project import days_between
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.processing.lake import derived, files, scans
from pipeline_assets.processing.lake.catalog import table_for_arrow, table_for_contract
from pipeline_assets.processing.lake.commits import Change, replace_files, tag_snapshot
from pipeline_assets.processing.lake.files import Content
from pipeline_assets.processing.lake.intact import damaged, damaged_days
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table


# The properties of a table that hold the digests of `made_from`, by day, each with that of the day's files: what other tools have done to a
# day since is seen by its files.
INPUTS = "pipeline.inputs."
# The property of a cleaned table that says since when it keeps all versions of its rows; without it, for ever.
VERSIONS_SINCE = "pipeline.versions-since"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a table holds of the asked days after a publication, and the snapshots before and after it.

    Where nothing had to change both snapshots are the same, and `changed` is 0; otherwise it counts the days whose files changed (1 for a
    table without partitions). `rows`, `files` and `bytes` are of the asked days as the lake holds them now, `given` is how many rows were
    to be there, `table_rows` counts the whole table.
    """

    identifier: Identifier
    location: str
    snapshot_before: int | None
    snapshot_after: int | None
    given: int
    rows: int
    files: int
    bytes: int
    days: int
    changed: int
    table_rows: int

    @property
    def sums(self) -> dict[str, int]:
        """What it holds of the asked days together, in numbers to be shown."""
        return {"rows": self.rows, "files": self.files, "bytes": self.bytes, "partitions": self.days, "partitions_changed": self.changed}


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """A digest of what the rows of a day were made from, how many there are, and in how many each column is null."""

    digest: str
    rows: int
    nulls: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A digest per day of what its rows are made from; `settled` days are those that are in the table already as they would be made."""

    digests: Mapping[date, str]
    settled: Collection[date] = ()


NO_INPUTS = Inputs(digests=MappingProxyType({}))


def publish_days(settings: Settings, contract: Contract, first: date, last: date) -> Published:
    """Put the staged files of the days `first` to `last` (UTC, inclusive) in the place of what the lake holds of them.

    The files are added where they are; no row is written, and all days change in one snapshot. Days that already hold what is
    staged are left alone, once their files were found to be undamaged. Raises NotStaged if a day has no manifest, ObjectDamaged for a
    staged file that is damaged, TableMismatch if a file does not fit the table or its day,
    SchemaConflict if the table cannot follow the contract, LakeBusy if other writers always came first.
    """
    return _publish(settings, contract, days_between(first, last))


def publish_snapshot(settings: Settings, contract: Contract) -> Published:
    """Put the staged snapshot in the place of all that the lake holds of this contract; as `publish_days`, without days."""
    return _publish(settings, contract, [None])


def replace_days(
    settings: Settings,
    identifier: Identifier,
    data: pa.Table,
    time_column: str,
    first: date,
    last: date,
    *,
    inputs: Inputs = NO_INPUTS,
    properties: Mapping[str, str | None] = MappingProxyType({}),
) -> Published:
    """Put `data` in the place of the days `first` to `last` (UTC, inclusive) of `time_column`, in one snapshot.

    `inputs` has a digest per day of what its rows were made from, which `made_from` reads back; a day without one has none from then on.
    Days that are settled stay as they are; `data` has no rows of them.
    Other `properties` of the table are set in the same commit (None: removed), also where no row changes. Days without rows end up empty.
    Rows are sorted by `time_column`, then by the columns before it; a day whose sorted rows are those it holds already, in undamaged
    files, is left alone.
    Raises TableMismatch if a row lies outside the days or has no time, SchemaConflict if the table cannot follow the columns, LakeBusy if
    other writers always came first.
    """
    rows = derived.sorted_rows(identifier, data, time_column, first, last)
    with connections.catalog(settings) as catalog:
        table = table_for_arrow(catalog, identifier, rows.schema, time_column)
        parts = derived.split(table, rows, time_column, first, last)
        wanted = {day: rows for day, rows in parts.items() if day not in inputs.settled}
        if sum(map(len, wanted.values())) < data.num_rows:
            raise TableMismatch(".".join(identifier), "has rows of days that are to stay as they are", data.column_names)
        store = connections.arrow_files(settings)

        def plan(table: "Table") -> Change:
            live = files.by_day(files.live_files(table, files.rows_of_days(table, first, last)))
            new = derived.write_changed(store, table, {day: (rows, live.get(day, [])) for day, rows in wanted.items()})
            held = {day: files.digests(new.get(day, live.get(day, []))) for day in wanted}
            return Change(
                remove=[file for day in new for file in live.get(day, [])],
                add=list(chain.from_iterable(new.values())),
                properties={f"{INPUTS}{day}": _noted(inputs.digests.get(day), held[day]) for day in wanted},
            )

        before = _snapshot(table)
        change = replace_files(table, files.rows_of_days(table, first, last), plan, properties)
        return _published(table, before, list(parts), change, given=data.num_rows)


def replace_all(
    settings: Settings, identifier: Identifier, rows: pa.RecordBatchReader, properties: Mapping[str, str | None] = MappingProxyType({})
) -> Published:
    """Put `rows` in the place of all that a table without partitions holds, in one snapshot; rows keep their order.

    `properties` of the table are set in the same commit (None: removed), also where no row changes.

    Streams: the rows of about a file are held in memory at a time. Nothing changes where the same rows in the same order are there
    already. Raises SchemaConflict if the table cannot follow the columns, LakeBusy if other writers always came first.
    """
    with connections.catalog(settings) as catalog:
        table = table_for_arrow(catalog, identifier, rows.schema, None)
        before = _snapshot(table)
        kept, new = derived.write_whole(connections.arrow_files(settings), table, rows, files.live_files(table))
        paths = {file.file_path for file in kept}

        def plan(table: "Table") -> Change:
            leaving = [file for file in files.live_files(table) if file.file_path not in paths]
            if len(leaving) + len(kept) != len(files.live_files(table)):
                raise LakeBusy(".".join(identifier), "its files were compacted meanwhile")
            return Change(remove=leaving, add=new)

        change = replace_files(table, files.rows_between(table, None, None), plan, properties)
        return _published(table, before, [None], change, given=sum(file.record_count for file in (*kept, *new)))


def read_days(
    settings: Settings,
    identifier: Identifier,
    first: date,
    last: date,
    columns: Sequence[str] | None = None,
    snapshot_id: int | None = None,
) -> pa.RecordBatchReader:
    """The rows of the days `first` to `last` (UTC, inclusive) of the partition column, at a snapshot (None: the newest).

    Streams: a few files are held in memory at a time. Days come in order; within a day rows come as their files hold them (derived
    tables: by time; published ones: as staged), so sort where it matters. Raises UnknownName for a table, snapshot or column there is not.
    """
    with connections.catalog(settings) as catalog:
        table = _existing(catalog, identifier)
        return scans.reader(table, files.rows_of_days(table, first, last), columns, snapshot_id)


def read_all(
    settings: Settings, identifier: Identifier, columns: Sequence[str] | None = None, snapshot_id: int | None = None
) -> pa.RecordBatchReader:
    """All rows of a table, at a snapshot (None: the newest); streams as `read_days` does."""
    with connections.catalog(settings) as catalog:
        return scans.reader(_existing(catalog, identifier), None, columns, snapshot_id)


def read_between(
    settings: Settings,
    identifier: Identifier,
    column: str,
    bounds: tuple[datetime | None, datetime],
    columns: Sequence[str] | None = None,
    snapshot_id: int | None = None,
) -> pa.RecordBatchReader:
    """The rows whose time in `column` is at or after the first of `bounds` (None: no limit) and before the second; streams as `read_days`.

    Only files are read that may hold such rows, by their partition or their statistics. Rows without that time are left out.
    """
    with connections.catalog(settings) as catalog:
        table = _existing(catalog, identifier)
        return scans.within(scans.reader(table, files.rows_within(column, bounds), columns, snapshot_id), column, bounds)


def contents(settings: Settings, identifier: Identifier, column: str, snapshot_id: int) -> list[Content]:
    """What the files of a table hold at a snapshot, read from its metadata: a digest, rows, and the bounds of the times in `column`."""
    with connections.catalog(settings) as catalog:
        table = _existing(catalog, identifier)
        return [files.content(table, column, file) for file in files.live_files(table, None, snapshot_id)]


def snapshot_id(settings: Settings, identifier: Identifier) -> int | None:
    """The newest snapshot of a table; None where nothing was ever written."""
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        return None if table is None else _snapshot(table)


def keep(settings: Settings, identifier: Identifier, snapshot_id: int, reason: str) -> None:
    """Keeps a snapshot from being expired for as long as the policy says (`tagged_age`), by a tag that names it.

    Raises UnknownName if there is no such table, LakeBusy if other writers always came first.
    """
    with connections.catalog(settings) as catalog:
        tag_snapshot(_existing(catalog, identifier), snapshot_id, f"{reason}-{snapshot_id}")


def days(settings: Settings, identifier: Identifier) -> list[date]:
    """The days that a table by day has rows of, in order; none where nothing was ever written."""
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        found = files.by_day(files.live_files(table)) if table is not None else {}
        return [day for day in found if day is not None]


def made_from(settings: Settings, identifier: Identifier, looked_at: Collection[date] = ()) -> tuple[int | None, Mapping[date, MadeFrom]]:
    """The newest snapshot of a derived table, and of each day whose rows are those that were written with a digest of their inputs, both.

    Of the days in `looked_at` every file is read and held against its seal: days with damaged files are left out. None and no day where
    nothing was ever written.
    """
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        if table is None:
            return None, {}
        live = files.by_day(files.live_files(table))
        noted = {name.removeprefix(INPUTS): text for name, text in table.properties.items() if name.startswith(INPUTS)}
        damaged_ones = damaged_days(table, [file for day, held in live.items() if day in looked_at for file in held])
        known = {day: text for day, text in ((date.fromisoformat(day), text) for day, text in noted.items()) if day not in damaged_ones}
        return _snapshot(table), {day: found for day, text in known.items() if (found := _made_from(table, text, live.get(day, [])))}


def _made_from(table: "Table", noted: str, live: "Sequence[DataFile]") -> MadeFrom | None:
    """What was noted of a day; None where it has other files since."""
    digest, _, _ = noted.rpartition(" ")
    if _noted(digest, files.digests(live)) != noted:
        return None
    nulls: Counter[str] = Counter()
    for file in live:
        nulls.update({table.schema().find_column_name(number) or "": count for number, count in (file.null_value_counts or {}).items()})
    return MadeFrom(digest=digest, rows=sum(file.record_count for file in live), nulls=nulls)


def _noted(digest: str | None, held: Sequence[str]) -> str | None:
    """What a table says of a day: the digest of its inputs, and one of the files that came of them."""
    return None if digest is None else f"{digest} {files.digest_of_sources(held)[:16]}"


def held(settings: Settings, identifier: Identifier, first: date, last: date) -> Published:
    """What a table holds of the days `first` to `last` (UTC, inclusive), where nothing has to change."""
    with connections.catalog(settings) as catalog:
        table = _existing(catalog, identifier)
        found = _published(table, _snapshot(table), days_between(first, last), Change(remove=(), add=()), given=0)
        return replace(found, given=found.rows)


def versions_since(settings: Settings, identifier: Identifier) -> datetime | None:
    """Since when a cleaned table keeps all versions of its rows; None where it does for ever, or nothing was written yet."""
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        noted = None if table is None else table.properties.get(VERSIONS_SINCE)
        return None if noted is None else datetime.fromisoformat(noted)


def row_count(
    settings: Settings, identifier: Identifier, first: date | None = None, last: date | None = None, snapshot_id: int | None = None
) -> int:
    """How many rows a table holds (of the days `first` to `last`, if given), read from its metadata; 0 where nothing was ever written."""
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        if table is None:
            return 0
        rows = None if first is None or last is None else files.rows_of_days(table, first, last)
        return sum(file.record_count for file in files.live_files(table, rows, snapshot_id))


def rows_by_day(
    settings: Settings, identifier: Identifier, days: tuple[date | None, date | None] = (None, None), snapshot_id: int | None = None
) -> dict[date | None, int]:
    """The rows of each day that a table has any of, from the first to the last (UTC, inclusive; None: all), read from its metadata.

    Those of a table without days stand under None.
    """
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        found = {} if table is None else files.by_day(files.live_files(table, files.rows_between(table, *days), snapshot_id))
        return {day: sum(file.record_count for file in own) for day, own in found.items()}


def _publish(settings: Settings, contract: Contract, days: Sequence[date | None]) -> Published:
    manifests = staging.read_manifests(settings, contract.name, [staging.partition_of(day) for day in days])
    staged = dict(zip(days, manifests, strict=True))
    with connections.catalog(settings) as catalog:
        table = table_for_contract(catalog, contract, by_day=days[0] is not None)
        first, last = days[0], days[-1]
        rows = files.rows_between(table, first, last)
        known: dict[str, DataFile] = {}
        looked_at, broken = set[str](), dict[str, ObjectDamaged]()

        def plan(table: "Table") -> Change:
            live = files.by_day(files.live_files(table, rows))
            same = {day: own for day in days if _are_same(own := live.get(day, []), _paths(staged[day]))}
            # All days at once, and no file again where another writer was faster and this is planned anew.
            asked = [file for own in same.values() for file in own if file.file_path not in looked_at]
            broken.update(damaged(table, asked))
            looked_at.update(file.file_path for file in asked)
            new = {day: paths for day in days if _are_due(same.get(day), paths := _paths(staged[day]), broken)}
            there = {file.file_path for day in new for file in live.get(day, [])}
            entering = {path: day for day, paths in new.items() for path in paths if path not in there}
            read = files.data_files(table, {path: day for path, day in entering.items() if path not in known})
            known.update((file.file_path, file) for file in read)
            leaving = [file for day, paths in new.items() for file in live.get(day, []) if file.file_path not in set(paths)]
            return Change(remove=leaving, add=[known[path] for path in entering])

        before = _snapshot(table)
        change = replace_files(table, rows, plan)
        return _published(table, before, days, change, given=sum(manifest.rows for manifest in manifests))


def _paths(manifest: staging.Manifest) -> list[str]:
    return [file.path for file in manifest.files if file.rows > 0]


def _are_same(live: "Sequence[DataFile]", paths: Sequence[str]) -> bool:
    """Whether live files are the staged ones, or what compaction made of exactly these."""
    found = {file.file_path for file in live}
    return found == set(paths) or (bool(found) and set(files.digests(live)) == {files.digest_of_sources(paths)})


def _are_due(same: "Sequence[DataFile] | None", paths: Sequence[str], broken: Mapping[str, ObjectDamaged]) -> bool:
    """Whether staged files are to be published: there are no live files that are the same, or one of these is damaged.

    Raises ObjectDamaged where it is a staged file that is damaged.
    """
    damaged_ones = [file.file_path for file in same or () if file.file_path in broken]
    for path in set(paths) & {*damaged_ones}:
        raise broken[path]
    return same is None or bool(damaged_ones)


def _existing(catalog: "Catalog", identifier: Identifier) -> "Table":
    table = open_table(catalog, identifier)
    if table is None:
        raise UnknownName("lake table", ".".join(identifier), [".".join(known.name()) for known in tables_of(catalog, identifier[0])])
    return table


def _snapshot(table: "Table") -> int | None:
    current = table.current_snapshot()
    return None if current is None else current.snapshot_id


def _published(table: "Table", before: int | None, days: Sequence[date | None], change: Change, *, given: int) -> Published:
    everything, asked = files.live_files(table), set(days)
    held = [file for file in everything if files.day_of(file) in asked]
    return Published(
        identifier=(table.name()[0], table.name()[1]),
        location=table.location(),
        snapshot_before=before,
        snapshot_after=_snapshot(table),
        given=given,
        rows=sum(file.record_count for file in held),
        files=len(held),
        bytes=sum(file.file_size_in_bytes for file in held),
        days=len(asked - {None}),
        changed=len({files.day_of(file) for file in (*change.remove, *change.add)}),
        table_rows=sum(file.record_count for file in everything),
    )
