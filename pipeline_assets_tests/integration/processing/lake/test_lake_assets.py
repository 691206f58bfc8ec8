"""The lake's assets as Dagster runs them: what they report, and what stops their dependents."""

from dataclasses import replace

import dagster as dg
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.clocks import replay
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import DELETED_AT
from pipeline_assets.processing.lake import assets, tables
from pipeline_assets.spec.sources import EventStream, History, PostgresTable, Source
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
    streams=(EventStream(contract=trips("rides"), topic="rides", history=History(source=HISTORY, field="kind", value="ride")),),
)
PROJECT = Project(use_cases=(USE_CASE, replace(USE_CASE, name="second", owner="second@lake.example", models=())))
RANGE = {"dagster/asset_partition_range_start": str(day(0)), "dagster/asset_partition_range_end": str(day(2))}


def run(name: tuple[str, str], platform: Platform, **arguments: object) -> dg.ExecuteInProcessResult:
    """One asset materialized in this process."""
    (asset,) = [one for one in assets.defs(PROJECT).assets or () if isinstance(one, dg.AssetsDefinition) and one.key == key(name)]
    return dg.materialize([asset], resources={"platform": platform}, raise_on_error=False, **arguments)  # type: ignore[arg-type]


def metadata_of(result: dg.ExecuteInProcessResult, name: tuple[str, str]) -> dict[str, object]:
    """The metadata of the newest materialization, as plain values."""
    (*_, newest) = result.asset_materializations_for_node("__".join(name))
    return {label: value.value for label, value in newest.metadata.items()}


def test_each_source_and_stream_has_a_table_but_a_history() -> None:
    """What is only the past of a stream is not in the lake a second time; sources loaded whole have no days."""
    bound = dg.Definitions.merge(assets.defs(PROJECT), dg.Definitions(resources={"platform": Platform()}))
    specs = bound.resolve_all_asset_specs()
    by_day = {spec.key: spec.partitions_def is not None for spec in specs if spec.key.path[0] == names.LAKE}

    assert by_day == {key(names.lake("trips")): True, key(names.lake("buses")): False, key(names.lake("rides")): True}
    assert {spec.group_name for spec in specs if spec.key.path[0] != "staged"} == {names.LAKE}


def test_a_range_is_published_in_one_run_and_reported(isolated: Settings, platform: Platform) -> None:
    """Three days in one run: rows, snapshots, files and bytes, the contract's columns with their owner, and where each column came from."""
    for offset in range(3):
        stage(isolated, TRIPS, day(offset), trip_rows(day(offset)))
    name = names.lake(TRIPS.name)
    result = run(name, platform, tags=RANGE)
    metadata = metadata_of(result, name)
    schema, lineage = metadata["dagster/column_schema"], metadata["dagster/column_lineage"]

    assert result.success
    shown = [{**one.metadata} for one in result.asset_materializations_for_node("lake__trips")]
    assert [one["dagster/partition_row_count"].value for one in shown] == [5, 5, 5]
    assert [len(one) for one in shown[:2]] == [1, 1]
    sums = metadata["run"]
    assert isinstance(sums, dict)
    assert (sums["rows"], metadata["dagster/row_count"], sums["files"], sums["partitions_changed"]) == (15, 15, 3, 3)
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
    """Two rows of one version: the check reports how many are too many and which, and what depends on the table does not run."""
    doubled = pa.concat_tables([trip_rows(day(0)), trip_rows(day(0)).slice(0, 2)])
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
    assert metadata_of(result, names.lake("buses"))["rows"] == 5
    assert in_lake(isolated, buses).drop_columns(DELETED_AT).equals(trip_rows(day(0)))


def tick(platform: Platform, cursor: str | None) -> tuple[list[dg.AssetCheckEvaluation], str]:
    """What the sensor of freshness says of the trips, with its cursor."""
    (sensor,) = [one for one in assets.defs(PROJECT).sensors or () if one.name == names.DATA_FRESHNESS]
    with dg.DagsterInstance.ephemeral() as instance:
        said = sensor(dg.build_sensor_context(instance=instance, cursor=cursor, resources={"platform": platform}))
    assert isinstance(said, dg.SensorResult)
    return [event for event in said.asset_events if isinstance(event, dg.AssetCheckEvaluation)], str(said.cursor)


