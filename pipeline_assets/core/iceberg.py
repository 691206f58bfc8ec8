"""Iceberg tables that follow their declaration: created from it, extended with it, never changed against it.

Shared by the rooms that write to the lake's catalog: the landed and typed tables of streams, and the tables of the lake.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import stamina

from pipeline_assets.core import held_metadata
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.errors import SchemaConflict
from pipeline_assets.core.names import CATALOG
from pipeline_assets.core.seals import ALL_SEALED
from pipeline_assets.core.settings import LakeSettings
from pipeline_assets.spec.contracts import Field, FieldType

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestEntry, ManifestFile
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.table.snapshots import Snapshot
    from pyiceberg.types import PrimitiveType

T = TypeVar("T")
Identifier = tuple[str, str]
# What contracts know, the two types more of what Kafka Connect lands, and the one of cleaned tables.
ColumnType = FieldType | Literal["binary", "int", "date"]

# Of tables that this project alone writes to (`core.sealed_files`).
SEALED = {ALL_SEALED: "true"}
# Short waits: a commit takes about 50 ms, so a writer that lost the race should not sleep for long. Old metadata files are dropped by the
# commit that displaces them. Manifests are merged by maintenance, which asks for it by these two properties.
PROPERTIES = {
    "write.parquet.compression-codec": "zstd",
    "commit.retry.num-retries": "8",
    "commit.retry.min-wait-ms": "20",
    "commit.retry.max-wait-ms": "1000",
    "commit.retry.total-timeout-ms": "60000",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "2",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column as a declaration wants it; `digits` are those of a decimal: how many in all, and how many after the point."""

    name: str
    type: ColumnType
    required: bool
    doc: str = ""
    digits: tuple[int, int] = (0, 0)


def column_of(field: Field) -> Column:
    """The column of a field of a contract."""
    digits = (field.precision or 0, field.scale or 0)
    return Column(name=field.name, type=field.type, required=field.required, doc=field.description, digits=digits)


def open_table(catalog: "Catalog", identifier: Identifier) -> "Table | None":
    """The table as it is, or None where nothing was ever written."""
    from pyiceberg.exceptions import NoSuchTableError

    try:
        return catalog.load_table(identifier)
    except NoSuchTableError:
        return None


def planned(table: "Table", rows: "BooleanExpression | str | None" = None, snapshot_id: int | None = None) -> "Iterable[FileScanTask]":
    """What must be read for `rows` (None: all) at a snapshot (None: the newest), in no order; none where nothing was written."""
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.manifest import ManifestContent
    from pyiceberg.table import FileScanTask, ManifestGroupPlanner

    snapshot = table.scan(snapshot_id=snapshot_id).snapshot()
    manifests = [] if snapshot is None else manifests_of(table, snapshot)
    planner = ManifestGroupPlanner(table.metadata, table.io, AlwaysTrue() if rows is None else rows)
    if any(manifest.content == ManifestContent.DELETES for manifest in manifests):
        return planner.plan_files(manifests)
    # Three quarters of pyiceberg's plan is what is left of the filter for each file, which nothing here asks for.
    return (FileScanTask(entry.data_file) for entries in planner.plan_manifest_entries(manifests) for entry in entries)


class _Held:
    """A manifest whose entries are not read again, for pyiceberg's plans."""

    def __init__(self, manifest: "ManifestFile") -> None:
        self._manifest = manifest

    def __getattr__(self, name: str) -> object:
        return getattr(self._manifest, name)

    def fetch_manifest_entry(self, io: "FileIO", discard_deleted: bool = True) -> "list[ManifestEntry]":  # noqa: FBT001, FBT002 - pyiceberg's
        """The entries of files, without those that say that a file is gone; raises ObjectDamaged where nothing can be made of them."""
        from pipeline_assets.core.decoding import decoding

        read = partial(self._manifest.fetch_manifest_entry, io, discard_deleted)
        with decoding(self._manifest.manifest_path):
            return held_metadata.HELD.of(self._manifest.manifest_path, read, len) if discard_deleted else read()


