"""Three months of a small airport, with all that was corrected, moved, taken back and sent again, as it became known.

Each row of a source has versions, one after the other. A staged day holds those that were known by the time of staging, each with its
deletion if that was known by then. Aircraft are followed by their change log. Times of the course are simulated: nothing is known "now".
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import Any

import pyarrow as pa

from pipeline_assets.core.project import days_between
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import DELETED_AT, versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.staging.partitions import partition_of, write_staged
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.use_cases.nyc_flights.sources import flight_departures, flight_schedule, planes, weather
from pipeline_assets_tests.change_logs import log_schema

FIRST, DAYS = date(2013, 2, 1), 90
# Flights are planned at most so long before they leave.
PLANNED = timedelta(days=12)
START, END = (datetime.combine(day, time(), UTC) for day in (FIRST, FIRST + timedelta(days=DAYS)))
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ORIGINS = ("EWR", "JFK", "LGA")

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Airport:
    """How much happens, and of what entities."""

    flights_a_day: int = 14
    destinations: tuple[str, ...] = ("BOS", "LAX", "MIA")
    carriers: tuple[str, ...] = ("AA", "DL", "UA")
    aircraft: tuple[str, ...] = tuple(f"N{number}" for number in range(1, 13))


SMALL = Airport()


@dataclass(kw_only=True)
class Version:
    """A row as its source had it from the time in its contract's `known_at` on; deleted at a time, if ever."""

    row: Row
    deleted_at: datetime | None = None


@dataclass(kw_only=True)
class Course:
    """The versions of all rows by contract, and the records of the aircraft's change log; `counts` says how many of each kind there are."""

    random: Random
    airport: Airport = SMALL
    versions: dict[str, list[Version]] = field(default_factory=dict)
    log: list[Row] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def happens(self, what: str, share: float) -> bool:
        """Whether a thing that happens to a share of rows does; it is counted."""
        does = self.random.random() < share
        self.counts[what] = self.counts.get(what, 0) + does
        return does

    def within(self, least: timedelta, most: timedelta) -> timedelta:
        """A span between two, to the microsecond."""
        return least + (most - least) * self.random.random()

    def add(self, contract: Contract, rows: Sequence[Row], deleted_at: datetime | None = None) -> None:
        """The versions of one row; a deletion ends all that have no later one, as a batch that reads the source again finds it."""
        known = contract.known_at
        found = [Version(row=row) for row in rows]
        for version in found:
            if deleted_at is not None and version.row[known] <= deleted_at:
                version.deleted_at = deleted_at
        self.versions.setdefault(contract.name, []).extend(found)


SCHEDULE, DEPARTURES, WEATHER = (versioned(one.contract) for one in (flight_schedule, flight_departures, weather))


