"""Configurations of the connectors, as functions of what is declared; each says only what differs from the connector's own defaults.

No secret stands here, nor a name that the worker would replace by one: it finds passwords by server and role in its file of passwords
(PGPASSFILE), and the keys of the object store in its environment. So a configuration that points elsewhere sends no secret there, if the
worker lets none bring providers of its own (`NO_PROVIDERS` in `local_stack/connect.py`).
"""

import re
from collections.abc import Mapping, Sequence

from pipeline_assets.core import names
from pipeline_assets.core.dsn import jdbc_host, jdbc_properties, jdbc_url, read_address
from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.settings import CATALOG_DSN, PREFIX, Settings
from pipeline_assets.ingestion.streaming.capture.topics import Topic
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import PostgresTable

DEBEZIUM, ICEBERG = "Debezium", "the catalog of Iceberg's sink"
# Properties of the JDBC driver that the connector has as its own; all others are passed through.
DATABASE_PROPERTIES = frozenset({"sslmode", "sslrootcert", "sslcert", "sslkey", "tcpKeepAlive"})
BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"
JSON = "org.apache.kafka.connect.json.JsonConverter"
FOREVER = {"retention.ms": "-1", "retention.bytes": "-1"}
# Of the platform's own topics, whose records the lake has within minutes: nothing stays in them for more than a month and a day.
A_MONTH = {"retention.ms": str(30 * 86_400_000), "segment.ms": str(86_400_000), "retention.bytes": "-1"}
CASE_MATTERS = "(?-i)"
COMMIT_MS, PATIENCE_MS, HEARTBEAT_MS = "1000", "10000", "5000"


def changes(
    settings: Settings, database: str, tables: Sequence[PostgresTable], contracts: Mapping[PostgresTable, Contract] | None = None
) -> dict[str, str]:
    """The connector that turns the rows of the tables, and every later change of them, into records of one topic a table.

    A row that is given another key of its contract (of a table without one: another primary key) ends, and another one is created. Slot and
    publication are those of `names.replication`; the publication must be there. Raises SettingsMissing where no DSN is given for the role
    that reads changes, SettingNotSupported where Debezium cannot be given what it says.
    """
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        **_database(settings, database),
        "topic.prefix": database,
        "table.include.list": ",".join(sorted(map(_expression, tables))),
        **_keys(contracts or {}),
        "plugin.name": "pgoutput",
        "slot.name": names.replication(database),
        "publication.name": names.replication(database),
        # The role may read the tables but owns none, and so cannot publish them: their owner does.
        "publication.autocreate.mode": "disabled",
        # At the first start, and again where the slot was lost: the changes since then are in no log, only in the tables.
        "snapshot.mode": "when_needed",
        "exactly.once.support": "required",
        # Without them the log of a database would grow as long as only other tables, or other databases, are written to.
        "heartbeat.interval.ms": HEARTBEAT_MS,
        "lsn.flush.mode": "connector_and_driver",
        # A truncated table is an event like others; a deleted row is one record, without a second, empty one.
        "skipped.operations": "none",
        "tombstones.on.delete": "false",
        # Values as text that any JSON reader keeps as they are.
        "decimal.handling.mode": "string",
        "time.precision.mode": "isostring",
        "binary.handling.mode": "base64",
        # Else it has no value for the type `name` in a change, though it has one in a snapshot.
        "include.unknown.datatypes": "true",
        **{f"{part}.converter": JSON for part in ("key", "value")},
        **{f"{part}.converter.schemas.enable": "false" for part in ("key", "value")},
    }


def _database(settings: Settings, database: str) -> dict[str, str]:
    """Where the database is and how it is connected to, as its DSN says."""
    setting = f"{PREFIX}REPLICATION__{database.upper()}"
    if database not in settings.replication:
        raise SettingsMissing([setting])
    address = read_address(setting, settings.replication[database])
    host, port = jdbc_host(address, DEBEZIUM)
    properties = jdbc_properties(address, DEBEZIUM)
    if "ApplicationName" in properties:
        raise address.refused("application_name", DEBEZIUM, "Leave it out of this DSN: it names its connections itself.")
    return {
        "database.hostname": host,
        "database.port": port,
        "database.dbname": address.database,
        "database.user": address.user,
        **{f"{'database' if name in DATABASE_PROPERTIES else 'driver'}.{name}": value for name, value in properties.items()},
    }


def _keys(contracts: Mapping[PostgresTable, Contract]) -> dict[str, str]:
    """The columns that identify the rows of each table, where they are not to be those of its primary key."""
    keys = [f"{_expression(table)}:{','.join(map(_literal, own.primary_key))}" for table, own in contracts.items()]
    return {"message.key.columns": ";".join(sorted(keys))} if keys else {}


