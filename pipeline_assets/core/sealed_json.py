"""JSON objects of the store that say what others are: written with a seal, and held against it at each read."""

import json
from typing import TYPE_CHECKING

from pipeline_assets.core import seals
from pipeline_assets.core.damage import ObjectDamaged

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def write(client: "S3Client", bucket: str, key: str, content: bytes) -> None:
    """Puts a JSON object of at least one field under a key, in one request."""
    client.put_object(Bucket=bucket, Key=key, Body=seals.seal_json(content, key), ContentType="application/json")


def read(client: "S3Client", bucket: str, key: str) -> bytes:
    """The JSON object under a key, as it was written; raises ObjectDamaged if it is another, NoSuchKey of the client if there is none.

    One that was written by an earlier version has no seal, and is given as it is, if it is a JSON object.
    """
    content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    problem = seals.json_problem(content, key)
    if not content.startswith(seals.FIRST) and not _is_object(content):
        problem = "is no JSON object" if content else "is empty"
    if problem is not None:
        raise ObjectDamaged(f"s3://{bucket}/{key}", problem)
    return seals.without_seal(content)


def _is_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False
