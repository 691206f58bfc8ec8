"""The audit of a real database: what the lake has of a table against the table itself, while others write to it."""

from dataclasses import replace

import psycopg
import pyarrow as pa

from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.audit.compare import compare, read_table
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import PostgresTable
from pipeline_assets.use_cases.nyc_flights.sources import airports, planes
from pipeline_assets_tests.change_logs import NOW, emitted, live
from simulator.nyc_flights.changes import LARGE_COLUMN

REMARKS = Field(name=LARGE_COLUMN, type="string", description="What else there is to say.")
PLANES: Contract = replace(planes.contract, fields=(*planes.contract.fields, REMARKS))
ORIGINS = {name: PostgresTable(database="airline_ops", table=name) for name in ("planes", "airports")}


def without(log: pa.Table, number: int) -> pa.Table:
    """A log that lost one record."""
    return pa.concat_tables([log.slice(0, number), log.slice(number + 1)])


def test_a_complete_log_agrees_with_its_table(isolated: Settings) -> None:
    """Every key has in the merged rows what it has in the source, long texts included; one that breaks its contract is in quarantine."""
    before, planned = live(isolated, seed=11)
    for contract in (PLANES, airports.contract):
        reading = read_table(isolated, contract, ORIGINS[contract.name])
        found = compare(contract, reading, emitted(contract, before[contract.name], planned))

        assert found.is_none, found
        assert (found.compared, found.quarantined) == (len(planned.after[contract.name]), reading.broken.height)


def test_every_lost_record_that_mattered_is_found(isolated: Settings) -> None:
    """A log without its last change, of whichever kind, differs in that key; the kind of difference says what was lost."""
    before, planned = live(isolated, seed=12)
    contract, reading = airports.contract, read_table(isolated, airports.contract, ORIGINS["airports"])
    log = emitted(contract, before["airports"], planned)
    last: dict[object, int] = {row["faa"]: number for number, row in enumerate(log.select(["faa"]).to_pylist())}
    seen = set()
    for number in sorted(last.values())[-40:]:
        row = log.slice(number, 1).to_pylist()[0]
        if row["faa"] in reading.broken["faa"]:
            continue
        found = compare(contract, reading, without(log, number))
        seen.add(row["_op"])
        assert sum(found.counts.values()) <= 1
        if row["_op"] in {"u", "r"}:
            assert (row["faa"],) in [*found.different, *found.missing, *found.held_back]
        elif row["_op"] == "d" and not found.is_none:
            assert found.extra == ((row["faa"],),)

    assert {"c", "u", "d"} <= seen


def test_a_transaction_that_is_open_while_the_table_is_read_makes_no_difference(isolated: Settings) -> None:
    """Its change has a smaller LSN than the reading and is not in it: known by the ids of transactions, and by nothing else."""
    before, planned = live(isolated, seed=13)
    key = min(planned.after["airports"])
    with psycopg.connect(isolated.owners["airline_ops"].get_secret_value()) as writer:
        writer.execute("UPDATE airports SET altitude_ft = 4711 WHERE faa = %s", [key])
        ((transaction, lsn),) = writer.execute(
            "SELECT pg_current_xact_id()::text::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint"
        ).fetchall()
        during = read_table(isolated, airports.contract, ORIGINS["airports"])
    after = read_table(isolated, airports.contract, ORIGINS["airports"])
    log = emitted(airports.contract, before["airports"], planned)
    row = {**planned.after["airports"][key], "altitude_ft": 4711}
    change = {**row, "_op": "u", "_lsn": lsn, "_txid": transaction, "_committed_at": NOW, "_partition": 0, "_offset": log.num_rows}
    change |= {"_topic": "airline_ops.public.airports", "_snapshot": None}
    full = pa.concat_tables([log, pa.Table.from_pylist([change], schema=log.schema)])

    assert lsn <= during.instant.lsn
    assert compare(airports.contract, during, full).is_none
    assert compare(airports.contract, after, full).is_none
    assert compare(airports.contract, during, full.drop(["_txid"])).different == ((key,),)
    assert compare(airports.contract, after, log).different == ((key,),)
