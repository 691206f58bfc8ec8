"""The outside world: the operational database of the airports, a weather API, and the events of departures and arrivals."""

from datetime import timedelta

from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import EventStream, History, PostgresTable, RestEndpoint, Source

OPERATIONS = "airline-operations@nyc-flights.example"
METEOROLOGY = "meteorology@nyc-flights.example"
DATABASE = "airline_ops"
NEW_YORK_AIRPORTS = ("EWR", "JFK", "LGA")

FLIGHT_ID = Field(
    name="flight_id", type="string", required=True, max_length=40, description="Identifier of one scheduled flight on one day."
)
CARRIER = Field(name="carrier", type="string", required=True, max_length=2, description="Two-letter IATA code of the airline.")
TAILNUM = Field(name="tailnum", type="string", max_length=10, description="Registration of the aircraft; null where none was assigned.")
ORIGIN = Field(name="origin", type="string", required=True, allowed=NEW_YORK_AIRPORTS, description="FAA code of the airport of departure.")
DEST = Field(name="dest", type="string", required=True, max_length=4, description="FAA code of the destination.")
RECORDED_AT = Field(name="recorded_at", type="timestamp", required=True, description="When the row was written, and so could be known.")
UPDATED_AT = Field(name="updated_at", type="timestamp", required=True, description="When the row last changed, and so could be known.")

flight_schedule = Source(
    contract=Contract(
        name="flight_schedule",
        version="1.0.0",
        owner=OPERATIONS,
        description="All planned flights out of the New York airports, one row per flight.",
        fields=(
            FLIGHT_ID,
            CARRIER,
            Field(
                name="flight_number", type="integer", required=True, minimum=1, maximum=9999, description="Flight number of the airline."
            ),
            TAILNUM,
            ORIGIN,
            DEST,
            Field(name="scheduled_departure_at", type="timestamp", required=True, description="Planned departure from the gate."),
            Field(name="scheduled_arrival_at", type="timestamp", description="Planned arrival at the gate."),
            Field(name="distance_miles", type="integer", required=True, minimum=1, maximum=6000, description="Distance flown, in miles."),
            RECORDED_AT,
        ),
        primary_key=("flight_id",),
        event_at="scheduled_departure_at",
        known_at="recorded_at",
        lateness=timedelta(0),
        earliness=timedelta(days=400),
        freshness=timedelta(days=2),
        broken_share=0.05,
    ),
    origin=PostgresTable(database=DATABASE, table="flight_schedule"),
    load="daily",
)

DELAY = Field(name="delay_minutes", type="integer", minimum=-120, maximum=3000, description="Minutes behind schedule; negative when early.")
EVENT_AT = Field(name="event_at", type="timestamp", required=True, description="When it happened; a cancellation: the scheduled time.")

flight_history = Source(
    contract=Contract(
        name="flight_history",
        version="1.0.0",
        owner=OPERATIONS,
        description="Departures and arrivals from before the streams begin, one row per flight and kind of event.",
        fields=(
            FLIGHT_ID,
            Field(
                name="event_type",
                type="string",
                required=True,
                allowed=("departure", "arrival"),
                description="Which event the row is.",
            ),
            CARRIER,
            TAILNUM,
            ORIGIN,
            DEST,
            EVENT_AT,
            DELAY,
            Field(name="is_cancelled", type="boolean", required=True, description="The flight was called off (on departures only)."),
            RECORDED_AT,
        ),
        primary_key=("flight_id", "event_type"),
        event_at="event_at",
        known_at="recorded_at",
        lateness=timedelta(days=1),
        freshness=timedelta(days=2),
        broken_share=0.05,
    ),
    origin=PostgresTable(database=DATABASE, table="flight_history"),
    load="daily",
)

flight_departures = EventStream(
    contract=Contract(
        name="flight_departures",
        version="1.0.0",
        owner=OPERATIONS,
        description="One event per flight that left the gate or was called off.",
        fields=(
            FLIGHT_ID,
            CARRIER,
            TAILNUM,
            ORIGIN,
            DEST,
            EVENT_AT,
            DELAY,
            Field(name="is_cancelled", type="boolean", required=True, description="The flight was called off; it has no delay."),
            RECORDED_AT,
        ),
        primary_key=("flight_id",),
        event_at="event_at",
        known_at="recorded_at",
        lateness=timedelta(days=1),
        freshness=timedelta(hours=6),
        broken_share=0.05,
    ),
    topic="flight-departures",
    history=History(source=flight_history, field="event_type", value="departure"),
)

flight_arrivals = EventStream(
    contract=Contract(
        name="flight_arrivals",
        version="1.0.0",
        owner=OPERATIONS,
        description="One event per flight that reached the gate of its destination.",
        fields=(FLIGHT_ID, CARRIER, TAILNUM, ORIGIN, DEST, EVENT_AT, DELAY, RECORDED_AT),
        primary_key=("flight_id",),
        event_at="event_at",
        known_at="recorded_at",
        lateness=timedelta(days=1),
        freshness=timedelta(hours=6),
        broken_share=0.05,
    ),
    topic="flight-arrivals",
    history=History(source=flight_history, field="event_type", value="arrival"),
)

