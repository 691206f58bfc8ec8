"""The object store of the stack: MLflow's key opens MLflow's objects, and nothing else."""

from collections.abc import Callable
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from pipeline_assets.core.connections import object_store
from pipeline_assets.core.settings import Settings
from pipeline_assets.local_stack.plan import load_secrets

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MLFLOW = "artifacts"
# Keys of another object of the platform's bucket, of another bucket and of files beside, by which one might get out of one's own.
OUTSIDE = (
    "../lake/{name}",
    "../pipeline/lake/{name}",
    "../../data/pipeline/lake/{name}",
    "1/../../lake/{name}",
    "/../lake/{name}",
    "../../s3proxy.conf",
    "{home}/s3/data/pipeline/lake/{name}",
    "{home}/secrets.json",
)


def limited(settings: Settings) -> "S3Client":
    """The object store with MLflow's key."""
    secrets = load_secrets(settings.home)
    return object_store(
        settings.model_copy(
            update={name: type(settings.s3_secret_key)(secrets[f"mlflow_{name}"]) for name in ("s3_access_key", "s3_secret_key")}
        )
    )


def refused(call: Callable[..., object], **arguments: object) -> bool:
    """Whether the store refuses a request."""
    try:
        call(**arguments)
    except ClientError:
        return True
    return False


@pytest.mark.parametrize("outside", OUTSIDE)
def test_the_key_of_mlflow_opens_no_object_outside_its_prefix(stores: Settings, outside: str) -> None:
    """Regression: MLflow read and overwrote any object of the bucket. Neither is done now, nor copied or deleted, whatever the key says."""
    own, mlflow, name = object_store(stores), limited(stores), token_hex(6)
    own.put_object(Bucket=stores.s3_bucket, Key=f"lake/{name}", Body=b"kept")
    key = outside.format(name=name, home=stores.home)
    found = [
        refused(mlflow.get_object, Bucket=MLFLOW, Key=key),
        refused(mlflow.put_object, Bucket=MLFLOW, Key=key, Body=b"swapped"),
        refused(mlflow.copy_object, Bucket=MLFLOW, Key=f"stolen/{name}", CopySource={"Bucket": MLFLOW, "Key": key}),
        refused(mlflow.delete_object, Bucket=MLFLOW, Key=key),
    ]

    assert found == [True] * 4
    assert own.get_object(Bucket=stores.s3_bucket, Key=f"lake/{name}")["Body"].read() == b"kept"


def test_the_key_of_mlflow_opens_no_other_bucket(stores: Settings) -> None:
    """It sees one bucket, of which all other keys know the objects below `mlflow/`."""
    own, mlflow, name = object_store(stores), limited(stores), token_hex(6)
    own.put_object(Bucket=stores.s3_bucket, Key=f"mlflowers/{name}", Body=b"not of mlflow")
    mlflow.put_object(Bucket=MLFLOW, Key=f"1/{name}", Body=b"model")

    assert [bucket["Name"] for bucket in mlflow.list_buckets()["Buckets"]] == [MLFLOW]
    assert refused(mlflow.get_object, Bucket=stores.s3_bucket, Key=f"mlflowers/{name}")
    assert refused(mlflow.list_objects_v2, Bucket=stores.s3_bucket)
    assert own.get_object(Bucket=stores.s3_bucket, Key=f"mlflow/1/{name}")["Body"].read() == b"model"
    assert [each["Key"] for each in mlflow.list_objects_v2(Bucket=MLFLOW)["Contents"] if name in each["Key"]] == [f"1/{name}"]
