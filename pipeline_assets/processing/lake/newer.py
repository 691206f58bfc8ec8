"""Metadata of a table that are newer than those that the catalog names: the catalog is older than the lake, as after a restore.

Nothing fails where that is so: the table is read as it was then. Writers number metadata from 0 on, one more with each commit, so those of
writers that lost a race, or were killed before they told the catalog, have the next number at most.
"""

import re
from typing import TYPE_CHECKING

from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.decoding import decoding
from pipeline_assets.processing.lake.sweep import listed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadata

# As pyiceberg and Iceberg's own library name them; `.gz` may be within.
NUMBERED = re.compile(r"(\d+)-[^/]+\.metadata\.json")


def newer_metadata(client: "S3Client", table: "Table") -> str | None:
    """A sentence that names the newest metadata of a table that the catalog has forgotten, and what to do; None where there are none.

    Those of another table that was there before under the same name do not count.
    """
    bucket, _, prefix = table.metadata_location.rpartition("/")[0].removeprefix("s3://").partition("/")
    numbered = [(_number(key), key) for key, _ in listed(client, bucket, [f"{prefix}/"])]
    # Asked after what is there was listed, so that what is committed meanwhile is no newer than this.
    known = _number(table.refresh().metadata_location)
    if known is None:
        return None
    later = sorted((number, key) for number, key in numbered if number is not None and number > known + 1)
    for number, key in reversed(later):
        found = _read(table, f"s3://{bucket}/{key}")
        if found is not None and found.table_uuid == table.metadata.table_uuid:
            return _sentence(table, (known, number))
    return None


def _number(path: str) -> int | None:
    found = NUMBERED.fullmatch(path.rpartition("/")[2])
    return None if found is None else int(found[1])


def _read(table: "Table", path: str) -> "TableMetadata | None":
    """Metadata of this or another table; None where nothing can be made of them, which says nothing of this one."""
    from pyiceberg.serializers import FromInputFile

    try:
        with decoding(path):
            return FromInputFile.table_metadata(table.io.new_input(path))
    except ObjectDamaged:
        return None


def _sentence(table: "Table", versions: tuple[int, int]) -> str:
    name, (known, newest) = ".".join(table.name()), versions
    return (
        f"{name}: the catalog names version {known} of its metadata, and the store has version {newest}: the catalog is older than the "
        f"lake, and so is what is read of the table. Restore the catalog; or materialize all days of {name.replace('.', '/', 1)} again."
    )
