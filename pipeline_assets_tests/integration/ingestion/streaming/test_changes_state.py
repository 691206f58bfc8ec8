"""Tables that are followed by their changes: staged from their log in the lake, as a batch would have staged them."""

import json
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.stream_errors import SnapshotIncomplete
from pipeline_assets.ingestion.batch import assets as batch
from pipeline_assets.ingestion.batch.load import stage_snapshot
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.staging.partitions import read_manifest, read_staged
from pipeline_assets.ingestion.streaming import assets as streaming
from pipeline_assets.ingestion.streaming.staged.changes import UNAVAILABLE
from pipeline_assets.ingestion.streaming.staged.state import stage_state
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets.use_cases.nyc_flights.sources import airlines, airports, planes
from pipeline_assets_tests.change_logs import NOW, emitted, live, log_schema, put_log
from pipeline_assets_tests.readings import World, reading
from pipeline_assets_tests.stream_records import without_sensors
from simulator.nyc_flights.changes import LARGE_COLUMN

REMARKS = Field(name=LARGE_COLUMN, type="string", description="What else there is to say.")
PLANES = replace(planes, load="changes", contract=replace(planes.contract, fields=(*planes.contract.fields, REMARKS)))
FOLLOWED = {"planes": PLANES, "airports": replace(airports, load="changes"), "airlines": replace(airlines, load="changes")}


def content(settings: Settings, contract: Contract) -> tuple[pa.Table, list[tuple[Any, ...]]]:
    """What is staged of a table, and its quarantine, without what differs from run to run."""
    manifest = read_manifest(settings, contract.name, "snapshot")
    assert manifest is not None
    batches = list(read_staged(object_store(settings), settings.s3_bucket, manifest))
    rows = quarantine.listed(settings, source=contract.name)
    return pa.Table.from_batches(batches), [(row.position, row.field, row.reason, row.original) for row in rows]


def faults(broken: list[tuple[Any, ...]], contract: Contract) -> list[tuple[Any, ...]]:
    """What is wrong with which key of a quarantine."""
    return sorted(
        (field, reason, *(json.loads(bytes(original))[key] for key in contract.primary_key)) for _, field, reason, original in broken
    )


