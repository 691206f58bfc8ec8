"""Whether a text stands anywhere in what the platform keeps: each object of its bucket and each row of its databases, unpacked."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from fastavro import reader
from psycopg import sql

from pipeline_assets.core import connections
from pipeline_assets.core.settings import Settings

OWN_SCHEMAS = "select schemaname, tablename from pg_tables where schemaname not in ('pg_catalog', 'information_schema') order by 1, 2"


def places_with(settings: Settings, text: str) -> list[str]:
    """The objects and tables that have a text anywhere."""
    return sorted({*_objects_with(settings, text), *_tables_with(settings, text)})


def _objects_with(settings: Settings, text: str) -> Iterator[str]:
    client, sought = connections.object_store(settings), text.encode()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket):
        for key in (entry["Key"] for entry in page.get("Contents", ())):
            content = client.get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read()
            if sought in key.encode() or sought in content or sought in _unpacked(key, content):
                yield key


def _unpacked(key: str, content: bytes) -> bytes:
    """The values of a Parquet file with its footer, or the records of an Avro file."""
    if key.endswith(".parquet"):
        parquet = pq.ParquetFile(pa.BufferReader(content))
        columns = [column.cast(pa.binary()) for column in parquet.read().columns if _is_text(column.type)]
        values = b"\n".join(value for column in columns for value in column.to_pylist() if value is not None)
        return values + repr(parquet.metadata.to_dict()).encode()
    if key.endswith(".avro"):
        return b"\n".join(b"\n".join(_leaves(record)) for record in reader(BytesIO(content)))
    return b""


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _leaves(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from (key.encode(), *_leaves(one))
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    else:
        yield value if isinstance(value, bytes) else str(value).encode()


def _tables_with(settings: Settings, text: str) -> Iterator[str]:
    """The tables of warehouse and online store, by each row as text and as the bytes that it is sent as."""
    for name, connect in (("warehouse", connections.warehouse), ("online", connections.online)):
        with connect(settings) as connection:
            for schema, table in connection.execute(OWN_SCHEMAS).fetchall():
                if _rows_with(connection, sql.Identifier(schema, table), text):
                    yield f"{name} {schema}.{table}"


def _rows_with(connection: psycopg.Connection, table: sql.Identifier, text: str) -> int:
    sent = sql.SQL("select count(*) from {} as kept where position({} in kept::text) > 0 or position({} in record_send(kept)) > 0")
    row = connection.execute(sent.format(table, sql.Literal(text), sql.Literal(text.encode()))).fetchone()
    return 0 if row is None else int(row[0])
