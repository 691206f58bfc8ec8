"""Connections to the services that the settings name; each call makes a new one, and its caller closes it.

Libraries are imported where they are used, so that the code location loads without them.
"""

from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.settings import Settings

if TYPE_CHECKING:
    import psycopg
    from adbc_driver_postgresql.dbapi import Connection as AdbcConnection
    from mlflow import MlflowClient
    from mypy_boto3_s3 import S3Client
    from pyarrow.fs import S3FileSystem
    from pyiceberg.catalog import Catalog


def warehouse(settings: Settings) -> "psycopg.Connection":
    """A connection to the warehouse database; time zone UTC, one transaction until commit or close."""
    import psycopg

    return psycopg.connect(settings.warehouse_dsn.get_secret_value(), options="-c timezone=UTC")


def arrow_warehouse(settings: Settings) -> "AdbcConnection":
    """A connection to the warehouse that reads and writes Arrow; one transaction until commit or close."""
    from adbc_driver_postgresql import dbapi

    return dbapi.connect(settings.warehouse_dsn.get_secret_value())


def object_store(settings: Settings) -> "S3Client":
    """A client of the object store."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}),
    )


def arrow_files(settings: Settings) -> "S3FileSystem":
    """The object store as Arrow's file system; paths are `<bucket>/<key>`."""
    from pyarrow.fs import S3FileSystem

    scheme, _, endpoint = settings.s3_endpoint.partition("://")
    return S3FileSystem(
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,
        scheme=scheme,
        endpoint_override=endpoint,
    )


def catalog(settings: Settings) -> "Catalog":
    """The Iceberg catalog: its state in Postgres, its tables on the object store."""
    from pyiceberg.catalog.sql import SqlCatalog

    return SqlCatalog(
        names.CATALOG,
        **{
            "uri": settings.catalog_dsn.get_secret_value().replace("postgresql://", "postgresql+psycopg://", 1),
            "warehouse": f"s3://{settings.s3_bucket}/{names.LAKE}",
            "s3.endpoint": settings.s3_endpoint,
            "s3.region": settings.s3_region,
            "s3.access-key-id": settings.s3_access_key.get_secret_value(),
            "s3.secret-access-key": settings.s3_secret_key.get_secret_value(),
        },
    )


def tracking(settings: Settings) -> "MlflowClient":
    """A client of the MLflow server; artifacts pass through the server, so no object store secret is needed."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)
