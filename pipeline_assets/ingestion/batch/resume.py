"""Loads that can be taken up again: which days of a range are done, even when the process that did them was killed.

A load of a range leaves a mark on the object store when it begins and removes it when it ends, be it complete or refused by something that
has to be mended first. A load that was killed, or whose source did not answer, leaves its mark: a load of the same range of the same
contract within a day resumes that load, and a day whose manifest carries its id is done and not asked for again. Everything else is a new
load that asks for every day.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pipeline_assets.core import names, sealed_json
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.digests import digest_of
from pipeline_assets.core.errors import PipelineError, TransientError
from pipeline_assets.ingestion.staging.partitions import Manifest, partition_of, readable_manifest
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TAKEN_UP_WITHIN = timedelta(days=1)
FOLDER = "_loads"


@dataclass(frozen=True, kw_only=True)
class Load:
    """A load of a range of days; `is_taken_up` when an earlier run began it."""

    load_id: str
    contract_digest: str
    begun_at: str
    is_taken_up: bool = False


@contextmanager
def load_of(client: "S3Client", bucket: str, contract: Contract, first: date, last: date) -> Iterator[Load]:
    """The load of a range of days: the unfinished one, or a new one."""
    key = "/".join((*names.staged(contract.name), FOLDER, f"{first}_{last}.json"))
    load = _unfinished(client, bucket, key, contract) or _begin(client, bucket, key, contract)
    try:
        yield load
    except TransientError:
        raise
    except PipelineError:
        client.delete_object(Bucket=bucket, Key=key)
        raise
    client.delete_object(Bucket=bucket, Key=key)


def done(client: "S3Client", bucket: str, contract: Contract, day: date, load: Load) -> Manifest | None:
    """The manifest of a day that this load has staged already; None where it still has to, as for a damaged one."""
    if not load.is_taken_up:
        return None
    manifest = readable_manifest(client, bucket, contract.name, partition_of(day))
    return manifest if manifest is not None and manifest.load_id == load.load_id else None


def _unfinished(client: "S3Client", bucket: str, key: str, contract: Contract) -> Load | None:
    try:
        found = sealed_json.read(client, bucket, key, _recent)
    except (client.exceptions.NoSuchKey, ObjectDamaged):
        return None
    return found if found is not None and found.contract_digest == _digest(contract) else None


def _recent(stored: Mapping[str, Any]) -> Load | None:
    found = Load(**{**stored, "is_taken_up": True})
    return found if datetime.now(UTC) - datetime.fromisoformat(found.begun_at) < TAKEN_UP_WITHIN else None


def _begin(client: "S3Client", bucket: str, key: str, contract: Contract) -> Load:
    load = Load(load_id=uuid4().hex, contract_digest=_digest(contract), begun_at=datetime.now(UTC).isoformat())
    sealed_json.write(client, bucket, key, json.dumps(asdict(load)).encode())
    return load


def _digest(contract: Contract) -> str:
    return digest_of(contract)
