"""Change logs for the tests, as typing leaves them in the lake: what Debezium would emit of the changes that the simulator plans."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pyarrow as pa

from pipeline_assets.core import connections, names
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.arrow_types import arrow_type
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.staged.changes import UNAVAILABLE
from pipeline_assets.spec.contracts import Contract
from simulator.nyc_flights import changes, database
from simulator.nyc_flights.changes import LARGE_COLUMN, REGISTERS, Change, Plan, Tables

DAY = date(2013, 3, 11)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Row = dict[str, Any]


def live(settings: Settings, seed: int) -> tuple[Tables, Plan]:
    """An operational database that has changed: what was there before, and what happened to it."""
    dsn = settings.owners["airline_ops"].get_secret_value()
    database.load(dsn, DAY, DAY)
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = changes.read(connection)
        planned = changes.plan(before, seed=seed, transactions=200)
        for each in planned.transactions:
            changes.apply(connection, each)
    return before, planned


def log_schema(contract: Contract) -> pa.Schema:
    """The columns of a change log."""
    own = [(field.name, arrow_type(field)) for field in log_contract(contract).fields]
    return pa.schema([*own, ("_topic", pa.string()), ("_partition", pa.int32()), ("_offset", pa.int64())])


def emitted(contract: Contract, before: Mapping[str, Mapping[str, object]], planned: Plan) -> pa.Table:
    """A snapshot of a register's rows, then the planned changes of it, one transaction after the other."""
    standing = {key: dict(row) for key, row in before.items()}
    records = [
        _record("r", 1_000, {**row}, "last" if number == len(standing) else "true") for number, row in enumerate(standing.values(), 1)
    ]
    lsn = 1_000
    for change in (change for each in planned.transactions for change in each):
        lsn += 8
        if change.table == contract.name and change.kind != "add column":
            records += _emitted(change, standing, lsn)
    placed = [
        {**record, "_topic": f"airline_ops.public.{contract.name}", "_partition": 0, "_offset": number}
        for number, record in enumerate(records)
    ]
    schema = log_schema(contract)
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in placed], schema=schema)


def put_log(settings: Settings, contract: Contract, log: pa.Table) -> None:
    """Appends records to the change log of a contract in the lake."""
    identifier = names.typed(log_contract(contract).name)
    with connections.catalog(settings) as lake:
        lake.create_namespace_if_not_exists(names.TYPED)
        lake.create_table_if_not_exists(identifier, log.schema).append(log)


def _emitted(change: Change, standing: dict[str, Row], lsn: int) -> Iterable[Row]:
    key = REGISTERS[change.table]
    if change.kind == "delete":
        del standing[change.key]
        return [_record("d", lsn, {key: change.key})]
    before = standing.pop(change.key, None)
    row = standing[str(change.values.get(key, change.key))] = {**(before or {}), **change.values}
    row.setdefault(key, change.key)
    after = dict(row)
    if before is not None and LARGE_COLUMN not in change.values and row.get(LARGE_COLUMN) is not None:
        after[LARGE_COLUMN] = UNAVAILABLE
    if change.kind == "rename":
        return [_record("d", lsn, {key: change.key}), _record("c", lsn, after)]
    return [_record("c" if change.kind == "insert" else "u", lsn, after)]


def _record(op: str, lsn: int, row: Row, snapshot: str | None = None) -> Row:
    return {**row, "_op": op, "_lsn": lsn, "_committed_at": NOW, "_txid": None, "_snapshot": snapshot}
