"""Some days of January as cleaned tables in a warehouse, and a model of a few views over them, for tests of what follows cleaning."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache

import polars as pl

from pipeline_assets.core import connections, names
from pipeline_assets.core.columns import kind_of
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning.models import Built
from pipeline_assets.processing.cleaning.publish import publish
from pipeline_assets.processing.features.materialize import materialize_view
from pipeline_assets.processing.lake.tables import Published
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from simulator.nyc_flights import data

FIRST, LAST, UNTIL = date(2013, 1, 8), date(2013, 1, 9), date(2013, 1, 11)
NAMES = ("origin_departures", "aircraft_departures", "origin_weather")
VIEWS = tuple(view for view in flight_delay.views if view.name in NAMES)
MODEL = replace(flight_delay, views=VIEWS)
USE_CASE = replace(nyc_flights.use_case, models=(MODEL,))
PROJECT = Project(use_cases=(USE_CASE,), tables=load_project().tables)

Days = tuple[str | None, tuple[str, ...]]
# The time and key of the tables that are kept by the day.
DAYS: Mapping[str, Days] = {
    "flights_history": ("scheduled_departure_at", ("flight_id",)),
    "departures_history": ("event_at", ("flight_id",)),
    "arrivals_history": ("event_at", ("flight_id",)),
    "weather_observations_history": ("observed_at", ("origin",)),
    "hours": ("asked_at", ("number",)),
}


@cache
def cleaned_tables() -> Mapping[str, pl.DataFrame]:
    """The cleaned tables of the first days of the year, as dbt would make them of the data."""
    end = datetime.combine(UNTIL, time(), UTC)
    flights = data.flights().filter(pl.col("scheduled_departure_at") < end)
    history = data.flight_history(flights).rename({"recorded_at": "known_at"})
    planned = (pl.col("scheduled_arrival_at") - pl.col("scheduled_departure_at")).dt.total_minutes()
    is_late = (pl.col("delay_minutes") >= 15).fill_null(value=True)
    found = {
        "flights": flights.with_columns(
            decision_at=pl.col("scheduled_departure_at") - timedelta(minutes=60),
            known_at=pl.col("scheduled_departure_at") - data.PLANNED_AHEAD,
            planned_minutes=planned.cast(pl.Float64),
        ),
        "departures": history.filter(pl.col("event_type") == "departure").with_columns(is_late=is_late),
        "weather_observations": data.weather().filter(pl.col("observed_at") < end).rename({"published_at": "known_at"}),
        "aircraft": data.planes().rename({"updated_at": "known_at"}),
        "arrivals": history.filter(pl.col("event_type") == "arrival").with_columns(is_late=is_late),
    }
    return {f"{name}_history": with_versions(rows) for name, rows in found.items()}


def with_versions(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows that nobody has corrected, each the first version of its key."""
    return rows.with_columns(
        superseded_at=pl.lit(None, pl.Datetime("us", "UTC")), version=pl.lit(1, pl.Int64), is_current=pl.lit(value=True)
    )


def observations() -> pl.DataFrame:
    """The flights that are asked about on the days, in the order of time and key."""
    asked = pl.col("decision_at").dt.date().is_between(FIRST, LAST)
    return cleaned_tables()["flights_history"].filter(asked).sort("decision_at", "flight_id")


def store(settings: Settings, tables: Mapping[str, pl.DataFrame]) -> None:
    """Makes the tables in the schema of the cleaned models, and puts them into the lake."""
    store_in_warehouse(settings, tables)
    for name in tables:
        put_in_lake(settings, name)


def store_in_warehouse(settings: Settings, tables: Mapping[str, pl.DataFrame]) -> None:
    """Makes the tables in the schema of the cleaned models alone, where labels are read."""
    with connections.warehouse(settings) as connection:
        connection.execute(f"create schema if not exists {names.CLEANED}")
    with connections.arrow_warehouse(settings) as writer, writer.cursor() as cursor:
        for name, table in tables.items():
            cursor.adbc_ingest(name, table.to_arrow(), mode="replace", db_schema_name=names.CLEANED)
        writer.commit()


def put_in_lake(settings: Settings, name: str, days: Days | None = None) -> list[Published]:
    """Publishes a cleaned table as it stands in the warehouse; `days`: its time and key, where it is none of the flights."""
    query = "select column_name, data_type from information_schema.columns where (table_schema, table_name) = (%s, %s) order by column_name"
    with connections.warehouse(settings) as connection:
        columns = {column: kind_of(kind) for column, kind in connection.execute(query, names.cleaned(name)).fetchall()}
    event_at, keys = days or DAYS.get(name, (None, ()))
    return publish(settings, Built(name=name, columns=columns, event_at=event_at, keys=keys, is_noted=False))


def store_features(settings: Settings, first: date = FIRST, last: date = LAST) -> None:
    """Makes the feature tables of the views."""
    for view in VIEWS:
        materialize_view(settings, view, [MODEL], first, last)
