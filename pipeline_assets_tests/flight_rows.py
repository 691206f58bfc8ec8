"""Raw rows of flights by day, with corrections, for the tests of cleaning; and what cleaning must make of them, in plain Python."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from operator import itemgetter
from random import Random
from typing import Any

import pyarrow as pa

from pipeline_assets.core import connections, names
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.processing.cleaning import raw_tables
from pipeline_assets.processing.cleaning.raw_schema import follow_contract
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.use_cases.nyc_flights.sources import flight_departures

DEPARTURES = versioned(flight_departures.contract)
FIRST = date(2013, 3, 1)

Row = dict[str, Any]


def day(offset: int) -> date:
    """The day so many after the first."""
    return FIRST + timedelta(days=offset)


def at(offset: int, minutes: int = 0) -> datetime:
    """An instant so many minutes into a day."""
    return datetime.combine(day(offset), time(), UTC) + timedelta(minutes=minutes)


def departure(flight_id: str, event_at: datetime, known_at: datetime, delay_minutes: int | None = 0) -> Row:
    """One departure; without a delay it is a cancellation."""
    return {
        "flight_id": flight_id,
        "carrier": "AA",
        "tailnum": None if flight_id.endswith("7") else "N1",
        "origin": "JFK",
        "dest": "LAX",
        "event_at": event_at,
        "delay_minutes": delay_minutes,
        "is_cancelled": delay_minutes is None,
        "recorded_at": known_at,
    }


def departures(on: int, count: int, seed: int) -> list[Row]:
    """Departures of one day, the first at its first microsecond and the last at its last; their delays follow from the seed."""
    random = Random(seed)  # noqa: S311 - rows for a test, not secrets
    whole = timedelta(days=1) - timedelta(microseconds=1)
    times = [at(on) + whole * position // (count - 1) for position in range(count)]
    return [
        departure(f"{day(on)}/{position}", event_at, event_at + timedelta(minutes=1), random.choice([None, -5, 0, 14, 15, 120]))
        for position, event_at in enumerate(times)
    ]


def put_raw(settings: Settings, contract: Contract, first: date, last: date, rows: Iterable[Mapping[str, Any]]) -> None:
    """Puts versions of rows into the raw table of a contract, in the place of the days that it had."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(versioned(contract)))
    follow_contract(settings, versioned(contract))
    raw_tables.replace_rows(settings, versioned(contract), (first, last), table.to_reader)


def cleaned_rows(settings: Settings, table: str) -> list[Row]:
    """All rows of a cleaned table, by their first column and time known."""
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(f"select * from {'.'.join(names.cleaned(table))} order by 1, known_at")  # noqa: S608 - a table of the test
        return list(cursor.fetch_arrow_table().to_pylist())


def expected_departures(raw: Iterable[Row]) -> list[Row]:
    """The cleaned departures of raw rows, each from when it was known to the next of its flight; late from 15 minutes on or cancelled."""
    told: dict[str, list[Row]] = {}
    for row in sorted(raw, key=itemgetter("recorded_at", "event_at")):
        told.setdefault(row["flight_id"], []).append(row)
    return [version for _, rows in sorted(told.items()) for version in _versions(rows)]


def _versions(rows: list[Row]) -> Iterator[Row]:
    version = 0
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        until = None if after is None else after["recorded_at"]
        if until is None or until > row["recorded_at"]:
            version += 1
            yield _cleaned(row) | {"superseded_at": until, "version": version, "is_current": until is None}


def _cleaned(row: Row) -> Row:
    delay, is_cancelled = row["delay_minutes"], row["is_cancelled"]
    renamed = {name: value for name, value in row.items() if name != "recorded_at"}
    return renamed | {"is_late": is_cancelled or delay >= 15, "known_at": row["recorded_at"]}
