"""Orphan files, which no snapshot and no manifest refers to: noted when first seen, deleted once they have been orphans for long enough.

A file may be an orphan because it is about to be committed: a run writes its files before it commits them, and a publication reads a
manifest before it commits the manifest's files. A reader may still be at a snapshot that was just expired. None of these lasts for a day,
so a file goes only if it was an orphan at two looks at least that far apart. The notes are one object on the store; losing it, or
a wrong bit in it, delays deletion.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from pipeline_assets.core import connections, names, sealed_json
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import StoreRefused
from pipeline_assets.core.iceberg import manifests_of, tables_of
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.staging import partitions as staging

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table

logger = logging.getLogger(__name__)

REQUESTS_AT_ONCE = 8
KEYS_A_REQUEST = 1000
FIRST_SEEN = "first_seen"
STAGED = names.staged("")[0]


@dataclass(frozen=True, kw_only=True)
class Swept:
    """How many orphan files there were, how many of them were deleted now, and their bytes."""

    orphans: int
    deleted: int
    bytes: int


def sweep(settings: Settings, catalog: "Catalog", namespace: str, *, orphan_age: timedelta, now: datetime) -> Swept:
    """Delete the files in the folders of a namespace's tables that have been orphans for `orphan_age`, up to `now` (aware).

    No orphan is what any snapshot of any of these tables refers to, their metadata, and what the current manifest of a staged partition
    lists. Sweeping the published tables (`names.LAKE`) sweeps the staged files too.
    """
    client, bucket = connections.object_store(settings), settings.s3_bucket
    tables = tables_of(catalog, namespace)
    # Listed before anything is read: what is written from here on is not in the list, so it cannot be deleted.
    present = dict(listed(client, bucket, [_key(bucket, f"{table.location()}/") for table in tables]))
    staged = dict(_staged(client, bucket)) if namespace == names.LAKE else {}
    named = {_key(bucket, path) for table in tables for path in named_by(table.refresh())}
    orphans = {key: size for key, size in (present | staged).items() if key not in named}
    for key in _named_by_manifests(client, bucket, [key for key in orphans if key in staged]):
        orphans.pop(key, None)
    return _delete_old(client, bucket, f"{names.LAKE}/_orphans/{namespace}.json", orphans, orphan_age, now)


def _delete_old(client: "S3Client", bucket: str, notes_key: str, orphans: dict[str, int], orphan_age: timedelta, now: datetime) -> Swept:
    notes = _read_notes(client, bucket, notes_key)
    since = {key: notes.get(key, now) for key in orphans}
    old = [key for key, first_seen in since.items() if now - first_seen >= orphan_age]
    for start in range(0, len(old), KEYS_A_REQUEST):
        _delete(client, bucket, old[start : start + KEYS_A_REQUEST])
    kept = {key: first_seen.isoformat() for key, first_seen in since.items() if key not in set(old)}
    sealed_json.write(client, bucket, notes_key, json.dumps({FIRST_SEEN: kept}).encode())
    return Swept(orphans=len(orphans), deleted=len(old), bytes=sum(orphans[key] for key in old))


def _read_notes(client: "S3Client", bucket: str, key: str) -> dict[str, datetime]:
    """When each orphan was first seen; nothing where that is not known for certain, as of notes that are damaged."""
    try:
        return sealed_json.read(client, bucket, key, _seen)
    except (client.exceptions.NoSuchKey, ObjectDamaged):
        return {}


def _seen(notes: Mapping[str, Mapping[str, str]]) -> dict[str, datetime]:
    return {path: datetime.fromisoformat(first_seen).astimezone(UTC) for path, first_seen in notes.get(FIRST_SEEN, {}).items()}


def _delete(client: "S3Client", bucket: str, keys: Sequence[str]) -> None:
    answer = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
    for problem in answer.get("Errors", []):
        raise StoreRefused(problem.get("Key", ""), problem.get("Message", "no reason given"))


def _staged(client: "S3Client", bucket: str) -> Iterator[tuple[str, int]]:
    return ((key, size) for key, size in listed(client, bucket, [f"{STAGED}/"]) if key.endswith(".parquet"))


def listed(client: "S3Client", bucket: str, prefixes: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The keys below prefixes, and the sizes of their objects, in no order to rely on."""
    pages = client.get_paginator("list_objects_v2")
    for prefix in prefixes:
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            yield from ((entry["Key"], entry["Size"]) for entry in page.get("Contents", []))


def named_by(table: "Table") -> set[str]:
    """The paths of all files that a table refers to: metadata, manifests, and data files of any snapshot."""
    metadata = table.metadata
    named = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    named |= {file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics)}
    named |= {snapshot.manifest_list for snapshot in metadata.snapshots}

    def data_of(manifest: "ManifestFile") -> set[str]:
        entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        return {manifest.manifest_path, *(entry.data_file.file_path for entry in entries)}

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        lists = pool.map(lambda snapshot: manifests_of(table, snapshot), metadata.snapshots)
        manifests = {manifest.manifest_path: manifest for manifests in lists for manifest in manifests}
        return named.union(*pool.map(data_of, manifests.values()))


def _named_by_manifests(client: "S3Client", bucket: str, keys: Iterable[str]) -> set[str]:
    """What the current manifests of these files' partitions list; of a partition whose manifest is damaged, all files."""
    partitions: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        _, contract, partition, *_ = key.split("/")
        partitions.setdefault((contract, partition), []).append(key)

    def named(partition: tuple[str, str]) -> list[str]:
        try:
            manifest = staging.manifest_from(client, bucket, *partition)
        except ObjectDamaged as error:
            logger.warning("No staged file of %s %s is taken for an orphan: %s", *partition, error)
            return partitions[partition]
        return [] if manifest is None else [_key(bucket, path) for path in manifest.paths]

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return set(chain.from_iterable(pool.map(named, partitions)))


def _key(bucket: str, path: str) -> str:
    return path.removeprefix(f"s3://{bucket}/")