def course(seed: int = 11, airport: Airport = SMALL) -> Course:
    """The three months."""
    made = Course(random=Random(seed), airport=airport)  # noqa: S311 - rows for a test, not secrets
    for number in range(DAYS * airport.flights_a_day):
        scheduled = START + DAY * (number // airport.flights_a_day) + made.within(2 * HOUR, 23 * HOUR)
        _add_flight(made, f"F{number}", scheduled)
    for number in range(DAYS * 8):
        for origin in ORIGINS:
            _add_weather(made, origin, START + 3 * HOUR * number)
    _add_aircraft(made)
    return made


def _add_flight(made: Course, flight_id: str, scheduled: datetime) -> None:
    """The plan of a flight, and its departure."""
    pick, airport = made.random.choice, made.airport
    flight = {
        "flight_id": flight_id, "carrier": pick(airport.carriers), "tailnum": pick((*airport.aircraft, None)), "origin": pick(ORIGINS),
        "dest": pick(airport.destinations),
    }  # fmt: skip
    _add_plan(made, flight, scheduled)
    _add_departure(made, flight, scheduled)


def _add_plan(made: Course, flight: Row, scheduled: datetime) -> None:
    plan: Row = flight | {
        "flight_number": 1 + made.random.randrange(900), "distance_miles": 500, "scheduled_departure_at": scheduled,
        "scheduled_arrival_at": scheduled + 2 * HOUR, "recorded_at": scheduled - made.within(6 * DAY, PLANNED),
    }  # fmt: skip
    if made.happens("planned only after it left", 0.01):
        plan["recorded_at"] = scheduled + made.within(HOUR, 12 * DAY)
    plans = [plan]
    # Before the decision, or up to two days after it.
    changed_at = scheduled - HOUR + made.within(-5 * DAY, 2 * DAY)
    if changed_at > plan["recorded_at"]:
        if made.happens("another aircraft", 0.12):
            plans.append(plan | {"tailnum": made.random.choice(made.airport.aircraft), "recorded_at": changed_at})
        if made.happens("moved", 0.08):
            moved = scheduled + made.within(-DAY, 4 * DAY)
            plans.append(
                plan | {"scheduled_departure_at": moved, "scheduled_arrival_at": moved + 2 * HOUR, "recorded_at": changed_at + HOUR}
            )
        if made.happens("sent again", 0.1):
            plans.append(plans[-1] | {"recorded_at": changed_at + 2 * HOUR})
    deleted_at = changed_at + 3 * HOUR if changed_at > plan["recorded_at"] and made.happens("plan deleted", 0.05) else None
    if deleted_at is not None and made.happens("planned again", 0.4):
        plans.append(plan | {"recorded_at": deleted_at + made.within(MINUTE, DAY)})
    made.add(SCHEDULE, plans, deleted_at)


def _add_departure(made: Course, flight: Row, scheduled: datetime) -> None:
    delay = int(made.random.gauss(8, 25))
    left_at = scheduled + delay * MINUTE
    known_at = left_at + (made.within(DAY, 5 * DAY) if made.happens("late departure", 0.04) else MINUTE)
    event = flight | {"event_at": left_at, "delay_minutes": delay, "is_cancelled": False, "recorded_at": known_at}
    if made.happens("cancelled", 0.04):
        event |= {"event_at": scheduled, "delay_minutes": None, "is_cancelled": True}
    events = [event]
    while made.happens("departure corrected", 0.15):
        events.append(events[-1] | _correction(made, flight, left_at) | {"recorded_at": _later(made, events)})
    if made.happens("corrected back", 0.02):
        events.append(events[-1] | {"delay_minutes": 200, "is_cancelled": False, "recorded_at": _later(made, events)})
        events.append(events[-2] | {"recorded_at": _later(made, events)})
    if made.happens("departure sent again", 0.05):
        events.append(events[-1] | {"recorded_at": _later(made, events)})
    deleted_at = _later(made, events) if made.happens("departure deleted", 0.03) else None
    if deleted_at is not None and made.happens("departure inserted again", 0.3):
        events.append(events[-1] | {"recorded_at": deleted_at + made.within(MINUTE, DAY)})
    made.add(DEPARTURES, events, deleted_at)


def _later(made: Course, rows: Sequence[Row]) -> datetime:
    """A time up to twenty days after the newest of some versions."""
    later: datetime = rows[-1]["recorded_at"] + made.within(MINUTE, made.random.choice((HOUR, DAY, 20 * DAY)))
    return later


def _correction(made: Course, flight: Row, left_at: datetime) -> Row:
    """Another delay, time, airport or aircraft."""
    kind = made.random.choice(("delay", "time", "origin", "tailnum"))
    if kind == "delay":
        return {"delay_minutes": int(made.random.gauss(20, 30)), "is_cancelled": False}
    if kind == "time":
        return {"event_at": left_at + made.within(-2 * DAY, HOUR)}
    kinds = ORIGINS if kind == "origin" else made.airport.aircraft
    return {kind: made.random.choice(kinds)} if flight[kind] is not None else {"tailnum": "N1"}


def _add_weather(made: Course, origin: str, observed: datetime) -> None:
    hour: Row = {
        "origin": origin, "observed_at": observed, "temperature_f": made.random.gauss(40, 10), "dew_point_f": made.random.gauss(20, 5),
        "humidity_percent": made.random.uniform(20, 100), "wind_direction_deg": 10.0, "wind_speed_mph": made.random.uniform(0, 30),
        "wind_gust_mph": None, "precipitation_in": made.random.choice((0.0, 0.0, 0.1, 0.25)), "pressure_mb": made.random.gauss(1013, 8),
        "visibility_miles": made.random.uniform(0, 10),
        "published_at": observed + (made.within(3 * HOUR, 2 * DAY) if made.happens("late weather", 0.03) else 10 * MINUTE),
    }  # fmt: skip
    hours = [hour]
    if made.happens("weather corrected", 0.06):
        changed = {"temperature_f": made.random.gauss(40, 10), "precipitation_in": made.random.uniform(0, 1)}
        hours.append(hour | changed | {"published_at": hour["published_at"] + made.within(MINUTE, 30 * HOUR)})
    deleted_at = hours[-1]["published_at"] + made.within(MINUTE, 2 * DAY) if made.happens("weather deleted", 0.02) else None
    made.add(WEATHER, hours, deleted_at)


def _add_aircraft(made: Course) -> None:
    """The change log of the aircraft: a snapshot before the course, then a change every eight hours; one in eight is a deletion."""
    standing = {tailnum: _aircraft(made, tailnum, START - 30 * DAY) for tailnum in made.airport.aircraft}
    for number, row in enumerate(standing.values(), 1):
        _log(made, "r", START - DAY, row, "last" if number == len(standing) else "true")
    for number in range(DAYS * 3):
        at, tailnum = START + 8 * HOUR * number + made.within(MINUTE, 8 * HOUR), made.random.choice(made.airport.aircraft)
        before = standing.pop(tailnum, None)
        if before is not None and made.happens("aircraft deleted", 0.12):
            _log(made, "d", at, {"tailnum": tailnum})
            continue
        row = standing[tailnum] = _aircraft(made, tailnum, at)
        if before is not None and made.happens("aircraft changed without its time", 0.1):
            row["updated_at"] = before["updated_at"]
        _log(made, "c" if before is None else "u", at, row)


def _aircraft(made: Course, tailnum: str, at: datetime) -> Row:
    seats = made.random.choice((50, 100, 150, 200))
    return {"tailnum": tailnum, "year_built": 1990 + made.random.randrange(20), "engines": 2, "seats": seats, "updated_at": at}


def _log(made: Course, operation: str, at: datetime, row: Row, snapshot: str | None = None) -> None:
    place = {"_topic": "airline_ops.public.planes", "_partition": 0, "_offset": len(made.log)}
    meta = {"_op": operation, "_lsn": 1_000 + (0 if operation == "r" else 8 * len(made.log)), "_committed_at": at, "_snapshot": snapshot}
    made.log.append(dict(row) | place | meta)


def log_between(made: Course, after: datetime | None, until: datetime) -> pa.Table:
    """The records of the aircraft's change log that were committed after one time (None: ever), up to another."""
    records = [record for record in made.log if (after is None or record["_committed_at"] > after) and record["_committed_at"] <= until]
    return pa.Table.from_pylist(records, schema=log_schema(planes.contract))


def stage_known(settings: Settings, made: Course, contract: Contract, after: datetime | None, until: datetime) -> tuple[date, date]:
    """Stages the days of which something became known after one time (None: ever), up to another, as they were known then.

    Returns the first and the last of them; days between them that never had a row are staged without one.
    """
    now = _by_day(_known(made.versions[contract.name], contract, until), contract)
    then = {} if after is None else _by_day(_known(made.versions[contract.name], contract, after), contract)
    touched = [day for day, rows in now.items() if rows != then.get(day)]
    first, last = min(touched), max(touched)
    between = days_between(first, last)
    for day in (day for day in between if day in touched or day not in now):
        rows = pa.Table.from_pylist(now.get(day, []), schema=arrow_schema(contract))
        write_staged(settings, contract, partition_of(day), rows, run_id="replay")
    return first, last


def _known(versions: Iterable[Version], contract: Contract, until: datetime) -> Iterator[Row]:
    """The versions known at a time, as they are staged: with their deletion if it is known."""
    for version in versions:
        if version.row[contract.known_at] <= until:
            is_deleted = version.deleted_at is not None and version.deleted_at <= until
            yield version.row | {DELETED_AT: version.deleted_at if is_deleted else None}


def _by_day(rows: Iterable[Row], contract: Contract) -> dict[date, list[Row]]:
    found: dict[date, list[Row]] = {}
    for row in rows:
        found.setdefault(row[contract.event_at].date(), []).append(row)
    return found