def test_a_source_that_stands_still_is_stale_within_its_promise(isolated: Settings, platform: Platform) -> None:
    """By the replay clock: fresh as long as its newest row may be old, then an error with what to do, and fresh again with new rows."""
    home, name = platform.settings.home, names.lake(TRIPS.name)
    for offset in range(3):
        stage(isolated, TRIPS, day(offset), trip_rows(day(offset)))
    assert run(name, platform, tags=RANGE).success
    replay(home, USE_CASE.name, day(2))
    first, cursor = tick(platform, None)
    replay(home, USE_CASE.name, day(3))
    second, cursor = tick(platform, cursor)
    still, cursor = tick(platform, cursor)
    stage(isolated, TRIPS, day(3), trip_rows(day(3)))
    assert run(name, platform, partition_key=str(day(3))).success
    third, _ = tick(platform, cursor)

    assert [(one.asset_key, one.check_name, one.passed) for one in first] == [(key(name), names.IS_FRESH, True)]
    assert [(one.passed, one.severity) for one in second] == [(False, dg.AssetCheckSeverity.ERROR)]
    assert second[0].description == (
        "The newest row is of 2013-01-03 23:59 UTC, 1 day, 0:00:00.000001 old by the replay clock at 2013-01-05 00:00 UTC; "
        "1 day, 0:00:00 may be. See whether the source still delivers, and the newest runs of staged/trips."
    )
    assert (second[0].metadata["age_hours"].value, second[0].metadata["promised_hours"].value) == (24.0, 24.0)
    assert still == []
    assert [one.passed for one in third] == [True]


def test_a_history_that_was_loaded_long_ago_is_stale_only_where_more_is_awaited(isolated: Settings, platform: Platform) -> None:
    """Rows of 2013: nothing is awaited of days that have ended, also with no row at all; open days go by the clock on the wall."""
    stage(isolated, TRIPS, day(0), trip_rows(day(0)))
    assert run(names.lake(TRIPS.name), platform, partition_key=str(day(0))).success
    verdicts = {}
    for last_day in (USE_CASE.last_day, None):
        project = Project(use_cases=(replace(USE_CASE, last_day=last_day, models=()),))
        checks = [one for one in assets.defs(project).asset_checks or () if isinstance(one, dg.AssetChecksDefinition)]
        chosen = dg.AssetSelection.checks(*(dg.AssetCheckKey(key(names.lake(one)), names.IS_FRESH) for one in (TRIPS.name, "buses")))
        result = dg.materialize(checks, selection=chosen, resources={"platform": platform}, raise_on_error=False)
        verdicts[last_day] = {one.asset_key.path[1]: (one.passed, one.description) for one in result.get_asset_check_evaluations()}

    ended = (True, "The days of nyc_flights ended on 2014-01-01: nothing newer is awaited.")
    assert verdicts[USE_CASE.last_day] == {"trips": ended, "buses": ended}
    assert {name: passed for name, (passed, _) in verdicts[None].items()} == {"trips": False, "buses": False}
    assert str(verdicts[None]["buses"][1]).startswith("There is no row by the clock at ")


def test_maintenance_runs_before_and_after_there_are_tables(isolated: Settings, platform: Platform) -> None:
    """The maintenance of a namespace is an asset: it reports files before and after, and the bytes that it reclaimed."""
    empty = run(names.maintenance(names.LAKE), platform)
    stage(isolated, TRIPS, day(0), trip_rows(day(0)))
    run(names.lake(TRIPS.name), platform, partition_key=str(day(0)))
    full = run(names.maintenance(names.LAKE), platform)
    metadata = metadata_of(full, names.maintenance(names.LAKE))

    assert empty.success
    assert full.success
    assert (metadata["files_before"], metadata["files_after"], metadata["bytes_reclaimed"]) == (1, 1, 0)


def test_maintenance_and_audit_are_scheduled_once_and_on() -> None:
    """They change no row, so they run without being asked for; maintenance is made once, and belongs to the owners of all use cases."""
    definitions = assets.defs(PROJECT)
    schedules = [one for one in definitions.schedules or () if isinstance(one, dg.ScheduleDefinition)]
    found = {one.key: one for one in definitions.assets or () if isinstance(one, dg.AssetsDefinition)}
    maintained = {asset_key: one for asset_key, one in found.items() if asset_key.path[0] == names.MAINTENANCE}

    assert [one.job_name for one in schedules] == [names.MAINTAIN_LAKE, names.AUDIT_LAKE]
    assert {one.default_status for one in schedules} == {dg.DefaultScheduleStatus.RUNNING}
    assert set(maintained) == {key(names.maintenance(namespace)) for namespace in assets.POLICIES}
    assert all(set(one.owners_by_key[asset_key]) == {USE_CASE.owner, "second@lake.example"} for asset_key, one in maintained.items())