def current(versions: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """The values of the versions that count now, by key."""
    newest = versions.sort(contract.known_at).unique(list(contract.primary_key), keep="last", maintain_order=True)
    return newest.filter(pl.col("_deleted_at").is_null()).sort(contract.primary_key).drop("_deleted_at", contract.known_at)


def test_a_followed_table_is_staged_as_a_batch_would_have(isolated: Settings) -> None:
    """After inserts, updates, deletes, new keys and unchanged large values: the rows that count now, and no fault less."""
    before, planned = live(isolated, seed=5)
    for name, source in FOLLOWED.items():
        log = emitted(source.contract, before[name], planned)
        put_log(isolated, source.contract, log)
        followed = stage_state(isolated, source, run_id="followed")
        rows, broken = content(isolated, source.contract)
        batch = replace(source.contract, name=f"{name}_batch")
        stage_snapshot(isolated, replace(source, contract=batch, load="snapshot"), run_id="read")
        expected, expected_broken = content(isolated, batch)
        staged = pl.DataFrame(rows)

        assert current(staged, source.contract).equals(pl.DataFrame(expected).drop("_deleted_at", source.contract.known_at)), name
        assert {*faults(expected_broken, source.contract)} <= {*faults(broken, source.contract)}
        assert staged.height > expected.num_rows
        assert staged["_deleted_at"].null_count() < staged.height
        assert followed.changes == log.num_rows
        assert name != "planes" or UNAVAILABLE in log[LARGE_COLUMN].to_pylist()


def test_nothing_is_staged_before_the_first_snapshot_is_complete(isolated: Settings) -> None:
    """Half a snapshot would look like a table that lost its rows: it is an error that passes, and what was staged before stays."""
    before, planned = live(isolated, seed=7)
    log = emitted(PLANES.contract, before["planes"], planned)

    with pytest.raises(UnknownName, match=r"typed\.planes_changes"):
        stage_state(isolated, PLANES, run_id="r")
    put_log(isolated, PLANES.contract, log.slice(0, 100))
    with pytest.raises(SnapshotIncomplete, match="100 changes so far"):
        stage_state(isolated, PLANES, run_id="r")
    assert read_manifest(isolated, "planes", "snapshot") is None
    put_log(isolated, PLANES.contract, log.slice(100))
    assert stage_state(isolated, PLANES, run_id="r").staged.manifest.rows > 0


def test_a_row_whose_large_value_is_lost_goes_to_quarantine(isolated: Settings) -> None:
    """A value that is nowhere in the log is not staged as null: the row is in quarantine, once, and its neighbours are staged."""
    schema = log_schema(PLANES.contract)
    place = {"_committed_at": NOW, "_topic": "t", "_partition": 0, "updated_at": NOW.replace(year=2013)}
    rows = [
        {"tailnum": "N1", "_op": "r", "_lsn": 1, "_offset": 0, "_snapshot": "last"},
        {"tailnum": "N2", LARGE_COLUMN: "__debezium_unavailable_value", "_op": "u", "_lsn": 2, "_offset": 1},
        {"tailnum": "N3", LARGE_COLUMN: "__debezium_unavailable_value", "engines": 0, "_op": "u", "_lsn": 3, "_offset": 2},
    ]
    source = replace(PLANES, contract=replace(PLANES.contract, broken_share=0.9))
    put_log(isolated, source.contract, pa.Table.from_pylist([row | place for row in rows], schema=schema))
    stage_state(isolated, source, run_id="r")
    staged, held = content(isolated, source.contract)

    assert staged["tailnum"].to_pylist() == ["N1"]
    assert [row[:3] for row in held] == [(1, LARGE_COLUMN, "missing"), (2, "engines", "out of range")]


def test_a_followed_table_is_an_asset_of_the_streaming_room(world: World) -> None:
    """It takes the place of the batch asset under the same key, needs the change log, and reports changes and LSN."""
    source = replace(world.table, load="changes")
    schema = log_schema(source.contract)
    place = {"_committed_at": NOW, "_topic": "t", "_partition": 0}
    rows = [
        reading(sensor="a") | {"_op": "r", "_lsn": 9, "_offset": 0, "_snapshot": "last"},
        reading(sensor="b") | {"_op": "c", "_lsn": 10, "_offset": 1},
    ]
    put_log(world.settings, source.contract, pa.Table.from_pylist([row | place for row in rows], schema=schema))
    world.fill([])
    project = Project(use_cases=(replace(use_case, sources=(source,), streams=()),))
    rooms = [
        without_sensors(batch.defs(project)),
        without_sensors(streaming.defs(project)),
        dg.Definitions(resources={"platform": Platform(home=str(world.settings.home))}),
    ]
    defs = dg.Definitions.merge(*rooms)
    chosen = [dg.AssetKey(list(names.staged(world.name)))]
    done = defs.resolve_implicit_global_asset_job_def().execute_in_process(asset_selection=chosen, raise_on_error=False)
    (event,) = done.get_asset_materialization_events()
    (spec,) = [spec for spec in defs.resolve_all_asset_specs() if spec.key.path[0] == "staged"]

    assert done.success
    assert [row["sensor"] for row in world.staged("snapshot")] == ["a", "b"]
    assert (spec.group_name, [dep.asset_key.path for dep in spec.deps]) == ("streaming_ingestion", [["typed", f"{world.name}_changes"]])
    metadata = event.materialization.metadata
    assert (metadata["changes"].value, metadata["lsn"].value, metadata["values_not_in_log"].value) == (2, "10", 0)
    assert [check.passed for check in done.get_asset_check_evaluations()] == [True]
