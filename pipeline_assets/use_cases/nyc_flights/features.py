"""What is known about airport, airline, route, aircraft and weather when a flight is asked about."""

from datetime import timedelta

from pipeline_assets.spec.features import CleanedTable, FeatureView, Latest, RequestFeature, Windowed
from pipeline_assets.use_cases.nyc_flights import entities
from pipeline_assets.use_cases.nyc_flights.sources import NEW_YORK_AIRPORTS

OWNER = "ml-flights@nyc-flights.example"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NEW_YORK = "America/New_York"

departures = CleanedTable(
    name="departures_history", event_at="event_at", known_at="known_at", superseded_at="superseded_at", order_by=("flight_id",)
)
arrivals = CleanedTable(
    name="arrivals_history", event_at="event_at", known_at="known_at", superseded_at="superseded_at", order_by=("flight_id",)
)
weather_observations = CleanedTable(
    name="weather_observations_history", event_at="observed_at", known_at="known_at", superseded_at="superseded_at", order_by=("origin",)
)
aircraft_register = CleanedTable(
    name="aircraft_history", event_at="known_at", known_at="known_at", superseded_at="superseded_at", order_by=("tailnum",)
)

origin_departures = FeatureView(
    name="origin_departures",
    entity=entities.origin,
    source=departures,
    features=(
        Windowed(name="flights", aggregate="count", windows=(HOUR, 3 * HOUR)),
        Windowed(name="late_rate", aggregate="rate", column="is_late", windows=(HOUR, 3 * HOUR, 12 * HOUR, 7 * DAY)),
        Windowed(name="delay_mean", aggregate="mean", column="delay_minutes", windows=(HOUR, 3 * HOUR, 12 * HOUR)),
        Windowed(name="delay_stddev", aggregate="stddev", column="delay_minutes", windows=(3 * HOUR,)),
        Windowed(name="delay_max", aggregate="max", column="delay_minutes", windows=(3 * HOUR,)),
        Windowed(name="cancelled_rate", aggregate="rate", column="is_cancelled", windows=(6 * HOUR, DAY)),
    ),
    owner=OWNER,
    description="How departures have gone at the airport.",
    freshness=timedelta(hours=6),
    online="stream",
)

carrier_departures = FeatureView(
    name="carrier_departures",
    entity=entities.carrier,
    source=departures,
    features=(
        Windowed(name="flights", aggregate="count", windows=(DAY,)),
        Windowed(name="late_rate", aggregate="rate", column="is_late", windows=(3 * HOUR, DAY, 7 * DAY, 28 * DAY)),
        Windowed(name="delay_mean", aggregate="mean", column="delay_minutes", windows=(3 * HOUR, DAY, 7 * DAY)),
        Windowed(name="cancelled_rate", aggregate="rate", column="is_cancelled", windows=(DAY,)),
    ),
    owner=OWNER,
    description="How departures of the airline have gone.",
    freshness=timedelta(hours=6),
    online="stream",
)

route_departures = FeatureView(
    name="route_departures",
    entity=entities.route,
    source=departures,
    features=(
        Windowed(name="flights", aggregate="count", windows=(7 * DAY,)),
        Windowed(name="late_rate", aggregate="rate", column="is_late", windows=(DAY, 7 * DAY, 28 * DAY)),
        Windowed(name="delay_mean", aggregate="mean", column="delay_minutes", windows=(7 * DAY, 28 * DAY)),
        Windowed(name="last_delay", aggregate="last", column="delay_minutes", windows=(DAY,)),
    ),
    owner=OWNER,
    description="How departures on the route have gone.",
    freshness=timedelta(hours=6),
    online="stream",
)

