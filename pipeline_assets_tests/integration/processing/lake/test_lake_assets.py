"""The lake's assets as Dagster runs them: what they tell of a run, and what stops what comes after."""

import json
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from pydantic import BaseModel, SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import PREFIX, STACK_ENV, Settings
from pipeline_assets.processing.lake import assets, tables
from pipeline_assets.spec.sources import EventStream, PostgresTable, Source
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import use_case as nyc_flights
from pipeline_assets_tests.lake_rows import TRIPS, day, in_lake, stage, trip_rows, trips

ORIGIN = PostgresTable(database="airline_ops", table="trips")
HISTORY = Source(contract=trips("ride_history"), origin=ORIGIN, load="daily")
USE_CASE: UseCase = replace(
    nyc_flights,
    sources=(
        Source(contract=TRIPS, origin=ORIGIN, load="daily"),
        Source(contract=trips("buses"), origin=ORIGIN, load="snapshot"),
        HISTORY,
    ),
    streams=(EventStream(contract=trips("rides"), topic="rides", history=HISTORY, history_field="kind", history_value="ride"),),
)
RANGE = {"dagster/asset_partition_range_start": str(day(0)), "dagster/asset_partition_range_end": str(day(2))}


def plain(value: object) -> object:
    """A setting as it is written to a file, secrets and all."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    return {name: plain(one) for name, one in value.items()} if isinstance(value, dict) else value


@pytest.fixture
def platform(isolated: Settings, tmp_path: Path) -> Platform:
    """The platform of this test's own stores."""
    told = {name: plain(getattr(isolated, name)) for name in type(isolated).model_fields if name != "home"}
    lines = [f"{PREFIX}{name.upper()}={json.dumps(value) if isinstance(value, dict) else value}" for name, value in told.items()]
    (tmp_path / STACK_ENV).write_text("\n".join(lines))
    return Platform(home=str(tmp_path))


def run(name: tuple[str, str], platform: Platform, **arguments: object) -> dg.ExecuteInProcessResult:
    """One asset materialized in this process."""
    (asset,) = [one for one in assets.defs(USE_CASE).assets or () if isinstance(one, dg.AssetsDefinition) and one.key == key(name)]
    return dg.materialize([asset], resources={"platform": platform}, raise_on_error=False, **arguments)  # type: ignore[arg-type]


def told(result: dg.ExecuteInProcessResult, name: tuple[str, str]) -> dict[str, object]:
    """The metadata of a materialization, as plain values."""
    (first, *_) = result.asset_materializations_for_node("__".join(name))
    return {label: value.value for label, value in first.metadata.items()}


def test_each_source_and_stream_has_a_table_but_a_history() -> None:
    """What is only the past of a stream is not in the lake a second time; sources loaded whole have no days."""
    bound = dg.Definitions.merge(assets.defs(USE_CASE), dg.Definitions(resources={"platform": Platform()}))
    specs = bound.resolve_all_asset_specs()
    by_day = {spec.key: spec.partitions_def is not None for spec in specs if spec.key.path[0] == names.LAKE}

    assert by_day == {key(names.lake("trips")): True, key(names.lake("buses")): False, key(names.lake("rides")): True}
    assert {spec.group_name for spec in specs if spec.key.path[0] != "staged"} == {names.LAKE}


def test_a_range_is_published_in_one_run_and_told(isolated: Settings, platform: Platform) -> None:
    """Three days in one run: rows, snapshots, files and bytes, the contract's columns with their owner, and where each column came from."""
    for offset in range(3):
        stage(isolated, TRIPS, day(offset), trip_rows(day(offset)))
    name = names.lake(TRIPS.name)
    result = run(name, platform, tags=RANGE)
    metadata = told(result, name)
    schema, lineage = metadata["dagster/column_schema"], metadata["dagster/column_lineage"]

    assert result.success
    assert len(result.asset_materializations_for_node("lake__trips")) == 3
    assert (metadata["rows"], metadata["dagster/row_count"], metadata["files"], metadata["partitions_changed"]) == (15, 15, 3, 3)
    assert metadata["snapshot_id"] == str(tables.snapshot_id(isolated, name))
    assert metadata["snapshot_before"] == "None"
    assert isinstance(schema, dg.TableSchema)
    assert (schema.columns[0].description, schema.columns[0].tags["owner"]) == ("Identifier of the trip.", TRIPS.owner)
    assert isinstance(lineage, dg.TableColumnLineage)
    assert list(lineage.deps_by_column["fare"]) == [dg.TableColumnDep(key(names.staged(TRIPS.name)), "fare")]
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "rows_match_staging": True,
        "unique_key": True,
    }


def test_a_doubled_key_fails_a_blocking_check(isolated: Settings, platform: Platform) -> None:
    """Two rows of one key in the range: the check tells how many are too many and which, and what depends on the table does not run."""
    doubled = pa.concat_tables([trip_rows(day(0)), trip_rows(day(0), count=2)])
    stage(isolated, TRIPS, day(0), doubled)
    result = run(names.lake(TRIPS.name), platform, partition_key=str(day(0)))
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "unique_key"]

    assert not check.passed
    assert check.blocking
    assert check.metadata["surplus_rows"].value == 2
    assert not result.success


def test_a_day_that_was_not_staged_fails_for_good(isolated: Settings, platform: Platform) -> None:
    """The error says what to do, and Dagster does not try again."""
    result = run(names.lake(TRIPS.name), platform, partition_key=str(day(0)))
    (failure,) = [event for event in result.all_events if event.is_step_failure]

    assert isolated.s3_bucket
    assert "Materialize staged/trips for these partitions first" in str(failure.step_failure_data.error)


def test_a_snapshots_table_is_published_whole(isolated: Settings, platform: Platform) -> None:
    """A source without days is published in a run without partitions."""
    buses = trips("buses")
    stage(isolated, buses, None, trip_rows(day(0)))
    result = run(names.lake("buses"), platform)

    assert result.success
    assert told(result, names.lake("buses"))["rows"] == 5
    assert in_lake(isolated, buses).equals(trip_rows(day(0)))


def test_upkeep_runs_before_and_after_there_are_tables(isolated: Settings, platform: Platform) -> None:
    """The upkeep of a namespace is an asset: it tells files before and after, and the bytes it got back."""
    empty = run(names.maintenance(names.LAKE), platform)
    stage(isolated, TRIPS, day(0), trip_rows(day(0)))
    run(names.lake(TRIPS.name), platform, partition_key=str(day(0)))
    full = run(names.maintenance(names.LAKE), platform)
    metadata = told(full, names.maintenance(names.LAKE))

    assert empty.success
    assert full.success
    assert (metadata["files_before"], metadata["files_after"], metadata["bytes_reclaimed"]) == (1, 1, 0)


def test_upkeep_is_scheduled_and_on() -> None:
    """It changes no row, so its schedule runs without being asked for."""
    (schedule,) = assets.defs(USE_CASE).schedules or ()

    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == "tidy_the_lake"
