"""The audit of the lake: every object of every table, and of every staged partition, is there and is what was written."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

from pipeline_assets.core import connections, names
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.decoding import decoding
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.sealed_files import SealedFileIO
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.processing.lake import files
from pipeline_assets.processing.lake.intact import OBJECTS_AT_ONCE, damaged_objects
from pipeline_assets.processing.lake.newer import newer_metadata

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table

Entry = TypeVar("Entry")
NAMESPACES = (names.LANDED, names.TYPED, names.LAKE, names.CLEANED, names.FEATURES, names.FEATURE_STORE)
STAGED = names.staged("")[0]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One data file in `of` is looked at: those of a `turn`, which together are all of them after `of` turns."""

    of: int = 1
    turn: int = 0

    @classmethod
    def on(cls, day: date, of: int) -> "Sample":
        """The sample whose turn it is on a day."""
        return cls(of=of, turn=day.toordinal() % of)

    def has(self, path: str) -> bool:
        """Whether a data file is looked at."""
        return crc32(path.encode()) % self.of == self.turn


WHOLE = Sample()


@dataclass(frozen=True, kw_only=True)
class LakeVerdict:
    """What the audit found of a table, or of the staged partitions of a contract: how many objects it looked at, and which are damaged.

    `days` are those whose present rows are damaged, `problems` has a sentence of each damaged object that a read of the newest rows needs;
    `old` counts those that reads of earlier snapshots alone need.
    """

    table: str
    objects: int
    days: Sequence[str] = ()
    problems: Sequence[str] = ()
    old: int = 0


def audit_lake(
    settings: Settings, sample: Sample = WHOLE, *, asked: str | None = None, namespaces: Sequence[str] = NAMESPACES
) -> Iterator[LakeVerdict]:
    """A verdict of each table of these namespaces, or of the one that is `asked` for as `<namespace>.<name>`.

    What is staged of each contract is audited with the published tables, as `staged.<contract>`. Metadata are looked at always, data files
    as far as they are in the sample. Nothing is written. Raises UnknownName if there is no such table.
    """
    with connections.catalog(settings) as catalog:
        tables = {".".join(identifier): identifier for identifier in _tables(catalog, namespaces)}
        contracts = {f"{STAGED}.{name}": name for name in (_staged_contracts(settings) if names.LAKE in namespaces else ())}
        if asked is not None and asked not in {*tables, *contracts}:
            raise UnknownName("lake table", asked, [*tables, *contracts])
        client = connections.object_store(settings)
        for name, identifier in tables.items():
            if asked in (None, name):
                yield _beside_newer(client, catalog, identifier, _table(catalog, identifier, sample))
        for name, contract in contracts.items():
            if asked in (None, name):
                yield _staged(settings, SealedFileIO(catalog.properties), contract, sample)


def _tables(catalog: "Catalog", namespaces: Sequence[str]) -> Iterator[tuple[str, str]]:
    for namespace in namespaces:
        if catalog.namespace_exists(namespace):
            yield from sorted((found[0], found[1]) for found in catalog.list_tables(namespace))


def _table(catalog: "Catalog", identifier: tuple[str, str], sample: Sample) -> LakeVerdict:
    name = ".".join(identifier)
    try:
        # A catalog of pyiceberg's own does not say which object it is that nothing can be made of; each below is looked at by its name.
        with decoding("/".join((names.LAKE, *identifier, "metadata"))):
            table = catalog.load_table(identifier)
            live = {file.file_path for file in files.live_files(table)}
    except ObjectDamaged as error:
        return LakeVerdict(table=name, objects=1, problems=[str(error)])
    metadata, old_rows, damaged = _named(table, live)
    looked_at = list(filter(sample.has, (*live, *old_rows)))
    return _verdict(name, len(metadata) + len(looked_at), damaged | damaged_objects(table.io, looked_at), live)


def _beside_newer(client: "S3Client", catalog: "Catalog", identifier: tuple[str, str], found: LakeVerdict) -> LakeVerdict:
    """What was found of a table, and that its catalog is older than it; a table whose metadata cannot be read is let be."""
    try:
        problem = newer_metadata(client, catalog.load_table(identifier))
    except ObjectDamaged:
        return found
    return found if problem is None else replace(found, problems=[problem, *found.problems])


def _named(table: "Table", live: set[str]) -> tuple[set[str], set[str], dict[str, ObjectDamaged]]:
    """The metadata of all snapshots, each read once, what of them is damaged, and the data files that the newest snapshot does not have."""
    damaged = dict[str, ObjectDamaged]()

    def read(path: str, entries: Callable[["FileIO"], list[Entry]]) -> list[Entry]:
        try:
            with decoding(path):
                return entries(table.io)
        except ObjectDamaged as error:
            damaged[path] = error
            return []

    def rows_of(manifest: "ManifestFile") -> set[str]:
        return {entry.data_file.file_path for entry in read(manifest.manifest_path, manifest.fetch_manifest_entry)}

    snapshots = {snapshot.manifest_list: snapshot for snapshot in table.snapshots()}
    with ThreadPoolExecutor(OBJECTS_AT_ONCE) as pool:
        lists = pool.map(lambda snapshot: read(snapshot.manifest_list, snapshot.manifests), snapshots.values())
        manifests = {manifest.manifest_path: manifest for found in lists for manifest in found}
        rows = set[str]().union(*pool.map(rows_of, manifests.values()))
    return {table.metadata_location, *snapshots, *manifests}, rows - live, damaged


def _verdict(name: str, objects: int, damaged: dict[str, ObjectDamaged], live: set[str]) -> LakeVerdict:
    present = [damaged[path] for path in sorted(damaged) if path in live]
    days = sorted({error.day for error in present if error.day is not None})
    problems = [str(error) for error in present]
    return LakeVerdict(table=name, objects=objects, days=days, problems=problems, old=len(damaged) - len(present))


def _staged_contracts(settings: Settings) -> list[str]:
    return sorted({key.split("/")[1] for key in staging.manifest_keys(settings)})


def _staged(settings: Settings, store: "FileIO", contract: str, sample: Sample) -> LakeVerdict:
    client, manifests = connections.object_store(settings), list(staging.manifest_keys(settings, contract))
    damaged, paths = list[ObjectDamaged](), list[str]()
    for key in manifests:
        try:
            manifest = staging.manifest_from(client, settings.s3_bucket, contract, key.split("/")[2])
        except ObjectDamaged as error:
            damaged.append(error)
        else:
            paths += () if manifest is None else manifest.paths
    looked_at = list(filter(sample.has, paths))
    damaged += damaged_objects(store, looked_at).values()
    days = sorted({error.day for error in damaged if error.day is not None})
    objects = len(manifests) + len(looked_at)
    return LakeVerdict(table=f"{STAGED}.{contract}", objects=objects, days=days, problems=list(map(str, damaged)))