def manifests_of(table: "Table", snapshot: "Snapshot") -> "list[ManifestFile]":
    """The manifests of a snapshot, for plans: neither their list nor what they hold is read again while this process holds it.

    Raises ObjectDamaged where nothing can be made of the list.
    """
    from pipeline_assets.core.decoding import decoding

    with decoding(snapshot.manifest_list):
        found = held_metadata.HELD.of(snapshot.manifest_list, partial(snapshot.manifests, table.io), len)
    return cast("list[ManifestFile]", list(map(_Held, found)))


def snapshots_since(table: "Table", after: int | None) -> "list[Snapshot] | None":
    """The snapshots after one, the newest first (None: all). None if that one is no ancestor of the newest, or no longer known to be."""
    found = []
    snapshot = table.current_snapshot()
    while snapshot is not None and snapshot.snapshot_id != after:
        found.append(snapshot)
        if snapshot.parent_snapshot_id is None:
            return found if after is None else None
        snapshot = table.snapshot_by_id(snapshot.parent_snapshot_id)
    return None if snapshot is None else found


def tables_of(catalog: "Catalog", namespace: str) -> "list[Table]":
    """All tables of a namespace, by name; none where nothing was ever written."""
    from pyiceberg.exceptions import NoSuchNamespaceError

    try:
        return [catalog.load_table(identifier) for identifier in sorted(catalog.list_tables(namespace))]
    except NoSuchNamespaceError:
        return []


def metadata_of(settings: LakeSettings, namespace: str) -> dict[str, str]:
    """Where the newest metadata of each table of a namespace is, by name: another place after each commit. One query, no file is read."""
    from sqlalchemy import text

    query = text("select table_name, metadata_location from iceberg_tables where catalog_name = :catalog and table_namespace = :namespace")
    with catalog(settings).engine.connect() as connection:
        rows = connection.execute(query, {"catalog": CATALOG, "namespace": namespace})
        return {str(row.table_name): str(row.metadata_location) for row in rows}


def while_unchanged(settings: LakeSettings, tables: Iterable[Identifier], about: str, read: Callable[[], T]) -> T:
    """What `read` gives of some tables; as long as nobody has committed to any of them, what it gave before to the same process.

    about: what is read, by which nothing else is called. A look at tables that have not changed costs one query for each namespace.
    """
    wanted = set(tables)
    places = {
        (namespace, name): place
        for namespace in sorted({namespace for namespace, _ in wanted})
        for name, place in metadata_of(settings, namespace).items()
        if (namespace, name) in wanted
    }
    # Asked before they are read: what is committed meanwhile is another place at the next look.
    return held_metadata.HELD.of(f"{about} {sorted(places.items())}", read, lambda _: 1)


def time_column(table: "Table") -> str | None:
    """The column whose UTC day partitions the table; None if it has no partitions."""
    fields = table.spec().fields
    return table.schema().find_field(fields[0].source_id).name if fields else None


def open_or_create(
    catalog: "Catalog",
    identifier: Identifier,
    columns: Sequence[Column],
    day_of: str | None,
    key: Sequence[str] = (),
    properties: Mapping[str, str] = MappingProxyType({}),
) -> "Table":
    """The table, created with these columns where there is none; partitioned by the UTC day of `day_of` (None: not).

    key: the columns that identify a row, kept as such where all are required. Raises SchemaConflict if the partitioning differs.
    """
    from pyiceberg.exceptions import TableAlreadyExistsError

    table = open_table(catalog, identifier)
    if table is None:
        _make_namespace(catalog, identifier[0])
        schema = _schema(columns, key)
        made_with = {**PROPERTIES, **properties, "schema.name-mapping.default": schema.name_mapping.model_dump_json()}
        try:
            table = catalog.create_table(identifier, schema, partition_spec=_by_day(schema, day_of), properties=made_with)
        except TableAlreadyExistsError:  # another writer was faster
            table = catalog.load_table(identifier)
    present = time_column(table)
    if present != day_of:
        problem = f"partitions by day the {'declaration' if day_of else 'table'} alone"
        raise SchemaConflict(".".join(identifier), {day_of or present or "": problem})
    return table


