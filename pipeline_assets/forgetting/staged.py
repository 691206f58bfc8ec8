"""Staged partitions without an entity's rows: files written anew, one at a time, and a manifest that names them."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store, warehouse
from pipeline_assets.core.settings import Settings
from pipeline_assets.forgetting.lake import Notes
from pipeline_assets.forgetting.matches import Match
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.partitions import Manifest, StagedFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def partitions_of(settings: Settings, contract: str) -> list[str]:
    """The partitions of a contract that were ever staged, in order."""
    prefix = "/".join(names.staged(contract)) + "/"
    pages = object_store(settings).get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket, Prefix=prefix)
    keys = (entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", ()))
    return sorted(key.split("/")[0] for key in keys if key.endswith(f"/{staging.MANIFEST}"))


def count(settings: Settings, contract: str, partition: str, match: Match) -> dict[str, int]:
    """The rows of an entity that a partition holds, by the path of each file that has any."""
    client = object_store(settings)
    manifest = staging.manifest_from(client, settings.s3_bucket, contract, partition)
    return {} if manifest is None else dict(_held(client, settings.s3_bucket, manifest, match))


def _held(client: "S3Client", bucket: str, manifest: Manifest, match: Match) -> Iterator[tuple[str, int]]:
    for file in manifest.files:
        parquet = pq.ParquetFile(pa.BufferReader(staging.read_file(client, bucket, file)))
        columns = list(match.within(parquet.schema_arrow.names).columns)
        rows = int(match.holds(parquet.read(columns=columns)).sum()) if columns else 0
        if rows:
            yield file.path, rows


def remove(settings: Settings, contract: str, partition: str, match: Match, notes: Notes) -> None:
    """Takes an entity's rows out of a partition, under the lock that its writers hold."""
    client, bucket = object_store(settings), settings.s3_bucket
    with closing(warehouse(settings)) as connection, quarantine.locked(connection, contract, partition):
        manifest = staging.manifest_from(client, bucket, contract, partition)
        held = {} if manifest is None else dict(_held(client, bucket, manifest, match))
        if manifest is None or not held:
            return
        parts = (_without(client, bucket, manifest, file, match) if file.path in held else [file] for file in manifest.files)
        files = [file for part in parts for file in part]
        notes.will_delete(held)
        made = replace(manifest, files=tuple(files), rows=sum(one.rows for one in files), bytes=sum(one.bytes for one in files))
        staging.publish(client, bucket, made)


def _without(client: "S3Client", bucket: str, manifest: Manifest, file: StagedFile, match: Match) -> list[StagedFile]:
    rows = pq.read_table(pa.BufferReader(staging.read_file(client, bucket, file)))
    kept = rows.filter(pa.array(~match.holds(rows))).combine_chunks()
    if not kept.num_rows:
        return []
    sink = pa.BufferOutputStream()
    with staging.parquet_writer(sink, kept.to_batches()[0]) as writer:
        writer.write_table(kept)
    return [staging.put_file(client, bucket, manifest.contract, manifest.partition, sink.getvalue(), kept.num_rows)]
