"""The assets of cleaning as Dagster runs them: what a run of some days leaves in the warehouse, and what it tells in the graph."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from pipeline_assets.core import connections, names
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.processing.cleaning import assets
from pipeline_assets.processing.lake import tables
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.flight_rows import DEPARTURES, Row, at, cleaned_rows, day, departure, departures, expected_departures
from pipeline_assets_tests.january import write_stack_env
from pipeline_assets_tests.lake_rows import stage

RAW, CLEANED = names.raw(DEPARTURES.name), names.cleaned("departures")
STAGING = (names.STAGING, names.stg(DEPARTURES.name))
RANGE = {"dagster/asset_partition_range_start": str(day(0)), "dagster/asset_partition_range_end": str(day(1))}


@pytest.fixture(scope="module")
def room() -> dg.Definitions:
    """The definitions of cleaning."""
    return assets.defs(use_case)


@pytest.fixture
def platform(isolated: Settings, tmp_path: Path) -> Platform:
    """The platform of this test's own stores."""
    write_stack_env(isolated, tmp_path)
    return Platform(home=str(tmp_path))


def publish(settings: Settings, rows: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
    """Puts departures of some days into the lake."""
    for on, found in rows.items():
        stage(settings, DEPARTURES, day(on), pa.Table.from_pylist([dict(row) for row in found], schema=arrow_schema(DEPARTURES)))
    tables.publish_days(settings, DEPARTURES, day(min(rows)), day(max(rows)))


def run(room: dg.Definitions, platform: Platform, *chosen: AssetName) -> dg.ExecuteInProcessResult:
    """The first two days of some assets, with their checks, materialized in this process."""
    selection = dg.AssetSelection.assets(*(key(name) for name in chosen))
    checks = [check for check in room.asset_checks or () if isinstance(check, dg.AssetChecksDefinition)]
    listed = [asset for asset in room.assets or () if isinstance(asset, dg.AssetsDefinition)]
    return dg.materialize([*listed, *checks], selection=selection, resources={"platform": platform}, tags=RANGE, raise_on_error=False)


def told(result: dg.ExecuteInProcessResult, name: AssetName) -> dict[str, Any]:
    """The metadata of an asset's last materialization, as plain values."""
    (*_, event) = [event for event in result.get_asset_materialization_events() if event.asset_key == key(name)]
    return {label: entry.value for label, entry in event.materialization.metadata.items()}


def checked(result: dg.ExecuteInProcessResult, name: AssetName) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks of an asset that were evaluated, by name."""
    return {check.check_name: check for check in result.get_asset_check_evaluations() if check.asset_key == key(name)}


def two_days() -> dict[int, list[Row]]:
    """Departures of two days."""
    return {on: departures(on, 10, seed=on) for on in range(2)}


def test_a_run_copies_builds_and_tests_and_tells_of_it(room: dg.Definitions, platform: Platform) -> None:
    """One run over two days: rows from the lake reach the cleaned table; counts, snapshot, lineage and checks are in the graph."""
    settings, rows = platform.settings, two_days()
    publish(settings, rows)

    result = run(room, platform, RAW, STAGING, CLEANED)

    assert result.success
    assert cleaned_rows(settings, "departures") == expected_departures([*rows[0], *rows[1]])
    loaded, built = told(result, RAW), told(result, CLEANED)
    assert (loaded["dagster/partition_row_count"], loaded["replaced_rows"]) == (20, 0)
    assert loaded["lake_snapshot_id"] == str(tables.snapshot_id(settings, names.lake(DEPARTURES.name)))
    assert (built["dagster/row_count"], built["dagster/partition_row_count"]) == (20, 20)
    lineage = {
        column: {(dep.asset_key, dep.column_name) for dep in deps}
        for column, deps in built["dagster/column_lineage"].deps_by_column.items()
    }
    assert lineage["is_late"] == {(key(STAGING), "delay_minutes"), (key(STAGING), "is_cancelled")}
    assert {name: check.passed for name, check in checked(result, RAW).items()} == {assets.LOADED_IN_TIME: True}
    assert checked(result, CLEANED)["unique_departures_flight_id"].passed
    assert checked(result, STAGING)["unique_stg_flight_departures_flight_id"].passed


def test_a_test_that_needs_a_table_not_built_yet_warns(room: dg.Definitions, platform: Platform) -> None:
    """Departures without their flights: the check that compares them could not be run; it warns and stops nothing."""
    publish(platform.settings, two_days())

    result = run(room, platform, RAW, STAGING, CLEANED)

    compared = checked(result, CLEANED)["departures_flight_id_mostly_in_flights"]
    assert result.success
    assert (compared.passed, compared.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert compared.metadata["failing_rows"].value == "the test could not be run"


def test_a_row_that_breaks_a_rule_stops_the_run_before_the_cleaned_table(room: dg.Definitions, platform: Platform) -> None:
    """A blocking check of the staging model fails: the run fails, the check says how many rows, the cleaned table keeps its rows."""
    settings, rows = platform.settings, two_days()
    publish(settings, rows)
    run(room, platform, RAW, STAGING, CLEANED)
    before = cleaned_rows(settings, "departures")
    publish(settings, {1: [*rows[1], departure("never-left", at(1), at(1), 99_999)]})

    result = run(room, platform, RAW, STAGING, CLEANED)

    ranged = checked(result, STAGING)["stg_flight_departures_delay_minutes_in_range"]
    assert not result.success
    assert (ranged.passed, ranged.blocking, ranged.metadata["failing_rows"].value) == (False, True, 1)
    assert cleaned_rows(settings, "departures") == before


def test_the_graph_warns_of_a_raw_table_that_was_not_loaded_in_time(room: dg.Definitions, platform: Platform) -> None:
    """Rows loaded longer ago than the contract allows fail the check with a warning, and it says when they were loaded."""
    settings = platform.settings
    publish(settings, two_days())
    run(room, platform, RAW)
    with connections.warehouse(settings) as connection:
        connection.execute("update raw.flight_departures set _loaded_at = now() - interval '400 days'")
    checks = [check for check in room.asset_checks or () if isinstance(check, dg.AssetChecksDefinition)]
    only = dg.AssetSelection.checks(dg.AssetCheckKey(key(RAW), assets.LOADED_IN_TIME))

    result = dg.materialize(checks, selection=only, resources={"platform": platform}, raise_on_error=False)

    (late,) = result.get_asset_check_evaluations()
    assert (late.passed, late.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert late.metadata["loaded_at"].value != "never"
