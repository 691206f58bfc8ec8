"""Iceberg catalogs that a process keeps: to open one takes three times as long as to ask it for a table.

A new one connects, has a password checked, and looks for its own tables and their version; a run opens dozens.
"""

import atexit
from collections import OrderedDict
from collections.abc import Mapping
from os import getpid
from threading import Lock

from pyiceberg.catalog.sql import SqlCatalog
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError, ProgrammingError

# A process works with one; some tests change between two.
MOST = 2

_kept: "OrderedDict[tuple[object, ...], KeptCatalog]" = OrderedDict()
_lock = Lock()


class KeptCatalog(SqlCatalog):
    """A catalog whose connections stay open when a caller is done with it."""

    def close(self) -> None:
        """Leaves them for the next caller."""


def kept_catalog(name: str, properties: Mapping[str, str]) -> SqlCatalog:
    """The catalog with these properties, connected: the one of the last call where it had the same.

    Raises what SQLAlchemy raises where the server does not answer. Any number of threads may ask, and use it. A process that forked opens
    its own.
    """
    key = (name, getpid(), *sorted(properties.items()))
    with _lock:
        found = _kept.pop(key, None)
        if found is None:
            found = KeptCatalog(name, **properties, pool_pre_ping="true")
            _make_tables(found)
        else:
            found.engine.connect().close()  # a connection that the server has closed is found here, and opened again
        _kept[key] = found
        while len(_kept) > MOST:
            _kept.popitem(last=False)[1].engine.dispose()
    return found


@atexit.register
def _close() -> None:
    """Closes them when the process ends."""
    while _kept:
        _kept.popitem()[1].engine.dispose()


def _make_tables(lake: SqlCatalog) -> None:
    """The catalog's own tables, made at its first use; left to itself pyiceberg fails where two processes are the first."""
    if inspect(lake.engine).has_table("iceberg_tables"):
        return
    try:
        lake.create_tables()
    except (IntegrityError, ProgrammingError):  # another process was faster
        if not inspect(lake.engine).has_table("iceberg_tables"):
            raise
