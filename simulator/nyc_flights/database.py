"""The operational database of the airports: plans, events and registers of a span of days, loaded from the real data.

    python -m simulator.nyc_flights.database --first 2013-01-01 --last 2013-05-31 [--stream-from 2013-05-01]

With `--stream-from`, what was recorded from that day on comes from the event producer (`events`) and not from `flight_history`.
The DSN comes from the environment variable PIPELINE_OWNERS__AIRLINE_OPS.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

import polars as pl
import psycopg
from psycopg.sql import SQL, Composable, Identifier, Literal

from simulator.nyc_flights import breakage, data

DSN_VARIABLE = "PIPELINE_OWNERS__AIRLINE_OPS"
# Loads of the same database wait for each other under this key.
LOCK = 20_130_101

_TEXT, _INTEGER, _NUMBER, _BOOLEAN, _TIME = "text", "integer", "double precision", "boolean", "timestamptz"
_POLARS: Mapping[str, pl.DataType] = {
    _TEXT: pl.String(),
    _INTEGER: pl.Int32(),
    _NUMBER: pl.Float64(),
    _BOOLEAN: pl.Boolean(),
    _TIME: pl.Datetime("us", "UTC"),
}
TABLES: Mapping[str, Mapping[str, str]] = {
    "flight_schedule": {
        "flight_id": _TEXT,
        "carrier": _TEXT,
        "flight_number": _INTEGER,
        "tailnum": _TEXT,
        "origin": _TEXT,
        "dest": _TEXT,
        "scheduled_departure_at": _TIME,
        "scheduled_arrival_at": _TIME,
        "distance_miles": _INTEGER,
        "recorded_at": _TIME,
    },
    "flight_history": {
        "flight_id": _TEXT,
        "event_type": _TEXT,
        "carrier": _TEXT,
        "tailnum": _TEXT,
        "origin": _TEXT,
        "dest": _TEXT,
        "event_at": _TIME,
        "delay_minutes": _INTEGER,
        "is_cancelled": _BOOLEAN,
        "recorded_at": _TIME,
    },
    "planes": {
        "tailnum": _TEXT,
        "year_built": _INTEGER,
        "kind": _TEXT,
        "manufacturer": _TEXT,
        "model": _TEXT,
        "engines": _INTEGER,
        "seats": _INTEGER,
        "engine": _TEXT,
        "updated_at": _TIME,
    },
    "airports": {
        "faa": _TEXT,
        "name": _TEXT,
        "latitude": _NUMBER,
        "longitude": _NUMBER,
        "altitude_ft": _INTEGER,
        "time_zone": _TEXT,
        "updated_at": _TIME,
    },
    "airlines": {"carrier": _TEXT, "name": _TEXT, "updated_at": _TIME},
}
PRIMARY_KEYS: Mapping[str, tuple[str, ...]] = {
    "flight_schedule": ("flight_id",),
    "flight_history": ("flight_id", "event_type"),
    "planes": ("tailnum",),
    "airports": ("faa",),
    "airlines": ("carrier",),
}
# Tables that are loaded by day, and the time that says which; the others are loaded whole.
EVENT_TIMES: Mapping[str, str] = {"flight_schedule": "scheduled_departure_at", "flight_history": "event_at"}


def load(dsn: str, first: date, last: date, *, broken: bool = True, stream_from: date | None = None) -> dict[str, int]:
    """Rows per table that now stand for the UTC days first..last (inclusive), broken ones included.

    `flight_history` ends where the streams begin: it has no row recorded on `stream_from` or later.

    Flights of these days are replaced by those of the data, other days stay; planes, airports and airlines are replaced whole. All in
    one transaction: a load that ends early changes nothing, and loading days again, or days that overlap, ends with the same rows.
    Raises ValueError where the span is not one of the data's days.
    """
    check_span(first, last)
    frames = tables(first, last, broken=broken, stream_from=stream_from)
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        for table, frame in frames.items():
            if _exists(cursor, table):
                _replace(cursor, table, frame, span_bounds(first, last))
            else:
                _create(cursor, table, frame)
            cursor.execute(SQL("ANALYZE {}").format(Identifier("public", table)))
    return {table: frame.height for table, frame in frames.items()}


def check_span(first: date, last: date) -> None:
    """Raises ValueError, saying which days there are, where first..last is not a span of them."""
    if not data.FIRST_DAY <= first <= last <= data.LAST_DAY:
        raise ValueError(f"No days {first}..{last}: the data has {data.FIRST_DAY}..{data.LAST_DAY}, and the first comes before the last.")


def tables(first: date, last: date, *, broken: bool, stream_from: date | None = None) -> dict[str, pl.DataFrame]:
    """The content of every table for the days first..last (inclusive), with the columns and types of `TABLES`, by time and key.

    `flight_history` holds what was recorded before the UTC day `stream_from`.
    """
    flights = data.flights()
    whole = {
        "flight_schedule": data.flight_schedule(flights),
        "flight_history": data.flight_history(flights),
        "planes": data.planes(),
        "airports": data.airports(),
        "airlines": data.airlines(),
    }
    content = {table: _content(table, frame, first, last, broken=broken) for table, frame in whole.items()}
    if stream_from is not None:
        seam = datetime.combine(stream_from, time(), UTC)
        content["flight_history"] = content["flight_history"].filter(pl.col("recorded_at") < seam)
    return content


def schema(table: str) -> dict[str, pl.DataType]:
    """The columns of a table in its order, with their types as Polars has them."""
    return {column: _POLARS[kind] for column, kind in TABLES[table].items()}


def _content(table: str, whole: pl.DataFrame, first: date, last: date, *, broken: bool) -> pl.DataFrame:
    real = whole.select(pl.col(column).cast(kind) for column, kind in schema(table).items())
    if table in EVENT_TIMES:
        since, until = span_bounds(first, last)
        real = real.filter(pl.col(EVENT_TIMES[table]).is_between(since, until, closed="left"))
    days = breakage.days(first, last) if table in EVENT_TIMES else [first]
    added = [row.values for day in days for row in breakage.broken_rows(table, day)] if broken else []
    times = [EVENT_TIMES[table]] if table in EVENT_TIMES else []
    return pl.concat([real, pl.DataFrame(added, schema=schema(table))]).sort(*times, *PRIMARY_KEYS[table])


def span_bounds(first: date, last: date) -> tuple[datetime, datetime]:
    """The first instant of the span, and the first one after it."""
    return datetime.combine(first, time(), UTC), datetime.combine(last + timedelta(days=1), time(), UTC)


def _exists(cursor: psycopg.Cursor, table: str) -> bool:
    found = cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{table}"]).fetchone()
    return found is not None and bool(found[0])


def _create(cursor: psycopg.Cursor, table: str, frame: pl.DataFrame) -> None:
    """A new table with these rows; its indexes are built last, in one go. Only keys are NOT NULL: this database lets broken rows in."""
    columns = SQL(", ").join(SQL("{} {}").format(Identifier(column), SQL(kind)) for column, kind in TABLES[table].items())
    name = Identifier("public", table)
    cursor.execute(SQL("CREATE TABLE {} ({})").format(name, columns))
    _copy(cursor, name, frame)
    cursor.execute(SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name, _names(PRIMARY_KEYS[table])))
    if table in EVENT_TIMES:
        cursor.execute(SQL("CREATE INDEX ON {} ({})").format(name, Identifier(EVENT_TIMES[table])))


def _replace(cursor: psycopg.Cursor, table: str, frame: pl.DataFrame, span: tuple[datetime, datetime]) -> None:
    """The rows of the span become these, touching only rows that differ: loading the same again writes nothing."""
    parts = {
        "table": Identifier("public", table),
        "asked": Identifier("pg_temp", f"asked_{table}"),
        "same": SQL(" AND ").join(SQL("asked.{0} = there.{0}").format(Identifier(key)) for key in PRIMARY_KEYS[table]),
        "in_span": _in_span(table, span),
    }
    cursor.execute(SQL("CREATE TEMPORARY TABLE {asked} (LIKE {table}) ON COMMIT DROP").format(**parts))
    _copy(cursor, parts["asked"], frame)
    cursor.execute(
        SQL(
            "DELETE FROM {table} AS there WHERE {in_span} AND NOT EXISTS"
            " (SELECT FROM {asked} AS asked WHERE {same} AND asked IS NOT DISTINCT FROM there)"
        ).format(**parts)
    )
    cursor.execute(
        SQL(
            "INSERT INTO {table} SELECT * FROM {asked} AS asked WHERE NOT EXISTS (SELECT FROM {table} AS there WHERE {same} AND {in_span})"
        ).format(**parts)
    )


def _copy(cursor: psycopg.Cursor, table: Composable, frame: pl.DataFrame) -> None:
    """Append a frame to the columns of its names. As text from Polars it is faster than binary row by row in Python."""
    with cursor.copy(SQL("COPY {} ({}) FROM STDIN (FORMAT CSV)").format(table, _names(tuple(frame.columns)))) as copy:
        copy.write(frame.write_csv(include_header=False).encode())


def _in_span(table: str, span: tuple[datetime, datetime]) -> Composable:
    """The condition that a row belongs to the span; every row of a table that is loaded whole does."""
    if table not in EVENT_TIMES:
        return SQL("TRUE")
    since, until = span
    return SQL("{column} >= {since} AND {column} < {until}").format(
        column=Identifier(EVENT_TIMES[table]), since=Literal(since), until=Literal(until)
    )


def _names(columns: tuple[str, ...]) -> Composable:
    return SQL(", ").join(map(Identifier, columns))


def main() -> None:
    """Load the span that the command line names, and say how many rows stand in each table for it."""
    parser = argparse.ArgumentParser(prog="python -m simulator.nyc_flights.database", description="Load the operational database of 2013.")
    parser.add_argument("--first", type=date.fromisoformat, required=True, help="first UTC day, YYYY-MM-DD")
    parser.add_argument("--last", type=date.fromisoformat, required=True, help="last UTC day (inclusive), YYYY-MM-DD")
    parser.add_argument("--stream-from", type=date.fromisoformat, help="UTC day from which on flight_history is left to the event streams")
    asked = parser.parse_args()
    if DSN_VARIABLE not in os.environ:
        parser.error(f"the environment variable {DSN_VARIABLE} is not set; it holds the DSN of the database to load")
    try:
        check_span(asked.first, asked.last)
    except ValueError as error:
        parser.error(str(error))
    try:
        counts = load(os.environ[DSN_VARIABLE], asked.first, asked.last, stream_from=asked.stream_from)
    except psycopg.OperationalError as error:
        parser.exit(1, f"{parser.prog}: the database that {DSN_VARIABLE} names cannot be used: {error}\n")
    for table, rows in counts.items():
        sys.stdout.write(f"{table}: {rows} rows\n")


if __name__ == "__main__":
    main()
