"""Files of the lake that nothing refers to any more: those that a job let go of are deleted, others are named where they hold rows.

A file that nothing refers to may be about to be committed by a run, so one that is no job's goes once it is as old as maintenance asks for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.forgetting.inventory import Stores, rows_of
from pipeline_assets.forgetting.lake import RowsOf
from pipeline_assets.forgetting.ledger import Job
from pipeline_assets.forgetting.places import Places, PlainRows, lake_tables
from pipeline_assets.forgetting.staged import partitions_of
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.processing.lake.policy import POLICY
from pipeline_assets.processing.lake.sweep import named_by

BOUNDS = ("lower_bounds", "upper_bounds")
DATA, MANIFEST, LIST = ".parquet", ".avro", "snap-"

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, kw_only=True)
class _Unnamed:
    """A file that nothing refers to, and which of its rows would be the entity's."""

    key: str
    age_seconds: float
    rows: RowsOf


def delete_leftovers(stores: Stores, job: Job, places: Places) -> list[str]:
    """Deletes what a job let go of, and old files that hold rows of the entity; the paths of young ones that are left."""
    client, bucket = object_store(stores.settings), stores.settings.s3_bucket
    named = _named(stores, client, bucket, places)
    for path in job.state.get("doomed", ()):
        if _key(bucket, path) not in named:
            client.delete_object(Bucket=bucket, Key=_key(bucket, path))
    left = []
    for file in _unnamed(stores, client, bucket, places, named):
        is_ours = any(name in file.key for name in job.state.get("commits", ()))
        if not (is_ours or _shows(client, bucket, file)):
            continue
        if is_ours or file.age_seconds >= POLICY.orphan_age.total_seconds():
            client.delete_object(Bucket=bucket, Key=file.key)
        else:
            left.append(f"s3://{bucket}/{file.key}")
    return left


def _named(stores: Stores, client: "S3Client", bucket: str, places: Places) -> set[str]:
    """The keys of all files that tables or manifests of staged partitions refer to."""
    named = {_key(bucket, path) for _, table in lake_tables(stores.lake) for path in named_by(table.refresh())}
    for contract in places.project.contracts:
        for partition in partitions_of(stores.settings, contract.name):
            manifest = staging.manifest_from(client, bucket, contract.name, partition)
            named |= {_key(bucket, path) for path in manifest.paths} if manifest is not None else set()
    return named


def _unnamed(stores: Stores, client: "S3Client", bucket: str, places: Places, named: set[str]) -> Iterator[_Unnamed]:
    prefixes: dict[str, RowsOf] = {}
    for identifier, table in lake_tables(stores.lake):
        prefixes[f"{_key(bucket, table.location())}/"] = rows_of(stores, places, identifier, only_typed=False)
    for contract in places.project.contracts:
        prefixes["/".join((*names.staged(contract.name), ""))] = PlainRows(match=places.of_contract(contract.name))
    now = datetime.now(UTC)
    for prefix, rows in prefixes.items():
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                if entry["Key"] not in named:
                    yield _Unnamed(key=entry["Key"], age_seconds=(now - entry["LastModified"]).total_seconds(), rows=rows)


def _shows(client: "S3Client", bucket: str, file: _Unnamed) -> bool:
    """Whether a file holds rows of the entity, or bounds that show its key."""
    name = file.key.rpartition("/")[2]
    if not (name.endswith(DATA) or (name.endswith(MANIFEST) and not name.startswith(LIST))):
        return False
    try:
        content = client.get_object(Bucket=bucket, Key=file.key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return False
    return _has_rows(content, file.rows) if name.endswith(DATA) else _has_bounds(content, file.rows)


def _has_rows(content: bytes, rows: RowsOf) -> bool:
    parquet = pq.ParquetFile(pa.BufferReader(content))
    columns = list(rows.columns(parquet.schema_arrow.names))
    return bool(columns) and any(rows.holds(parquet.read_row_group(number, columns)).any() for number in range(parquet.num_row_groups))


def _has_bounds(content: bytes, rows: RowsOf) -> bool:
    """Whether any bound of a manifest shows the key, of whichever column: the file may be of an older schema."""
    from fastavro import reader

    found: list[bytes] = []
    for entry in reader(BytesIO(content)):
        if isinstance(entry, Mapping):
            found += _bounds_of(entry.get("data_file") or {})
    return isinstance(rows, PlainRows) and rows.shows(dict.fromkeys(rows.match.columns, found))


def _bounds_of(file: Mapping[str, Any]) -> Sequence[bytes]:
    return [pair["value"] for name in BOUNDS for pair in file.get(name) or ()]


def _key(bucket: str, path: str) -> str:
    return path.removeprefix(f"s3://{bucket}/")
