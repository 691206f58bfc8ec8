"""Feature tables on real services: what the warehouse holds becomes what the lake holds, day by day or all at once."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel, SecretStr

from pipeline_assets.core import connections, names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import PREFIX, STACK_ENV, Settings
from pipeline_assets.processing.features import assets
from pipeline_assets.processing.features.columns import DECISION_AT
from pipeline_assets.processing.features.materialize import (
    identity,
    materialize_view,
    read_events,
    read_observations,
    read_view_events,
    requests_of,
)
from pipeline_assets.processing.features.view import feature_names, view_features
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.use_cases.nyc_flights import use_case
from simulator.nyc_flights import data

FIRST, LAST, UNTIL = date(2013, 1, 8), date(2013, 1, 10), date(2013, 1, 12)
ORIGIN, _, ROUTE, AIRCRAFT, _, WEATHER, _ = use_case.views


@cache
def cleaned_tables() -> dict[str, pl.DataFrame]:
    """The cleaned tables of the first days of the year, as dbt would make them of the data."""
    end = datetime.combine(UNTIL, time(), UTC)
    flights = data.flights().filter(pl.col("scheduled_departure_at") < end)
    history = data.flight_history(flights).rename({"recorded_at": "known_at"}).with_columns(is_late=pl.col("delay_minutes") >= 15)
    return {
        "flights": flights.with_columns(decision_at=pl.col("scheduled_departure_at") - timedelta(minutes=60)),
        "departures": history.filter(pl.col("event_type") == "departure").with_columns(pl.col("is_late").fill_null(value=True)),
        "arrivals": history.filter(pl.col("event_type") == "arrival"),
        "weather_observations": data.weather().filter(pl.col("observed_at") < end).rename({"published_at": "known_at"}),
        "aircraft": data.planes().rename({"updated_at": "known_at"}),
    }


def store(settings: Settings, frames: Mapping[str, pl.DataFrame]) -> None:
    """Makes the tables in the schema of the cleaned models."""
    with connections.warehouse(settings) as connection:
        connection.execute(f"create schema if not exists {names.CLEANED}")
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        for name, frame in frames.items():
            cursor.adbc_ingest(name, frame.to_arrow(), mode="create", db_schema_name=names.CLEANED)
        connection.commit()


@pytest.fixture
def warehouse(isolated: Settings) -> Settings:
    """A stack whose warehouse holds the cleaned tables."""
    store(isolated, cleaned_tables())
    return isolated


def in_lake(settings: Settings, view: FeatureView) -> pa.Table:
    """The rows of a view's table, by time and keys."""
    order = [(column, "ascending") for column in (DECISION_AT, *view.entity.keys)]
    return tables.read_all(settings, names.features(view.name)).read_all().sort_by(order)


def test_the_lake_holds_what_the_kernel_finds_in_all_rows(warehouse: Settings) -> None:
    """Reading back only as far as a view looks loses nothing: each table equals the kernel over the whole history."""
    done = {view.name: materialize_view(warehouse, use_case, view, FIRST, LAST) for view in use_case.views}
    held = {view.name: in_lake(warehouse, view) for view in use_case.views}
    found = {view.name: held[view.name].select(feature_names(view)).to_pylist() for view in use_case.views}
    whole = {name: frame.to_arrow() for name, frame in cleaned_tables().items()}
    expected = {view.name: view_features(view, held[view.name], whole[view.source.name]).to_pylist() for view in use_case.views}

    assert found == expected
    assert {name: one.published.rows for name, one in done.items() if one.published} == {name: len(rows) for name, rows in found.items()}
    assert [held[view.name].column_names for view in use_case.views] == [[*identity(v), *feature_names(v)] for v in use_case.views]


def test_rows_are_the_distinct_decisions_of_the_days(warehouse: Settings) -> None:
    """One row per key and time of decision, by the day of the decision; flights without an aircraft have none."""
    asked = cleaned_tables()["flights"].filter(pl.col("decision_at").dt.date().is_between(FIRST, LAST))
    for view in (ORIGIN, AIRCRAFT):
        materialize_view(warehouse, use_case, view, FIRST, LAST)
        expected = asked.select(identity(view)).drop_nulls().unique().sort(DECISION_AT, *view.entity.keys)

        assert in_lake(warehouse, view).select(identity(view)).to_pylist() == expected.to_dicts()
        assert asked.height > expected.height


def test_days_one_by_one_equal_days_at_once(warehouse: Settings) -> None:
    """A range in one go and its days in any order leave the same rows, and the same days again change nothing."""
    for day in (LAST, FIRST, FIRST + timedelta(days=1)):
        materialize_view(warehouse, use_case, ROUTE, day, day)
    one_by_one = in_lake(warehouse, ROUTE)
    again = materialize_view(warehouse, use_case, ROUTE, FIRST, LAST)

    assert again.published is not None
    assert again.published.changed == 0
    assert in_lake(warehouse, ROUTE).equals(one_by_one)


