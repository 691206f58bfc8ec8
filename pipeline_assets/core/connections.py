"""Connections to the services that the settings name; each call makes a new one but for the catalog, and its caller closes it.

Libraries are imported where they are used, so that the code location loads without them.
"""

from typing import TYPE_CHECKING

from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.dsn import kept_alive, sqlalchemy_url, with_time_zone
from pipeline_assets.core.https import STORE_AUTHORITY, authority_for
from pipeline_assets.core.settings import (
    CATALOG_DSN,
    ONLINE_DSN,
    PREFIX,
    WAREHOUSE_DSN,
    LakeSettings,
    ObjectStoreSettings,
    OnlineSettings,
    Part,
    TrackingSettings,
    WarehouseSettings,
)
from pipeline_assets.core.waits import CONNECT_SECONDS, Limits, Place, connecting

# Of services that hang: two minutes for MLflow, where an answer may take so long as one to a file on its way to the object store, with
# pauses of 0, 4 and 8 s; one and a half for the object store.
TRACKING_RETRIES, TRACKING_SECONDS = 3, 30
STORE_TRIES, STORE_SECONDS = 3, 30
if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mypy_boto3_s3 import S3Client
    from pyarrow.fs import S3FileSystem
    from pyiceberg.catalog.sql import SqlCatalog
    from valkey import Valkey

    from pipeline_assets.core.postgres import ArrowSession, Session


def limits_of(settings: Part) -> Limits:
    """How long statements of Postgres may take."""
    return Limits(lock_seconds=settings.postgres_lock_seconds, statement_seconds=settings.postgres_statement_seconds)


def place_of(setting: str, conninfo: str, settings: Part) -> Place:
    """Where a database is, by the setting that names it, for `core.postgres`."""
    return Place(setting=setting, conninfo=conninfo, limits=limits_of(settings))


def _place(setting: str, dsn: SecretStr, settings: Part) -> Place:
    return place_of(setting, with_time_zone(setting, dsn), settings)


def warehouse(settings: WarehouseSettings) -> "Session":
    """A connection to the warehouse database; time zone UTC, one transaction until commit or close."""
    from pipeline_assets.core.postgres import open_session

    return open_session(_place(WAREHOUSE_DSN, settings.warehouse_dsn, settings))


def arrow_warehouse(settings: WarehouseSettings) -> "ArrowSession":
    """A connection to the warehouse that reads and writes Arrow; one transaction until commit or close."""
    from pipeline_assets.core.postgres import open_arrow_session

    return open_arrow_session(place_of(WAREHOUSE_DSN, settings.warehouse_dsn.get_secret_value(), settings))


def online(settings: OnlineSettings) -> "Session":
    """A connection to the online store; time zone UTC, one transaction until commit or close."""
    from pipeline_assets.core.postgres import open_session

    return open_session(_place(ONLINE_DSN, settings.online_dsn, settings))


def arrow_online(settings: OnlineSettings) -> "ArrowSession":
    """A connection to the online store that reads and writes Arrow; one transaction until commit or close."""
    from pipeline_assets.core.postgres import open_arrow_session

    return open_arrow_session(place_of(ONLINE_DSN, settings.online_dsn.get_secret_value(), settings))


def online_copy(settings: OnlineSettings) -> "Valkey | None":
    """A client of the server that has a copy of the online store; None where the settings name none. No request waits longer than 5 s."""
    if settings.online_valkey is None:
        return None
    from valkey import Valkey

    return Valkey.from_url(settings.online_valkey.get_secret_value(), socket_timeout=5.0, socket_connect_timeout=5.0)


def object_store(settings: ObjectStoreSettings) -> "S3Client":
    """A client of the object store; raises SettingsMalformed for its certificate, as all that reach a service by https.

    Where the store hangs its calls raise an error of botocore after a minute and a half.
    """
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        config=Config(
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": STORE_TRIES},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=STORE_SECONDS,
        ),
        verify=_store_authority(settings),
    )


def arrow_files(settings: ObjectStoreSettings) -> "S3FileSystem":
    """The object store as Arrow's file system; paths are `<bucket>/<key>`. A small file is written in one request, once it is closed."""
    from pyarrow.fs import S3FileSystem

    scheme, _, endpoint = settings.s3_endpoint.partition("://")
    return S3FileSystem(
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,
        scheme=scheme,
        endpoint_override=endpoint,
        allow_delayed_open=True,
        tls_ca_file_path=_store_authority(settings),
    )


def _store_authority(settings: ObjectStoreSettings) -> str | None:
    return authority_for(f"{PREFIX}S3_ENDPOINT", settings.s3_endpoint, settings)


def catalog(settings: LakeSettings) -> "SqlCatalog":
    """The Iceberg catalog: its state in Postgres, its tables on the object store; raises DatabaseFull.

    One for the process, which stays open where a caller closes it.
    """
    from pipeline_assets.core.catalogs import kept_catalog

    authority = _store_authority(settings)
    properties = {
        "uri": kept_alive(sqlalchemy_url(CATALOG_DSN, settings.catalog_dsn, "psycopg", limits_of(settings).values)),
        "warehouse": f"s3://{settings.s3_bucket}/{names.LAKE}",
        "s3.endpoint": settings.s3_endpoint,
        "s3.region": settings.s3_region,
        "s3.access-key-id": settings.s3_access_key.get_secret_value(),
        "s3.secret-access-key": settings.s3_secret_key.get_secret_value(),
        "init_catalog_tables": "false",
        "py-io-impl": "pipeline_assets.core.sealed_files.SealedFileIO",
        **({STORE_AUTHORITY: authority} if authority is not None else {}),
    }
    with connecting(CATALOG_DSN):
        return kept_catalog(names.CATALOG, properties)


def tracking(settings: TrackingSettings) -> "MlflowClient":
    """A client of the MLflow server; artifacts pass through the server, so no object store secret is needed.

    Where the server is away its calls raise MlflowException after some seconds, where it hangs after two minutes.
    """
    from mlflow import MlflowClient, environment_variables

    # MLflow draws a progress bar for a file of a few kilobytes, and prints links to runs; the platform's own output has them.
    environment_variables.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]
    environment_variables.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # type: ignore[no-untyped-call]
    # As it comes it asks a server that is away for more than four minutes, without a word, and one that hangs for sixteen.
    environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(TRACKING_RETRIES)  # type: ignore[no-untyped-call]
    environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.set(TRACKING_SECONDS)  # type: ignore[no-untyped-call]
    if settings.mlflow_user is not None and settings.mlflow_password is not None:
        # It takes them from nowhere else.
        environment_variables.MLFLOW_TRACKING_USERNAME.set(settings.mlflow_user)  # type: ignore[no-untyped-call]
        environment_variables.MLFLOW_TRACKING_PASSWORD.set(settings.mlflow_password.get_secret_value())  # type: ignore[no-untyped-call]
    authority = authority_for(f"{PREFIX}MLFLOW_URL", settings.mlflow_url, settings)
    if authority is not None:
        environment_variables.MLFLOW_TRACKING_SERVER_CERT_PATH.set(authority)  # type: ignore[no-untyped-call]
    return MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)
