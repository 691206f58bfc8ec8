"""Rows taken out of an Iceberg table, and out of everything that it keeps of the past.

Files that hold such rows are written anew without them, a row group at a time, and put in their place in one commit; a second, empty commit
leaves behind the manifest that lists the files which went, as it has bounds of their columns. Then every snapshot that mentions such a
file is expired, whatever tag names it, and their files are deleted. Each step is its own and finds what is left to be done, so a kill
between two is made up for by doing it again; what is about to be deleted, and the names of commits, are noted before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import LakeBusy
from pipeline_assets.core.iceberg import manifests_of
from pipeline_assets.processing.lake import files as lake_files
from pipeline_assets.processing.lake.commits import RETRYING

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

FILES_AT_ONCE = 4
# What the sink of Kafka Connect notes of its commits, and looks for in those before.
OF_CONNECT = "kafka.connect."


class RowsOf(Protocol):
    """Which rows of a table are an entity's."""

    def columns(self, present: Sequence[str]) -> Sequence[str]:
        """What has to be read of a file with these columns; nothing where none of its rows can be the entity's."""

    def holds(self, rows: pa.Table) -> np.ndarray:
        """Which rows are the entity's, and may go."""

    def shows(self, bounds: Mapping[str, Sequence[bytes]]) -> bool:
        """Whether bounds of columns, as a manifest has them of a file that is gone, show the entity's key."""


class Notes(Protocol):
    """What has to be known after a kill."""

    def will_delete(self, paths: Iterable[str]) -> None:
        """Writes down files before what refers to them is gone."""

    def will_commit(self, name: str) -> None:
        """Writes down by which name the files of a commit are known."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What a table keeps: `rows` by the path of each file that holds rows of the entity, of all snapshots, and `live` those of the newest.

    `snapshots` mention such a file, or one that is gone and whose bounds show the key. `referenced` is every file of any snapshot.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    live: "Mapping[str, DataFile]" = field(default_factory=dict)
    snapshots: tuple[int, ...] = ()
    referenced: frozenset[str] = frozenset()

    @property
    def live_rows(self) -> int:
        """The rows of the newest snapshot."""
        return sum(self.rows.get(path, 0) for path in self.live)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is kept."""
        return not self.rows and not self.snapshots


def holding(table: "Table", rows_of: RowsOf, on_file: Callable[[], None] = lambda: None) -> Holding:
    """What a table keeps of an entity, read from all files of all its snapshots."""
    kept = _mentioned(table.refresh())
    known = sorted(kept.files)

    def counted(path: str) -> int | None:
        rows = _rows_in(table, path, rows_of)
        on_file()
        return rows

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        found = dict(zip(known, pool.map(counted, known), strict=True))
    held = {path: rows for path, rows in found.items() if rows}
    suspect = {path for path, rows in found.items() if rows or (rows is None and rows_of.shows(_bounds(table, kept.files[path])))}
    snapshots = tuple(number for number, paths in kept.by_snapshot.items() if suspect & paths)
    live = {path: kept.files[path] for path in held if path in kept.live}
    return Holding(rows=held, live=live, snapshots=snapshots, referenced=frozenset(known))


@dataclass(kw_only=True)
class _Mentioned:
    """The data files that manifests list, by path, also those that went with a snapshot; by snapshot, and those of the newest."""

    files: "dict[str, DataFile]" = field(default_factory=dict)
    by_snapshot: dict[int, set[str]] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)


def _mentioned(table: "Table") -> _Mentioned:
    from pyiceberg.manifest import ManifestEntryStatus

    found, current = _Mentioned(), table.current_snapshot()
    read: dict[str, list[tuple[bool, str]]] = {}
    for snapshot in table.snapshots():
        paths = found.by_snapshot.setdefault(snapshot.snapshot_id, set())
        for manifest in manifests_of(table, snapshot):
            if manifest.manifest_path not in read:
                entries = list(manifest.fetch_manifest_entry(table.io, discard_deleted=False))
                found.files |= {one.data_file.file_path: one.data_file for one in entries}
                read[manifest.manifest_path] = [(one.status != ManifestEntryStatus.DELETED, one.data_file.file_path) for one in entries]
            paths |= {path for _, path in read[manifest.manifest_path]}
            if current is not None and snapshot.snapshot_id == current.snapshot_id:
                found.live |= {path for is_live, path in read[manifest.manifest_path] if is_live}
    return found


def _bounds(table: "Table", file: "DataFile") -> dict[str, list[bytes]]:
    """The bounds of the columns of a file, by their names."""
    found: dict[str, list[bytes]] = {}
    for column in table.schema().fields:
        both = [(bounds or {}).get(column.field_id) for bounds in (file.lower_bounds, file.upper_bounds)]
        found[column.name] = [bound for bound in both if bound is not None]
    return found


def _rows_in(table: "Table", path: str, rows_of: RowsOf) -> int | None:
    """How many rows of a file are the entity's; None where the file is gone."""
    try:
        with table.io.new_input(path).open() as opened:
            return sum(int(held.sum()) for _, held in _groups(pq.ParquetFile(opened), rows_of))
    except ObjectDamaged as error:
        if not error.is_gone:
            raise
        return None


def _groups(parquet: pq.ParquetFile, rows_of: RowsOf) -> Iterator[tuple[int, np.ndarray]]:
    """The row groups of a file, each with which of its rows are the entity's."""
    columns = list(rows_of.columns(parquet.schema_arrow.names))
    for number in range(parquet.num_row_groups if columns else 0):
        yield number, rows_of.holds(parquet.read_row_group(number, columns=columns))


