"""Iceberg catalogs that a process keeps: to open one takes three times as long as to ask it for a table.

A new one connects, has a password checked, and looks for its own tables and their version; a run opens dozens.
"""

import atexit
from collections import OrderedDict
from collections.abc import Mapping
from os import register_at_fork
from threading import Lock

from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError, ProgrammingError

from pipeline_assets.core import held_metadata
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.decoding import decoding
from pipeline_assets.core.foreign import shown
from pipeline_assets.core.names import LAKE

# A process works with one; some tests change between two.
MOST = 2

_kept: "OrderedDict[tuple[object, ...], KeptCatalog]" = OrderedDict()
# Of the dictionary alone: nobody waits for a server with it.
_lock = Lock()


class KeptCatalog(SqlCatalog):
    """A catalog whose connections stay open when a caller is done with it, and that decodes the metadata of a table once."""

    def close(self) -> None:
        """Leaves them for the next caller."""

    def _convert_orm_to_iceberg(self, orm_table: IcebergTables) -> Table:
        """As pyiceberg, which asks for no more than this; the row of the catalog has been read, and says which metadata is the newest.

        Raises ObjectDamaged where it names no object in the table's own folder of metadata, or nothing can be made of that.
        """
        location, read = str(orm_table.metadata_location), super()._convert_orm_to_iceberg
        own, (folder, _, name) = f"/{orm_table.table_namespace}/{orm_table.table_name}/metadata", location.rpartition("/")
        if not (folder.endswith(own) and name):
            raise ObjectDamaged(f"{LAKE}{own}", f"is not where the catalog points ({shown(location)})")
        with decoding(location):
            metadata = held_metadata.HELD.of(location, lambda: read(orm_table).metadata, _size)
        return Table(
            identifier=(*self.identifier_to_tuple(orm_table.table_namespace), orm_table.table_name),
            metadata=metadata,
            metadata_location=location,
            io=self._load_file_io(metadata.properties, location),
            catalog=self,
        )


def _size(metadata: TableMetadata) -> int:
    return len(metadata.properties) + len(metadata.snapshots)


def kept_catalog(name: str, properties: Mapping[str, str]) -> SqlCatalog:
    """The catalog with these properties, connected: the one of the last call where it had the same.

    Raises what SQLAlchemy raises where the server does not answer. Any number of threads may ask, and use it. A process that forked opens
    its own.
    """
    key = (name, *sorted(properties.items()))
    with _lock:
        found = _kept.get(key)
    if found is None:
        found = _keep(key, _opened(name, properties))
    else:
        found.engine.connect().close()  # a connection that the server has closed is found here, and opened again
    return found


def _opened(name: str, properties: Mapping[str, str]) -> KeptCatalog:
    found = KeptCatalog(name, **properties, pool_pre_ping="true")
    try:
        _make_tables(found)
    except BaseException:
        found.engine.dispose()
        raise
    return found


def _keep(key: tuple[object, ...], opened: KeptCatalog) -> KeptCatalog:
    """The one that is kept from now on: that of a thread that was faster, or this one."""
    with _lock:
        kept = _kept.setdefault(key, opened)
        surplus = [_kept.popitem(last=False)[1] for _ in range(len(_kept) - MOST)]
    for one in (*surplus, *([opened] if kept is not opened else [])):
        one.engine.dispose()
    return kept


@atexit.register
def _close() -> None:
    """Closes them when the process ends."""
    while _kept:
        _kept.popitem()[1].engine.dispose()


def _forget() -> None:
    """In a process that forked: its connections are its parent's, who goes on with them."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have had it
    _lock = Lock()
    while _kept:
        _kept.popitem()[1].engine.dispose(close=False)


register_at_fork(after_in_child=_forget)


def _make_tables(lake: SqlCatalog) -> None:
    """The catalog's own tables, made at its first use; left to itself pyiceberg fails where two processes are the first."""
    if inspect(lake.engine).has_table("iceberg_tables"):
        return
    try:
        lake.create_tables()
    except (IntegrityError, ProgrammingError):  # another process was faster
        if not inspect(lake.engine).has_table("iceberg_tables"):
            raise
