"""Whether the objects of a table are there and what was written: each is fetched and held against its seal.

Of an object without one, as Kafka Connect writes them, less can be said: a Parquet file is read to its end with the checksums of its pages,
and of metadata whether anything can be made of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import connections, seals
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.iceberg import Identifier, open_table
from pipeline_assets.core.sealed_objects import PARQUET
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.lake import files

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

# What is held in memory of large objects is on the disk; of small ones so many are.
OBJECTS_AT_ONCE = 8


def damaged(table: "Table", asked: "Iterable[DataFile]") -> Mapping[str, ObjectDamaged]:
    """The damaged ones among data files of a table, by their paths, each as what a reader of it would raise."""
    return damaged_objects(table.io, [file.file_path for file in asked])


def damaged_days(table: "Table", live: "Sequence[DataFile]") -> set[date]:
    """The days of the damaged ones among data files of a table by day."""
    found = damaged(table, live)
    return {day for file in live if file.file_path in found and (day := files.day_of(file)) is not None}


def damaged_days_of(settings: Settings, identifier: Identifier, first: date, last: date) -> set[date]:
    """The days from `first` to `last` (UTC, inclusive) whose live files are damaged; none where nothing was ever written."""
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        return set() if table is None else damaged_days(table, files.live_files(table, files.rows_of_days(table, first, last)))


def is_damaged(settings: Settings, identifier: Identifier) -> bool:
    """Whether a live file of a table is damaged; not where nothing was ever written."""
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        return table is not None and bool(damaged(table, files.live_files(table)))


def damaged_objects(store: "FileIO", paths: Iterable[str]) -> dict[str, ObjectDamaged]:
    """The damaged ones among some objects, by their paths."""

    def look(path: str) -> ObjectDamaged | None:
        try:
            with store.new_input(path).open() as stream:
                opened: pa.NativeFile = stream
                if path.endswith(PARQUET) and not seals.is_sealed_parquet(opened.read_buffer()):
                    _read_to_its_end(opened, path)
                return None
        except ObjectDamaged as error:
            return error

    asked = list(paths)
    with ThreadPoolExecutor(OBJECTS_AT_ONCE) as pool:
        found = zip(asked, pool.map(look, asked), strict=True)
        return {path: error for path, error in found if error is not None}


def _read_to_its_end(opened: pa.NativeFile, path: str) -> None:
    """Raises ObjectDamaged for a Parquet file in memory that cannot be read, or a page of which has another checksum."""
    try:
        for _ in pq.ParquetFile(opened, page_checksum_verification=True).iter_batches():
            continue
    except (OSError, pa.ArrowException) as error:
        raise ObjectDamaged(path, f"cannot be read ({error})") from error
