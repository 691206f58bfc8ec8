"""The broken rows of the outside world: which they are, what is wrong with each, and how many there are, without looking at any data.

Broken rows are added beside the real ones, which stay as they are, under keys of their own. Every day has the same number of them, few
enough to stay far below the share that a contract lets pass; only days with a full day of data have any.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from simulator.nyc_flights.data import PLANNED_AHEAD, PUBLISHED_AFTER, REFERENCE_AT

Reason = Literal["missing", "not allowed", "out of range", "wrong type", "without zone"]
Row = Mapping[str, object]
FIRST_BROKEN_DAY, LAST_BROKEN_DAY = date(2013, 1, 1), date(2013, 12, 30)
# A wind of 1,048 mph over Newark stands in the real data.
REAL_BROKEN_WEATHER = datetime(2013, 2, 12, 8, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class BrokenRow:
    """One row that breaks its contract in one field; `values` is the row as the source shows it."""

    field: str
    reason: Reason
    values: Row

    @property
    def fault(self) -> str:
        """What is wrong, as the counts are named: `<field> <reason>`."""
        return f"{self.field} {self.reason}"


def broken_rows(source: str, day: date) -> list[BrokenRow]:
    """The broken rows that are added to one UTC day of a source; for planes, airports and airlines those of the whole table.

    Raises KeyError for an unknown source.
    """
    if source in _SNAPSHOTS:
        return [_SNAPSHOTS[source]]
    rows = _DAILY[source](day)
    return rows if FIRST_BROKEN_DAY <= day <= LAST_BROKEN_DAY else []


def expected_broken(source: str, first: date, last: date) -> dict[str, int]:
    """How many rows of the days first..last (inclusive) are broken, by what is wrong: the added ones and the one in the real weather."""
    if source in _SNAPSHOTS:
        return {_SNAPSHOTS[source].fault: 1}
    counts = Counter(row.fault for day in days(first, last) for row in broken_rows(source, day))
    if source == "weather" and first <= REAL_BROKEN_WEATHER.date() <= last:
        counts["wind_speed_mph out of range"] += 1
    return dict(counts)


def days(first: date, last: date) -> Iterator[date]:
    """The days from first to last, both included."""
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


def _at(day: date, hour: int) -> datetime:
    """Half past an hour of the day: no real weather is observed then."""
    return datetime.combine(day, time(hour, 30), UTC)


def _schedule(day: date) -> list[BrokenRow]:
    return [
        BrokenRow(field="origin", reason="not allowed", values=_planned(day, 9901) | {"origin": "XXX"}),
        BrokenRow(field="distance_miles", reason="out of range", values=_planned(day, 9902) | {"distance_miles": -1}),
    ]


def _history(day: date) -> list[BrokenRow]:
    return [
        BrokenRow(field="origin", reason="missing", values=_happened(day, 9901) | {"origin": None}),
        BrokenRow(field="delay_minutes", reason="out of range", values=_happened(day, 9902) | {"delay_minutes": 99_999}),
        BrokenRow(field="event_type", reason="not allowed", values=_happened(day, 9903) | {"event_type": "landed"}),
    ]


def _weather(day: date) -> list[BrokenRow]:
    """Two of four kinds on even days, the other two on odd ones: a day has only 72 real rows."""
    first, second = _observed(day, 14), _observed(day, 15)
    if day.toordinal() % 2 == 0:
        unpublished = {name: value for name, value in second.items() if name != "published_at"}
        return [
            BrokenRow(field="temperature_f", reason="wrong type", values=first | {"temperature_f": "warm"}),
            BrokenRow(field="published_at", reason="missing", values=unpublished),
        ]
    naive = _at(day, 15).replace(tzinfo=None).isoformat()
    return [
        BrokenRow(field="temperature_f", reason="out of range", values=first | {"temperature_f": 999.0}),
        BrokenRow(field="observed_at", reason="without zone", values=second | {"observed_at": naive}),
    ]


def _planned(day: date, number: int) -> dict[str, object]:
    at = _at(day, 14)
    return {
        "flight_id": f"UA{number}-EWR-{at:%Y%m%dT%H}",
        "carrier": "UA",
        "flight_number": number,
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "scheduled_departure_at": at,
        "scheduled_arrival_at": at + timedelta(hours=4),
        "distance_miles": 1400,
        "recorded_at": at - PLANNED_AHEAD,
    }


def _happened(day: date, number: int) -> dict[str, object]:
    at = _at(day, 15)
    return {
        "flight_id": f"UA{number}-EWR-{at:%Y%m%dT%H}",
        "event_type": "departure",
        "carrier": "UA",
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "event_at": at,
        "delay_minutes": 5,
        "is_cancelled": False,
        "recorded_at": at,
    }


def _observed(day: date, hour: int) -> dict[str, object]:
    at = _at(day, hour)
    return {
        "origin": "EWR",
        "observed_at": at,
        "temperature_f": 50.0,
        "dew_point_f": 40.0,
        "humidity_percent": 70.0,
        "wind_direction_deg": 200.0,
        "wind_speed_mph": 10.0,
        "wind_gust_mph": None,
        "precipitation_in": 0.0,
        "pressure_mb": 1015.0,
        "visibility_miles": 10.0,
        "published_at": at + PUBLISHED_AFTER,
    }


_DAILY: Mapping[str, Callable[[date], list[BrokenRow]]] = {
    "flight_schedule": _schedule,
    "flight_history": _history,
    "weather": _weather,
}
_SNAPSHOTS: Mapping[str, BrokenRow] = {
    "planes": BrokenRow(
        field="engines",
        reason="out of range",
        values={
            "tailnum": "N0BAD",
            "year_built": 2001,
            "kind": "Fixed wing multi engine",
            "manufacturer": "BOEING",
            "model": "737-824",
            "engines": 0,
            "seats": 149,
            "engine": "Turbo-fan",
            "updated_at": REFERENCE_AT,
        },
    ),
    "airports": BrokenRow(
        field="latitude",
        reason="out of range",
        values={
            "faa": "ZZZ",
            "name": "Beyond the Pole",
            "latitude": 123.4,
            "longitude": -74.2,
            "altitude_ft": 18,
            "time_zone": "America/New_York",
            "updated_at": REFERENCE_AT,
        },
    ),
    "airlines": BrokenRow(field="name", reason="missing", values={"carrier": "ZZ", "name": None, "updated_at": REFERENCE_AT}),
}