def _expression(table: PostgresTable) -> str:
    """A regular expression of Java that matches the name of a table alone; Debezium would take names in another case for the same."""
    return rf"{CASE_MATTERS}{_literal(table.schema)}\.{_literal(table.table)}"


def _literal(name: str) -> str:
    """A name as part of such an expression, without the signs that Debezium splits lists of them at."""
    return re.sub(r"\W", lambda sign: r"\." if sign[0] == "." else rf"\x{{{ord(sign[0]):x}}}", name)


def changes_topics(database: str, tables: Sequence[PostgresTable]) -> list[Topic]:
    """The topics that the connector of a database's changes writes to. One partition each: changes keep the order of their commits."""
    captured = dict.fromkeys(names.changes_topic(database, each.schema, each.table) for each in tables)
    return [Topic(name=name, partitions=1, configs=FOREVER) for name in (*captured, names.heartbeat_topic(database))]


def landing(settings: Settings, topic: str, headers: Sequence[str] = ()) -> dict[str, str]:
    """The connector that lands every record of a topic, whatever its bytes, as a row of the lake table `names.landed(topic)`.

    headers: those whose bytes land beside the record, in columns by the names of `names.landed_header`; the last of several with one name.
    """
    return {
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
        "tasks.max": "1",
        "topics": topic,
        "key.converter": BYTES,
        "value.converter": BYTES,
        "transforms": ",".join(("hoist", *map(names.landed_header, headers), "insert")),
        "transforms.hoist.type": "org.apache.kafka.connect.transforms.HoistField$Value",
        "transforms.hoist.field": "payload",
        **_headers(headers),
        "transforms.insert.type": "org.apache.kafka.connect.transforms.InsertField$Value",
        "transforms.insert.topic.field": "topic",
        "transforms.insert.partition.field": "partition",
        "transforms.insert.offset.field": "offset",
        "transforms.insert.timestamp.field": "received_at",
        "iceberg.tables": ".".join(names.landed(topic)),
        "iceberg.control.topic": names.landing_control_topic(topic),
        "iceberg.control.commit.interval-ms": COMMIT_MS,
        "iceberg.control.commit.timeout-ms": PATIENCE_MS,
        # A worker that was killed is given up after so long, by the topic's group as by that of the commits.
        "consumer.override.session.timeout.ms": PATIENCE_MS,
        "iceberg.kafka.session.timeout.ms": PATIENCE_MS,
        # It asks again so often where nothing comes; what comes is sent at once.
        "iceberg.kafka.fetch.max.wait.ms": "2000",
        "consumer.override.auto.offset.reset": "earliest",
        # Records of transactions that were aborted do not count.
        "consumer.override.isolation.level": "read_committed",
        **{f"iceberg.{name}": value for name, value in _catalog(settings).items()},
    }


def _headers(headers: Sequence[str]) -> dict[str, str]:
    """The transforms that put headers beside the payload."""
    copied = {
        # One each: a transform for several of them takes the first record it sees for the shape of all.
        f"transforms.{names.landed_header(header)}.{option}": value
        for header in headers
        for option, value in (
            ("type", "io.debezium.transforms.HeaderToValue"),
            ("headers", header),
            ("fields", names.landed_header(header)),
            ("operation", "copy"),
        )
    }
    return {"header.converter": BYTES, **copied} if headers else {}


def landing_topics(topic: str) -> list[Topic]:
    """The topics that landing a topic needs beside it. They are kept for ever: what was committed is found out by them."""
    return [Topic(name=names.landing_control_topic(topic), partitions=1, configs=FOREVER)]


def _catalog(settings: Settings) -> Mapping[str, str]:
    """The lake's catalog in the terms of Iceberg's Java library; the same as `connections.catalog`."""
    address = read_address(CATALOG_DSN, settings.catalog_dsn)
    return {
        "catalog": names.CATALOG,
        "catalog.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        "catalog.uri": jdbc_url(address, ICEBERG),
        **{f"catalog.jdbc.{name}": value for name, value in jdbc_properties(address, ICEBERG).items()},
        "catalog.jdbc.user": address.user,
        "catalog.jdbc.schema-version": "V1",
        "catalog.warehouse": f"s3://{settings.s3_bucket}/{names.LAKE}",
        "catalog.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "catalog.s3.endpoint": settings.s3_endpoint,
        "catalog.s3.path-style-access": "true",
        "catalog.client.region": settings.s3_region,
    }
