"""The lake table in which the records of a topic land as they came: bytes, with the place and time that Kafka gave them."""

from contextlib import suppress
from typing import TYPE_CHECKING

from pipeline_assets.core import names

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table

RECEIVED_AT, RECEIVED_AT_ID = "received_at", 5
# A commit a second: old metadata files go with the commit that displaces them, and a lost race is run again at once.
PROPERTIES = {
    "write.parquet.compression-codec": "zstd",
    "commit.retry.num-retries": "8",
    "commit.retry.min-wait-ms": "20",
    "commit.retry.max-wait-ms": "1000",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


def ensure_landing_table(catalog: "Catalog", topic: str) -> "Table":
    """The table of a topic's records, made at the first call: one row per record, by day of the record's time.

    payload: the bytes of the value, null where the record had none. received_at: the time that Kafka keeps for the record.
    """
    from pyiceberg.exceptions import TableAlreadyExistsError
    from sqlalchemy.exc import IntegrityError

    identifier = names.landed(topic)
    if catalog.table_exists(identifier):
        return catalog.load_table(identifier)
    with suppress(IntegrityError):  # another process was faster
        catalog.create_namespace_if_not_exists(identifier[0])
    try:
        return catalog.create_table(identifier, _schema(), partition_spec=_by_day(), properties=PROPERTIES)
    except TableAlreadyExistsError:  # likewise
        return catalog.load_table(identifier)


def _schema() -> "Schema":
    from pyiceberg.schema import Schema
    from pyiceberg.types import BinaryType, IntegerType, LongType, NestedField, StringType, TimestamptzType

    return Schema(
        NestedField(1, "payload", BinaryType(), required=False),
        NestedField(2, "topic", StringType(), required=False),
        NestedField(3, "partition", IntegerType(), required=False),
        NestedField(4, "offset", LongType(), required=False),
        NestedField(RECEIVED_AT_ID, RECEIVED_AT, TimestamptzType(), required=False),
    )


def _by_day() -> "PartitionSpec":
    from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
    from pyiceberg.transforms import DayTransform

    return PartitionSpec(PartitionField(RECEIVED_AT_ID, PARTITION_FIELD_ID_START, DayTransform(), f"{RECEIVED_AT}_day"))
