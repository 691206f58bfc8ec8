"""Settings for configurations of connectors, and where their snapshot is; shared by the tests of connectors."""

from pathlib import Path

from pipeline_assets.core.settings import Settings

SNAPSHOT = Path(__file__).parent / "unit/ingestion/streaming/connectors.json"
HIDDEN = "must-not-be-shown"


def settings_with(database: str) -> Settings:
    """Settings with a secret wherever there is one, and a role that reads the changes of a database."""
    dsn = f"postgresql://%s:{HIDDEN}@db.example.com:6432/%s"
    given = {
        **{f"{name}_dsn": dsn % (name, name) for name in ("warehouse", "online", "catalog", "dagster")},
        **{f"{name}_url": f"http://{name}.example.com" for name in ("dagster", "mlflow", "connect")},
        "s3_endpoint": "http://s3.example.com",
        "s3_region": "eu-central-1",
        "s3_bucket": "ours",
        "s3_access_key": HIDDEN,
        "s3_secret_key": HIDDEN,
        "services": {},
        "kafka_bootstrap": "kafka.example.com:9092",
        "connect_user": "pipeline",
        "connect_password": HIDDEN,
        "databases": {},
        "replication": {database: dsn % ("reader", database)},
    }
    return Settings.model_validate(given)
