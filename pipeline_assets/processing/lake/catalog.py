"""The lake's own tables: what a contract or a derived table asks of Iceberg."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.iceberg import SEALED, Column, ColumnType, Identifier, column_of, follow, open_or_create
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table


def table_for_contract(catalog: "Catalog", contract: Contract, *, by_day: bool) -> "Table":
    """The lake table of a contract, created or extended where needed; partitioned by the day of its event time if `by_day`.

    A new optional field is added (null in older rows), a required one may become optional, descriptions follow. Raises SchemaConflict
    naming every field that was retyped, dropped, added as required or made required, or if the partitioning differs.
    """
    columns = [column_of(field) for field in contract.fields]
    table = open_or_create(catalog, names.lake(contract.name), columns, contract.event_at if by_day else None, contract.primary_key, SEALED)
    return follow(table, columns, dropped=[name for name in table.schema().column_names if name not in {c.name for c in columns}])


def table_for_arrow(catalog: "Catalog", identifier: Identifier, schema: pa.Schema, time_column: str | None) -> "Table":
    """The table of derived rows, created or extended where needed; partitioned by the day of `time_column` (None: not).

    A new column is added as optional (null in older rows); an optional column that `schema` lacks stays and is null in new rows. Raises
    SchemaConflict naming every retyped column and every required one that is gone, TableMismatch for a type the lake does not keep.
    """
    columns = [_column(identifier, field, is_time=field.name == time_column) for field in schema]
    # Only times are filtered by: bounds of some sixty features a file would be most of what planning a scan has to read.
    times = [column.name for column in columns if column.type == "timestamp"]
    metrics = {**SEALED, "write.metadata.metrics.default": "counts", **{f"write.metadata.metrics.column.{name}": "full" for name in times}}
    table = open_or_create(catalog, identifier, columns, time_column, properties=metrics)
    required = {field.name for field in table.schema().fields if field.required}
    wanted = [replace(column, required=column.required and column.name in required) for column in columns]
    return follow(table, wanted, dropped=sorted(required - set(schema.names)))


def _column(identifier: Identifier, field: pa.Field, *, is_time: bool) -> Column:
    kinds: tuple[tuple[ColumnType, bool], ...] = (
        ("string", pa.types.is_string(field.type) or pa.types.is_large_string(field.type) or pa.types.is_string_view(field.type)),
        ("integer", pa.types.is_integer(field.type)),
        ("number", pa.types.is_floating(field.type)),
        ("boolean", pa.types.is_boolean(field.type)),
        ("timestamp", pa.types.is_timestamp(field.type) and field.type.tz == "UTC"),
        ("date", pa.types.is_date32(field.type)),
    )
    for kind, fits in kinds:
        if fits:
            return Column(name=field.name, type=kind, required=is_time or not field.nullable, doc="")
    expected = "a string, an integer, a float, a boolean, a date or a timestamp in UTC"
    raise TableMismatch(".".join(identifier), f"has column '{field.name}' of type {field.type}, expected {expected}", [field.name])