def test_a_day_without_decisions_is_empty(warehouse: Settings) -> None:
    """No flight, no row; and the day counts as materialized."""
    done = materialize_view(warehouse, use_case, ROUTE, date(2013, 2, 1), date(2013, 2, 1))

    assert done.published is not None
    assert (done.quality.asked, done.published.rows) == (0, 0)


def test_events_are_read_no_further_than_the_view_looks(warehouse: Settings) -> None:
    """The weather of a day needs a day, an hour and nothing of what became known later."""
    events = read_view_events(warehouse, WEATHER, LAST, LAST)
    observed = pl.Series(events.column("observed_at"))
    midnight = datetime.combine(LAST, time(), UTC)

    assert observed.min() == midnight - timedelta(hours=25)
    assert observed.max() == midnight + timedelta(hours=23)
    assert events.schema.field("observed_at").type == pa.timestamp("us", tz="UTC")


def test_events_have_each_column_once(warehouse: Settings) -> None:
    """Columns that are asked for twice, or are also a time or a tie-breaker, come once."""
    asked = ["origin", "flight_id", "delay_minutes", "delay_minutes", "known_at"]
    events = read_events(warehouse, ROUTE.source, asked, None, datetime(2013, 1, 2, tzinfo=UTC))

    assert events.column_names == ["origin", "flight_id", "delay_minutes", "known_at", "event_at"]


def test_observations_are_those_of_the_days_in_order(warehouse: Settings) -> None:
    """All columns of the flights whose decision falls in the days, by time and identifier."""
    found = pl.DataFrame(read_observations(warehouse, use_case.model, FIRST, LAST))
    flights = cleaned_tables()["flights"]
    expected = flights.filter(pl.col("decision_at").dt.date().is_between(FIRST, LAST)).sort("decision_at", "flight_id")

    assert found["flight_id"].to_list() == expected["flight_id"].to_list()
    assert set(found.columns) == set(flights.columns)
    assert requests_of(ROUTE, use_case.model.observations, found.to_arrow()).num_rows <= found.height


def test_a_value_that_is_no_number_stops_the_view(isolated: Settings) -> None:
    """NaN in a cleaned table is an error that names table and column; nothing is written."""
    weather = cleaned_tables()["weather_observations"].with_columns(pressure_mb=float("nan"))
    store(isolated, cleaned_tables() | {"weather_observations": weather})
    with pytest.raises(TableMismatch, match=r"Table 'weather_observations' has .* NaN or infinite values in column 'pressure_mb'"):
        materialize_view(isolated, use_case, WEATHER, FIRST, FIRST)

    assert tables.snapshot_id(isolated, names.features(WEATHER.name)) is None


def platform_of(settings: Settings, home: Path) -> Platform:
    """The platform resource over these settings."""
    lines = [f"{PREFIX}{name.upper()}={_told(value)}" for name, value in settings if name != "home"]
    (home / STACK_ENV).write_text("\n".join(lines) + "\n")
    return Platform(home=str(home))


def _told(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        inner = {name: _told(one) if isinstance(one, SecretStr) else _plain(one) for name, one in value.items()}
        return str(inner).replace("'", '"')
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return {name: _told(one) for name, one in value}
    return value


def test_a_run_materializes_a_range_and_tells_what_it_made(warehouse: Settings, tmp_path: Path) -> None:
    """One run over three days: rows and snapshots, described columns with their lineage, and three checks that pass."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [asset for asset in assets.defs(use_case).assets or () if isinstance(asset, dg.AssetsDefinition)],
            selection=[key(names.features(WEATHER.name))],
            resources={"platform": platform_of(warehouse, tmp_path)},
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": FIRST.isoformat(),
                "dagster/asset_partition_range_end": LAST.isoformat(),
            },
        )
    (event, *_) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    lineage, schema = metadata["dagster/column_lineage"], metadata["dagster/column_schema"]
    assert isinstance(lineage, dg.TableColumnLineageMetadataValue)
    assert isinstance(schema, dg.TableSchemaMetadataValue)

    assert result.success
    assert metadata["dagster/row_count"].value == in_lake(warehouse, WEATHER).num_rows
    assert metadata["snapshot_id"].value == str(tables.snapshot_id(warehouse, names.features(WEATHER.name)))
    assert (
        dg.TableColumnDep(key(names.cleaned("weather_observations")), "pressure_mb")
        in lineage.value.deps_by_column["origin_weather__pressure_mean_1d"]
    )
    assert all(column.description for column in schema.value.columns)
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        assets.ROWS_MATCH: True,
        assets.FINITE: True,
        assets.KNOWN: True,
    }