def remove(store: "S3FileSystem", table: "Table", rows_of: RowsOf, held: Holding, notes: Notes) -> int:
    """Takes the rows out of a table and of its past; how many snapshots were expired. `held` is what was found before.

    Raises LakeBusy if other writers always came first.
    """
    if held.is_clean:
        return 0
    if held.live:
        _replace(store, table, rows_of, held.live, notes)
    _commit(table, notes, None)
    return expire(table, held, notes)


def _replace(store: "S3FileSystem", table: "Table", rows_of: RowsOf, live: "Mapping[str, DataFile]", notes: Notes) -> None:
    written: dict[str, list[DataFile]] = {path: _without(store, table, file, rows_of) for path, file in live.items()}
    _commit(table, notes, written)


def _without(store: "S3FileSystem", table: "Table", file: "DataFile", rows_of: RowsOf) -> "list[DataFile]":
    """A file of the rows that stay, written and in no table yet; none where no row does."""
    sink, kept = pa.BufferOutputStream(), 0
    with table.io.new_input(file.file_path).open() as opened:
        parquet = pq.ParquetFile(opened)
        with pq.ParquetWriter(sink, parquet.schema_arrow, compression="zstd") as writer:
            for number, held in _groups(parquet, rows_of):
                rows = parquet.read_row_group(number).filter(pa.array(~held))
                kept += rows.num_rows
                if rows.num_rows:
                    writer.write_table(rows)
    if not kept:
        return []
    content, day = sink.getvalue(), lake_files.day_of(file)
    path = lake_files.new_path(table, day, lake_files.digest_of_bytes(memoryview(content)))
    return lake_files.describe(table, [lake_files.put(store, path, day, content)])


def _commit(table: "Table", notes: Notes, written: "Mapping[str, list[DataFile]] | None") -> None:
    """Puts files in the place of those by their paths, as far as they are live still; None: a commit without any file."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    def attempt() -> None:
        table.refresh()
        name = uuid4()
        notes.will_commit(str(name))
        if written is None:
            _append_nothing(table, name)
        else:
            _overwrite(table, name, written)

    try:
        RETRYING((CommitFailedException, ValidationException), attempt)
    except (CommitFailedException, ValidationException) as error:
        raise LakeBusy(".".join(table.name()), str(error)) from error


def _overwrite(table: "Table", name: UUID, written: "Mapping[str, list[DataFile]]") -> None:
    from pyiceberg.expressions import AlwaysTrue

    kept, noted = _mentioned(table), _of_connect(table)
    with table.transaction() as transaction, transaction.update_snapshot(snapshot_properties=noted).overwrite(name) as snapshot:
        # What the catalog's other commits are checked against.
        snapshot.delete_by_predicate(AlwaysTrue())
        for path, new in written.items():
            if path in kept.live:
                snapshot.delete_data_file(kept.files[path])
                for file in new:
                    snapshot.append_data_file(file)


def _append_nothing(table: "Table", name: UUID) -> None:
    with table.transaction() as transaction:
        snapshot = transaction.update_snapshot(snapshot_properties=_of_connect(table)).fast_append()
        snapshot.commit_uuid = name
        snapshot.commit()


def _of_connect(table: "Table") -> dict[str, str]:
    """What the newest commit of Kafka Connect notes in its snapshot, for those that come after it once that has expired."""
    snapshot = table.current_snapshot()
    while snapshot is not None:
        properties = {} if snapshot.summary is None else snapshot.summary.additional_properties
        found = {key: value for key, value in properties.items() if key.startswith(OF_CONNECT)}
        if found or snapshot.parent_snapshot_id is None:
            return found
        snapshot = table.snapshot_by_id(snapshot.parent_snapshot_id)
    return {}


def expire(table: "Table", held: Holding, notes: Notes) -> int:
    """Expires the snapshots that mention files of the entity, with the tags that name them, and notes what has to be deleted then."""
    from pyiceberg.exceptions import CommitFailedException

    def attempt() -> int:
        table.refresh()
        current = table.current_snapshot()
        newest = None if current is None else current.snapshot_id
        old = [one.snapshot_id for one in table.snapshots() if one.snapshot_id in held.snapshots and one.snapshot_id != newest]
        # Also those between, that a commit of ours made.
        mentioned = _mentioned(table).by_snapshot
        old += [number for number, paths in mentioned.items() if number not in (*old, newest) and paths & held.rows.keys()]
        if old:
            notes.will_delete([*held.rows, *_only_of(table, old)])
            _drop_tags(table, old)
            table.refresh().maintenance.expire_snapshots().by_ids(old).commit()
        return len(old)

    try:
        return RETRYING((CommitFailedException,), attempt)
    except CommitFailedException as error:
        raise LakeBusy(".".join(table.name()), str(error)) from error


def _only_of(table: "Table", old: Sequence[int]) -> set[str]:
    """The manifests, and their lists, that these snapshots alone refer to."""
    of_old, of_others = set[str](), set[str]()
    for snapshot in table.snapshots():
        named = {snapshot.manifest_list, *(manifest.manifest_path for manifest in manifests_of(table, snapshot))}
        (of_old if snapshot.snapshot_id in old else of_others).update(named)
    return of_old - of_others


def _drop_tags(table: "Table", old: Sequence[int]) -> None:
    from pyiceberg.table.refs import SnapshotRefType

    tags = [name for name, ref in table.refs().items() if ref.snapshot_id in old and ref.snapshot_ref_type == SnapshotRefType.TAG]
    if tags:
        with table.manage_snapshots() as manage:
            for name in tags:
                manage.remove_tag(name)
