"""JSON objects of the store that say what others are: written with a seal, and held against it at each read."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline_assets.core import seals
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.foreign import shown

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
# What comes of JSON that is none, or has other members than whoever reads it asks for.
UNFIT = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def write(client: "S3Client", bucket: str, key: str, content: bytes) -> None:
    """Puts a JSON object of at least one field under a key, in one request."""
    client.put_object(Bucket=bucket, Key=key, Body=seals.seal_json(content, key), ContentType="application/json")


def read(client: "S3Client", bucket: str, key: str, made: Callable[[Any], T]) -> T:
    """What `made` makes of the JSON object under a key.

    Raises ObjectDamaged if it is not what was written, or nothing can be made of it, NoSuchKey of the client if there is none. One that was
    written by an earlier version has no seal, and is taken as it is.
    """
    content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    problem = seals.json_problem(content, key) if content else "is empty"
    if problem is None:
        try:
            return made(json.loads(seals.without_seal(content)))
        except UNFIT as error:
            problem = f"cannot be read ({type(error).__name__}: {shown(error)})"
    raise ObjectDamaged(f"s3://{bucket}/{key}", problem)
