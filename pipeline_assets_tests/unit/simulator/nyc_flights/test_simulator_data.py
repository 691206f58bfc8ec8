"""The outside world is what really happened in 2013, with every time as an instant."""

from datetime import timedelta

import polars as pl
import pytest

from simulator.nyc_flights import data

NEW_YORK = "America/New_York"
SCHEDULED, ARRIVAL = pl.col("scheduled_departure_at"), pl.col("scheduled_arrival_at")


def _clock(instant: pl.Expr, zone: str = NEW_YORK) -> pl.Expr:
    """A local clock as the data writes it: 5:17 is 517."""
    local = instant.dt.convert_time_zone(zone)
    return local.dt.hour().cast(pl.Int64) * 100 + local.dt.minute()


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    """All flights, beside the columns of the file that they were made from."""
    identity = pl.format("{}{}-{}-{}", "carrier", "flight", "origin", pl.col("time_hour").dt.strftime("%Y%m%dT%H"))
    seen = data.read("flights.csv").select("sched_dep_time", "dep_time", "sched_arr_time", "arr_time", "air_time", flight_id=identity)
    zones = data.airports().select(dest="faa", zone="time_zone")
    return data.flights().join(seen, on="flight_id", how="left").join(zones, on="dest", how="left")


def test_every_flight_has_an_id_of_its_own(flights: pl.DataFrame) -> None:
    """Carrier, number, origin and hour tell all 336,776 flights apart."""
    assert (flights.height, flights["flight_id"].n_unique()) == (336_776, 336_776)


def test_departures_are_at_the_clock_time_of_new_york(flights: pl.DataFrame) -> None:
    """Planned and actual departures show the clock times of the file, on the days when clocks change too."""
    departed_at = SCHEDULED + pl.duration(minutes="departure_delay_minutes")
    planned = flights.filter(_clock(SCHEDULED) != pl.col("sched_dep_time"))
    actual = flights.filter(_clock(departed_at) != pl.col("dep_time") % 2400)

    assert planned.height == 0
    # On the night of the change to summer time one airline wrote down the old clock.
    assert actual.height <= 1


def test_arrivals_are_at_the_clock_time_of_the_destination(flights: pl.DataFrame) -> None:
    """Planned and actual arrivals show the clock times of the file at the destination."""
    arrived_at = ARRIVAL + pl.duration(minutes="arrival_delay_minutes")
    parts = [
        part.select(
            planned=_clock(ARRIVAL, str(zone)) != pl.col("sched_arr_time"), actual=_clock(arrived_at, str(zone)) != pl.col("arr_time")
        )
        for (zone,), part in flights.with_columns(pl.col("zone").fill_null("America/Puerto_Rico"), pl.col("arr_time") % 2400)
        .partition_by("zone", as_dict=True)
        .items()
    ]
    differing = pl.concat(parts).sum()

    assert differing.row(0) == (0, 1)


def test_arrivals_follow_departures_by_the_time_in_the_air(flights: pl.DataFrame) -> None:
    """From gate to gate a flight takes its time in the air and five minutes to four hours more on the ground."""
    departed_at = SCHEDULED + pl.duration(minutes="departure_delay_minutes")
    taken = (ARRIVAL + pl.duration(minutes="arrival_delay_minutes") - departed_at).dt.total_minutes()
    on_ground = flights.select((taken - pl.col("air_time")).alias("minutes"))["minutes"].drop_nulls()

    assert on_ground.len() == 327_346
    assert on_ground.is_between(5, 240).all()


def test_planned_times_are_plausible(flights: pl.DataFrame) -> None:
    """Every flight has a planned arrival, fifty minutes to twelve hours after its departure."""
    planned = flights.select((ARRIVAL - SCHEDULED).alias("planned"))["planned"]

    assert planned.null_count() == 0
    assert planned.is_between(timedelta(minutes=50), timedelta(hours=12)).all()


def test_the_schedule_is_known_a_week_ahead(flights: pl.DataFrame) -> None:
    """Each flight is planned once, recorded seven days before it leaves."""
    schedule = data.flight_schedule(flights)

    assert schedule.height == flights.height
    assert schedule.select((SCHEDULED - pl.col("recorded_at") == timedelta(days=7)).all()).item()


def test_history_tells_each_flight_once_and_its_arrival_where_it_arrived(flights: pl.DataFrame) -> None:
    """Every flight departs or is cancelled, 8,255 of them; another 1,175 were diverted, so that they have no arrival."""
    history = data.flight_history(flights)
    counts = history.group_by("event_type", "is_cancelled").len()

    assert set(counts.rows()) == {
        ("departure", False, 336_776 - 8_255),
        ("departure", True, 8_255),
        ("arrival", False, 336_776 - 8_255 - 1_175),
    }
    assert history.select(pl.struct("flight_id", "event_type").n_unique()).item() == history.height


def test_a_cancelled_flight_is_known_at_its_scheduled_time(flights: pl.DataFrame) -> None:
    """A cancellation has no delay, and happens when the flight should have left."""
    history = (
        data.flight_history(flights).filter("is_cancelled").join(flights.select("flight_id", "scheduled_departure_at"), on="flight_id")
    )

    assert history["delay_minutes"].null_count() == history.height == 8_255
    assert history.select((pl.col("event_at") == SCHEDULED).all()).item()


def test_history_is_recorded_as_it_happens(flights: pl.DataFrame) -> None:
    """An event could be known when it happened."""
    history = data.flight_history(flights)

    assert history["event_at"].equals(history["recorded_at"])


def test_the_share_of_late_flights_drifts_over_the_year(flights: pl.DataFrame) -> None:
    """15 minutes late or cancelled: a third in July, a sixth in September, near a third again in December."""
    is_late = pl.col("departure_delay_minutes").is_null() | (pl.col("departure_delay_minutes") >= 15)
    month = SCHEDULED.dt.convert_time_zone(NEW_YORK).dt.month()
    shares = dict(flights.group_by(month.alias("month")).agg(is_late.mean()).rows())

    assert (round(shares[7], 3), round(shares[9], 3), round(shares[12], 3)) == (0.326, 0.158, 0.312)


def test_weather_is_hourly_and_published_ten_minutes_later() -> None:
    """One row per airport and full hour, known ten minutes after it."""
    weather = data.weather()
    at = pl.col("observed_at")

    assert weather.height == weather.select(pl.struct("origin", "observed_at").n_unique()).item() == 26_115
    assert weather.select((at == at.dt.truncate("1h")).all()).item()
    assert weather.select((pl.col("published_at") - at == timedelta(minutes=10)).all()).item()


def test_registers_are_known_before_the_year_begins() -> None:
    """Planes, airports and airlines carry one time, before the first flight."""
    registers = [data.planes(), data.airports(), data.airlines()]

    assert [register.height for register in registers] == [3_322, 1_458, 16]
    assert {value for register in registers for value in register["updated_at"]} == {data.REFERENCE_AT}


def test_an_unknown_file_is_named() -> None:
    """A file that the package does not have is an error that names it."""
    with pytest.raises(FileNotFoundError, match=r"has no file 'trains\.csv'"):
        data.read("trains.csv")