aircraft_departures = FeatureView(
    name="aircraft_departures",
    entity=entities.aircraft,
    source=departures,
    features=(
        Windowed(name="flights", aggregate="count", windows=(DAY, 7 * DAY)),
        Windowed(name="last_delay", aggregate="last", column="delay_minutes", windows=(DAY,)),
        Windowed(name="delay_mean", aggregate="mean", column="delay_minutes", windows=(DAY, 7 * DAY)),
        Windowed(name="since_departure", aggregate="time_since_last", windows=(7 * DAY,)),
    ),
    owner=OWNER,
    description="What the aircraft has done out of New York.",
    freshness=timedelta(hours=6),
    online="stream",
)

destination_arrivals = FeatureView(
    name="destination_arrivals",
    entity=entities.destination,
    source=arrivals,
    features=(
        Windowed(name="flights", aggregate="count", windows=(6 * HOUR,)),
        Windowed(name="delay_mean", aggregate="mean", column="delay_minutes", windows=(6 * HOUR, DAY, 7 * DAY)),
        Windowed(name="delay_max", aggregate="max", column="delay_minutes", windows=(6 * HOUR,)),
        Windowed(name="late_rate", aggregate="rate", column="is_late", windows=(6 * HOUR, DAY)),
    ),
    owner=OWNER,
    description="How flights from New York have arrived at the destination.",
    freshness=timedelta(hours=6),
    online="stream",
)

origin_weather = FeatureView(
    name="origin_weather",
    entity=entities.origin,
    source=weather_observations,
    features=(
        Latest(name="temperature_f", column="temperature_f", ttl=6 * HOUR),
        Latest(name="dew_point_f", column="dew_point_f", ttl=6 * HOUR),
        Latest(name="humidity_percent", column="humidity_percent", ttl=6 * HOUR),
        Latest(name="wind_speed_mph", column="wind_speed_mph", ttl=6 * HOUR),
        Latest(name="wind_gust_mph", column="wind_gust_mph", ttl=6 * HOUR),
        Latest(name="pressure_mb", column="pressure_mb", ttl=6 * HOUR),
        Latest(name="visibility_miles", column="visibility_miles", ttl=6 * HOUR),
        Latest(name="precipitation_in", column="precipitation_in", ttl=6 * HOUR),
        Windowed(name="precipitation", aggregate="sum", column="precipitation_in", windows=(6 * HOUR, DAY)),
        Windowed(name="visibility_min", aggregate="min", column="visibility_miles", windows=(6 * HOUR,)),
        Windowed(name="wind_speed_max", aggregate="max", column="wind_speed_mph", windows=(6 * HOUR,)),
        Windowed(name="pressure_mean", aggregate="mean", column="pressure_mb", windows=(DAY,)),
    ),
    owner=OWNER,
    description="The weather at the airport of departure.",
    freshness=timedelta(hours=6),
)

aircraft_attributes = FeatureView(
    name="aircraft_attributes",
    entity=entities.aircraft,
    source=aircraft_register,
    features=(
        Latest(name="year_built", column="year_built"),
        Latest(name="seats", column="seats"),
        Latest(name="engines", column="engines"),
    ),
    owner=OWNER,
    description="What kind of aircraft it is.",
    freshness=timedelta(days=400),
)

CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
AT = "scheduled_departure_at"

request_features = (
    RequestFeature(name="hour", column=AT, transform="hour", time_zone=NEW_YORK, description="Local hour of the scheduled departure."),
    RequestFeature(
        name="minute_of_day", column=AT, transform="minute_of_day", time_zone=NEW_YORK, description="Local minutes since midnight."
    ),
    RequestFeature(name="weekday", column=AT, transform="weekday", time_zone=NEW_YORK, description="Monday 1 to Sunday 7, local."),
    RequestFeature(name="distance_miles", column="distance_miles", description="Distance to the destination, in miles."),
    RequestFeature(name="planned_minutes", column="planned_minutes", description="Planned time from gate to gate, in minutes."),
    RequestFeature(name="origin", column="origin", values=NEW_YORK_AIRPORTS, description="Airport of departure."),
    RequestFeature(name="carrier", column="carrier", values=CARRIERS, description="Airline."),
)