weather = Source(
    contract=Contract(
        name="weather",
        version="1.0.0",
        owner=METEOROLOGY,
        description="Hourly observations at the New York airports, one row per airport and hour.",
        fields=(
            ORIGIN,
            Field(name="observed_at", type="timestamp", required=True, description="The hour of the observation."),
            Field(name="temperature_f", type="number", minimum=-60, maximum=130, description="Air temperature, in °F."),
            Field(name="dew_point_f", type="number", minimum=-80, maximum=100, description="Dew point, in °F."),
            Field(name="humidity_percent", type="number", minimum=0, maximum=100, description="Relative humidity, in %."),
            Field(name="wind_direction_deg", type="number", minimum=0, maximum=360, description="Where the wind comes from, in degrees."),
            Field(name="wind_speed_mph", type="number", minimum=0, maximum=150, description="Wind speed, in mph."),
            Field(name="wind_gust_mph", type="number", minimum=0, maximum=200, description="Gusts, in mph; null where there were none."),
            Field(name="precipitation_in", type="number", minimum=0, maximum=10, description="Rain of the hour, in inches."),
            Field(name="pressure_mb", type="number", minimum=900, maximum=1100, description="Sea level pressure, in millibars."),
            Field(name="visibility_miles", type="number", minimum=0, maximum=20, description="Visibility, in miles."),
            Field(name="published_at", type="timestamp", required=True, description="When the API first showed it, and so could be known."),
        ),
        primary_key=("origin", "observed_at"),
        event_at="observed_at",
        known_at="published_at",
        lateness=timedelta(hours=3),
        freshness=timedelta(hours=6),
        broken_share=0.1,
    ),
    origin=RestEndpoint(service="weather", path="/v1/observations", records="observations", page_size=500),
    load="daily",
)

planes = Source(
    contract=Contract(
        name="planes",
        version="1.0.0",
        owner=OPERATIONS,
        description="Aircraft registered with the FAA, one row per registration.",
        fields=(
            Field(name="tailnum", type="string", required=True, max_length=10, description="Registration of the aircraft."),
            Field(name="year_built", type="integer", minimum=1930, maximum=2013, description="Year of manufacture."),
            Field(name="kind", type="string", max_length=40, description="Type of aircraft."),
            Field(name="manufacturer", type="string", max_length=60, description="Who built it."),
            Field(name="model", type="string", max_length=40, description="Model of the manufacturer."),
            Field(name="engines", type="integer", minimum=1, maximum=8, description="Number of engines."),
            Field(name="seats", type="integer", minimum=1, maximum=900, description="Number of seats."),
            Field(name="engine", type="string", max_length=40, description="Type of engine."),
            UPDATED_AT,
        ),
        primary_key=("tailnum",),
        event_at="updated_at",
        known_at="updated_at",
        lateness=timedelta(0),
        freshness=timedelta(days=400),
        broken_share=0.02,
    ),
    origin=PostgresTable(database=DATABASE, table="planes"),
    load="changes",
)

airports = Source(
    contract=Contract(
        name="airports",
        version="1.0.0",
        owner=OPERATIONS,
        description="Airports, one row per FAA code.",
        fields=(
            Field(name="faa", type="string", required=True, max_length=4, description="FAA code."),
            Field(name="name", type="string", required=True, max_length=80, description="Name of the airport."),
            Field(name="latitude", type="number", required=True, minimum=-90, maximum=90, description="Latitude, in degrees."),
            Field(name="longitude", type="number", required=True, minimum=-180, maximum=180, description="Longitude, in degrees."),
            Field(name="altitude_ft", type="integer", minimum=-1500, maximum=15000, description="Height above the sea, in feet."),
            Field(name="time_zone", type="string", max_length=40, description="IANA name of the local time zone."),
            UPDATED_AT,
        ),
        primary_key=("faa",),
        event_at="updated_at",
        known_at="updated_at",
        lateness=timedelta(0),
        freshness=timedelta(days=400),
        broken_share=0.02,
    ),
    origin=PostgresTable(database=DATABASE, table="airports"),
    load="changes",
)

airlines = Source(
    contract=Contract(
        name="airlines",
        version="1.0.0",
        owner=OPERATIONS,
        description="Airlines, one row per carrier code.",
        fields=(
            CARRIER,
            Field(name="name", type="string", required=True, max_length=80, description="Name of the airline."),
            UPDATED_AT,
        ),
        primary_key=("carrier",),
        event_at="updated_at",
        known_at="updated_at",
        lateness=timedelta(0),
        freshness=timedelta(days=400),
        broken_share=0.1,
    ),
    origin=PostgresTable(database=DATABASE, table="airlines"),
    load="changes",
)
