"""Which files of a folder were read, by their path: what was seen of each, and the digest of the content that was read.

The index is an object beside the staged files, and the manifest that was staged with it names it: so both become visible at once. It has
some 60 bytes for each file that was ever there, packed; a file that is gone stays in it, as it may come again under another name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import pyarrow as pa

from pipeline_assets.core.sealed_objects import SEALED_PARQUET, sealed
from pipeline_assets.ingestion.batch.files import FoundFile
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.partitions import INDEX, Manifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("changed_at", pa.timestamp("us", "UTC")), ("digest", pa.binary(32))])


class Indexed(NamedTuple):
    """A file as it was when it was read."""

    size: int
    changed_at: datetime
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class FileIndex:
    """The files that were read, by path."""

    files: Mapping[str, Indexed] = field(default_factory=dict)

    def has(self, file: FoundFile) -> bool:
        """Whether a file is as it was when it was read, by its size and the time of its last change."""
        known = self.files.get(file.path)
        return known is not None and (known.size, known.changed_at) == (file.size, file.changed_at)

    def unread(self, files: Iterable[FoundFile], now: datetime) -> list[FoundFile]:
        """The files that are not as they were when they were read, and that nobody writes to any more, by the time of their last change."""
        found = (file for file in files if file.is_settled(now) and not self.has(file))
        return sorted(found, key=lambda file: (file.changed_at, file.path))


def read_index(client: "S3Client", bucket: str, manifest: Manifest | None) -> FileIndex:
    """The index that a manifest names; empty where it names none."""
    import pyarrow.parquet as pq

    if manifest is None or INDEX not in manifest.made_from:
        return FileIndex()
    rows = pq.read_table(staging.read_path(client, bucket, manifest.made_from[INDEX]), schema=SCHEMA)
    columns = [rows.column(name).to_pylist() for name in SCHEMA.names]
    return FileIndex(files={path: Indexed(*seen) for path, *seen in zip(*columns, strict=True)})


def write_index(client: "S3Client", bucket: str, contract_name: str, index: FileIndex) -> str:
    """Writes an index beside the staged files; returns its path, without which nobody sees it."""
    import pyarrow.parquet as pq

    rows = [{"path": path, **seen._asdict()} for path, seen in sorted(index.files.items())]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd")
    key = f"{staging.folder(contract_name, staging.partition_of(None))}/{uuid4().hex}.index{SEALED_PARQUET}"
    client.put_object(Bucket=bucket, Key=key, Body=sealed(sink.getvalue(), key))
    return f"{staging.SCHEME}{bucket}/{key}"