def _make_namespace(catalog: "Catalog", namespace: str) -> None:
    from sqlalchemy.exc import IntegrityError

    try:
        catalog.create_namespace_if_not_exists(namespace)
    except IntegrityError:  # another writer was faster
        if not catalog.namespace_exists(namespace):
            raise


@cache
def _plain_types() -> "Mapping[ColumnType, PrimitiveType]":
    from pyiceberg import types

    return {
        "string": types.StringType(),
        "integer": types.LongType(),
        "number": types.DoubleType(),
        "boolean": types.BooleanType(),
        "timestamp": types.TimestamptzType(),
        "binary": types.BinaryType(),
        "int": types.IntegerType(),
        "date": types.DateType(),
    }


def _type(column: Column) -> "PrimitiveType":
    from pyiceberg.types import DecimalType

    return DecimalType(*column.digits) if column.type == "decimal" else _plain_types()[column.type]


def _schema(columns: Sequence[Column], key: Sequence[str]) -> "Schema":
    from pyiceberg.schema import Schema
    from pyiceberg.types import NestedField

    fields = [
        NestedField(position, column.name, _type(column), required=column.required, doc=column.doc or None)
        for position, column in enumerate(columns, start=1)
    ]
    ids = [field.field_id for field in fields if field.name in key and field.required]
    return Schema(*fields, identifier_field_ids=ids if len(ids) == len(key) else [])


def _by_day(schema: "Schema", column: str | None) -> "PartitionSpec":
    from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
    from pyiceberg.transforms import DayTransform

    if column is None:
        return PartitionSpec()
    source = schema.find_field(column).field_id
    return PartitionSpec(PartitionField(source, PARTITION_FIELD_ID_START, DayTransform(), f"{column}_day"))


def follow(table: "Table", wanted: Sequence[Column], dropped: Sequence[str]) -> "Table":
    """The table with all wanted columns; raises SchemaConflict for one that cannot be had, and for every one that was `dropped`."""
    from pyiceberg.exceptions import CommitFailedException

    for attempt in stamina.retry_context(on=CommitFailedException, attempts=5, wait_initial=0.02, wait_max=0.5, wait_jitter=0.05):
        with attempt:
            if attempt.num > 1:
                table.refresh()
            problems = dict.fromkeys(dropped, "is gone from the declaration") | _conflicts(table, wanted)
            if problems:
                raise SchemaConflict(".".join(table.name()), problems)
            _extend(table, wanted)
    return table


def _conflicts(table: "Table", wanted: Sequence[Column]) -> dict[str, str]:
    present = {field.name: field for field in table.schema().fields}
    problems = {}
    for column in wanted:
        field = present.get(column.name)
        if field is None:
            if column.required:
                problems[column.name] = "is new and required, but older rows have no value for it"
        elif field.field_type != _type(column):
            problems[column.name] = f"is {_type(column)}, but {field.field_type} in the table"
        elif column.required and field.optional:
            problems[column.name] = "is required, but older rows may hold null"
    return problems


def _extend(table: "Table", wanted: Sequence[Column]) -> None:
    present = {field.name: field for field in table.schema().fields}
    new = [column for column in wanted if column.name not in present]
    freed = [column for column in wanted if column.name in present and present[column.name].required and not column.required]
    retold = [column for column in wanted if column.name in present and column.doc and present[column.name].doc != column.doc]
    if not (new or freed or retold):
        return
    with table.update_schema() as update:
        for column in new:
            update.add_column(column.name, _type(column), doc=column.doc or None)
        for column in freed:
            update.make_column_optional(column.name)
        for column in retold:
            update.update_column(column.name, doc=column.doc)
