"""A prediction by its id: in the typed rows around the time that the id begins with, else in the warehouse, else in all typed rows.

Of files that may have the id, by what the table knows of them, the ids alone are read, and whole rows where it is found: a row is some
kilobytes.
"""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.arrow import batches_in
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.iceberg import open_table, planned
from pipeline_assets.core.prediction_streams import PREDICTION_ID, prediction_log
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.timed_ids import ms_of
from pipeline_assets.ingestion.sources.contracts import arrow_schema

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

Row = dict[str, Any]
# From its id to its time a prediction waits for its turn, and a client may have asked again for a while.
AROUND = timedelta(hours=1)
CONTRACT, ID = prediction_log.contract, PREDICTION_ID.name
LATEST_MS = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp() * 1000)


def logged_rows(settings: Settings, prediction_id: str) -> list[Row]:
    """All that was logged with an id, in no order, in the fields of the contract; none where nothing was."""
    at_ms = ms_of(prediction_id)
    with catalog(settings) as lake:
        if at_ms is not None and at_ms < LATEST_MS:
            found = typed_rows(lake, prediction_id, datetime.fromtimestamp(at_ms / 1000, UTC))
            if found:
                return found
        return warehouse_rows(settings, prediction_id) or typed_rows(lake, prediction_id, None)


def typed_rows(lake: "Catalog", prediction_id: str, at: datetime | None) -> list[Row]:
    """The typed rows with an id that were asked for around a time (None: at any)."""
    table = open_table(lake, names.typed(CONTRACT.name))
    if table is None:
        return []
    files = planned(table, _wanted(prediction_id, at))
    return [row for task in files for row in _in_file(table, task.file.file_path, prediction_id)]


def warehouse_rows(settings: Settings, prediction_id: str) -> list[Row]:
    """The rows of the warehouse with an id, by its index; none where it has no such table."""
    from psycopg import sql
    from psycopg.rows import dict_row

    fields = [field.name for field in CONTRACT.fields]
    table = names.raw(CONTRACT.name)
    with closing(warehouse(settings)) as connection, connection.cursor(row_factory=dict_row) as cursor:
        if cursor.execute("select to_regclass(%s) as found", [".".join(table)]).fetchone() == {"found": None}:
            return []
        query = sql.SQL("select {} from {} where {} = %s").format(
            sql.SQL(", ").join(map(sql.Identifier, fields)), sql.Identifier(*table), sql.Identifier(ID)
        )
        return cursor.execute(query, [prediction_id]).fetchall()


def _wanted(prediction_id: str, at: datetime | None) -> "BooleanExpression":
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThanOrEqual

    is_it = EqualTo(term=ID, value=prediction_id)
    if at is None:
        return is_it
    first, last = ((at + around).isoformat() for around in (-AROUND, AROUND))
    return And(is_it, GreaterThanOrEqual(term=CONTRACT.event_at, value=first), LessThanOrEqual(term=CONTRACT.event_at, value=last))


def _in_file(table: "Table", path: str, prediction_id: str) -> Iterator[Row]:
    schema = pa.schema([one.with_nullable(True) for one in arrow_schema(CONTRACT)])
    with table.io.new_input(path).open() as opened:
        parquet = pq.ParquetFile(opened)
        for number in range(parquet.num_row_groups):
            ids = parquet.read_row_group(number, [ID]).column(ID)
            places = pc.indices_nonzero(pc.equal(ids, prediction_id))
            if len(places):
                yield from pa.Table.from_batches(batches_in(parquet, schema, row_groups=[number])).take(places).to_pylist()
