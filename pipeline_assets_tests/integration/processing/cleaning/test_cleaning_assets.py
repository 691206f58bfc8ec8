"""The assets of cleaning as Dagster runs them: what a run of some days leaves in the warehouse, and what it reports."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.processing.cleaning.raw.assets import KEEPS_ROWS
from pipeline_assets.processing.lake import tables
from pipeline_assets_tests.cleaning_runs import checked, failure, metadata_of, run
from pipeline_assets_tests.flight_rows import DEPARTURES, Row, at, cleaned_rows, day, departure, departures, expected_departures
from pipeline_assets_tests.lake_rows import stage

RAW, CLEANED, CURRENT = names.raw(DEPARTURES.name), names.cleaned("departures_history"), names.cleaned("departures")
STAGING = (names.STAGING, names.stg(DEPARTURES.name))
DAYS = (0, 1)


def publish(settings: Settings, rows: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
    """Puts departures of some days into the lake."""
    for on, found in rows.items():
        stage(settings, DEPARTURES, day(on), pa.Table.from_pylist([dict(row) for row in found], schema=arrow_schema(DEPARTURES)))
    tables.publish_days(settings, DEPARTURES, day(min(rows)), day(max(rows)))


def two_days() -> dict[int, list[Row]]:
    """Departures of two days."""
    return {on: departures(on, 10, seed=on) for on in range(2)}


def test_a_run_copies_builds_tests_and_reports(platform: Platform) -> None:
    """One run over two days: rows from the lake reach the cleaned table; counts, snapshot, lineage and checks are in the graph."""
    settings, rows = platform.settings, two_days()
    publish(settings, rows)

    result = run(platform, DAYS, RAW, STAGING, CLEANED, CURRENT)

    assert result.success
    assert cleaned_rows(settings, "departures_history") == expected_departures([*rows[0], *rows[1]])
    loaded, built = metadata_of(result, RAW), metadata_of(result, CLEANED)
    assert (loaded["dagster/partition_row_count"], loaded["run"]) == (10, {"rows": 20, "replaced_rows": 0})
    assert loaded["lake_snapshot_id"] == str(tables.snapshot_id(settings, names.lake(DEPARTURES.name)))
    assert (built["dagster/row_count"], built["dagster/partition_row_count"]) == (20, 10)
    earlier = [one for one in result.get_asset_materialization_events() if one.partition == str(day(0))]
    # Views have no time of their own by which dbt builds them, so that no rows of theirs are of a day.
    assert {one.asset_key: {label: entry.value for label, entry in one.materialization.metadata.items()} for one in earlier} == {
        **{key(name): {"dagster/partition_row_count": 10} for name in (RAW, CLEANED)},
        **{key(name): {} for name in (STAGING, CURRENT)},
    }
    lineage = {
        column: {(dep.asset_key, dep.column_name) for dep in deps}
        for column, deps in built["dagster/column_lineage"].deps_by_column.items()
    }
    assert lineage["is_late"] == {(key(STAGING), "delay_minutes"), (key(STAGING), "is_cancelled")}
    assert {name: check.passed for name, check in checked(result, RAW).items()} == {
        KEEPS_ROWS: True,
    }
    assert checked(result, CURRENT)["unique_departures_flight_id"].passed
    assert checked(result, STAGING)["unique_stg_flight_departures_flight_id"].passed


def test_a_test_that_compares_with_a_table_outside_the_run_is_left_out(platform: Platform) -> None:
    """Departures without their flights, which may not be built yet: all checks but the one that compares the two are evaluated."""
    publish(platform.settings, two_days())

    result = run(platform, DAYS, RAW, STAGING, CLEANED, CURRENT)

    assert result.success
    assert "departures_are_late_or_not" in checked(result, CURRENT)
    assert "departures_flight_id_mostly_in_flights" not in checked(result, CURRENT)


def test_a_row_that_breaks_a_rule_that_only_warns_stops_nothing(platform: Platform) -> None:
    """A departure known before it happened: the check fails as a warning that says how many rows, and the run succeeds."""
    publish(platform.settings, {0: [*departures(0, 5, seed=1), departure("foreseen", at(0, 60), at(0), 5)]})

    result = run(platform, DAYS, RAW, STAGING, CLEANED, CURRENT)

    foreseen = checked(result, CURRENT)["departures_known_after_they_happen"]
    assert result.success
    assert (foreseen.passed, foreseen.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert foreseen.metadata["dagster_dbt/failed_row_count"].value == 1


def test_a_row_that_breaks_a_rule_stops_the_run_before_the_cleaned_table(platform: Platform) -> None:
    """A blocking check of the staging model fails: the run fails, the check says how many rows, the cleaned table keeps its rows."""
    settings, rows = platform.settings, two_days()
    publish(settings, rows)
    run(platform, DAYS, RAW, STAGING, CLEANED, CURRENT)
    before = cleaned_rows(settings, "departures_history")
    publish(settings, {1: [*rows[1], departure("never-left", at(1), at(1), 99_999)]})

    result = run(platform, DAYS, RAW, STAGING, CLEANED, CURRENT)

    ranged = checked(result, STAGING)["stg_flight_departures_delay_minutes_in_range"]
    assert not result.success
    assert (ranged.passed, ranged.blocking, ranged.metadata["dagster_dbt/failed_row_count"].value) == (False, True, 1)
    assert "stg_flight_departures_delay_minutes_in_range" in failure(result)
    assert cleaned_rows(settings, "departures_history") == before
