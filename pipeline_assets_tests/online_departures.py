"""Departures of three days with corrections, and an online store that keeps them, for the tests of the online store."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, online
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.settings import OnlineSettings, Settings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.streaming.landing.offsets import Seen
from pipeline_assets.ingestion.streaming.typed.table import PLACE_SCHEMA, Position, append_events, typed_schema, typed_table
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.session import open_session
from pipeline_assets.model_lifecycle.feature_store.online.store import Kept
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.processing.lake import tables

PROJECT = load_project()
FIRST, LAST = date(2013, 4, 30), date(2013, 5, 6)
START = datetime(2013, 5, 1, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
FIRST, LAST = date(2013, 4, 30), date(2013, 5, 6)
ORIGINS, CARRIERS, TAILS = ("EWR", "JFK", "LGA"), ("AA", "UA", "9E"), ("N1", "N2", "N3", None)


def feed(table: str) -> Feed:
    """A feed of the reference use case."""
    return next(one for one in feeds_of(PROJECT, read_manifest(project_folder())) if one.table.name == table)


def departures(random: np.random.Generator, flights: int) -> list[dict[str, Any]]:
    """Versions of departures over three days, in the order in which they were known: corrections, moves and repeats among them."""
    rows = []
    for number in range(flights):
        event_at = START + timedelta(seconds=int(random.integers(0, 3 * 86_400)))
        known_at = event_at + timedelta(seconds=int(random.integers(0, 900)))
        row: dict[str, Any] = {
            "flight_id": f"f{number:04}",
            "carrier": str(random.choice(CARRIERS)),
            "tailnum": TAILS[random.integers(0, 4)],
            "origin": str(random.choice(ORIGINS)),
            "dest": "LAX",
            "event_at": event_at,
            "delay_minutes": int(random.integers(-20, 200)),
            "is_cancelled": bool(random.integers(0, 9) == 0),
            "recorded_at": known_at,
        }
        rows.append(row)
        # The contract takes nothing that is known later than a day after it happened.
        while random.integers(0, 3) == 0 and known_at < event_at + timedelta(hours=14):
            known_at += timedelta(seconds=int(random.integers(1, 30_000)))
            changes: list[dict[str, Any]] = [
                {"delay_minutes": int(random.integers(0, 400))},
                {},
                {"event_at": event_at - timedelta(hours=1)},
                {"origin": "EWR"},
            ]
            row = {**row, "recorded_at": known_at, **changes[random.integers(0, 4)]}
            rows.append(row)
    return sorted(rows, key=lambda one: one["recorded_at"])


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """The rows as those of the contract."""
    return pa.Table.from_pylist(rows, schema=arrow_schema(feed("departures_history").contract))


def connected(database: OnlineSettings) -> psycopg.Connection:
    """A connection to the online store, each statement its own transaction."""
    return psycopg.connect(database.online_dsn.get_secret_value(), autocommit=True)


def rows_kept(connection: psycopg.Connection, kept: Kept) -> pa.Table:
    """The cleaned rows that the store has."""
    columns = kept.feed.columns
    query = sql.SQL("select {} from {}").format(sql.SQL(", ").join(map(sql.Identifier, columns)), kept.rows)
    found = connection.execute(query).fetchall()
    types = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "timestamp": INSTANT}
    schema = pa.schema([(name, types.get(kept.feed.kinds[name], pa.string())) for name in columns])
    return pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in found], schema=schema)


def questions(at: datetime) -> pa.Table:
    """Every origin, carrier and aircraft at a time, and some that there are not."""
    rows = [
        {"origin": origin, "carrier": carrier, "tailnum": tail, "dest": "LAX", "decision_at": at}
        for origin in (*ORIGINS, "XXX", None)
        for carrier, tail in zip((*CARRIERS, "ZZ"), TAILS, strict=True)
    ]
    return pa.Table.from_pylist(
        rows, schema=pa.schema({**dict.fromkeys(("origin", "carrier", "tailnum", "dest"), pa.string()), "decision_at": INSTANT})
    )


def keep_departures(settings: OnlineSettings, rows: list[dict[str, Any]]) -> None:
    """Builds the feed of departures from records of its topic, in the place of the one that is there."""
    with online(settings) as connection:
        kept = store.begin(connection, feed("departures_history"))
        store.go_live(connection, kept)
    with open_session(settings, kept) as session:
        keep_records(session, table_of(rows), {0: len(rows)})


def states_kept(connection: psycopg.Connection, kept: Kept) -> list[tuple[Any, ...]]:
    """All states of a version of a feed, as their bytes."""
    return connection.execute(
        sql.SQL("select view, key, state, value, since, until from {} order by view, key").format(kept.state)
    ).fetchall()


def put_history(settings: Settings, rows: pa.Table) -> None:
    """Has the lake's table of departures hold these rows."""
    versions = rows.append_column("_deleted_at", pa.nulls(rows.num_rows, INSTANT))
    tables.replace_days(settings, names.lake("flight_departures"), versions, "event_at", FIRST, LAST)


def put_typed(settings: Settings, rows: pa.Table, first_offset: int) -> None:
    """Adds records of the topic to the typed table, the first with this offset."""
    contract = feed("departures_history").contract
    count = rows.num_rows
    place = {
        "_topic": ["flight-departures"] * count,
        "_partition": pa.array([0] * count, pa.int32()),
        "_offset": list(range(first_offset, first_offset + count)),
        "_received_at": rows["recorded_at"],
    }
    whole = pa.Table.from_arrays([*rows.columns, *pa.table(place, schema=PLACE_SCHEMA).columns], schema=typed_schema(contract))
    with catalog(settings) as lake:
        table = typed_table(lake, contract)
        append_events(table, whole, Position(seen=Seen(partitions={0: ((0, first_offset + count),)})), run_id="test")


def observed(declared: Feed, at: list[datetime], values: Mapping[str, float]) -> pa.Table:
    """Observations of the weather."""
    count = len(at)
    numbers = [column for column in declared.columns if declared.kinds[column] == "number"]
    columns = {name: pa.array([values.get(one.isoformat(), 0.1) for one in at], pa.float64()) for name in numbers}
    times = {"observed_at": pa.array(at, INSTANT), "known_at": pa.array([one + timedelta(minutes=1) for one in at], INSTANT)}
    return pa.table({"origin": ["EWR"] * count, **columns, **times, "superseded_at": pa.nulls(count, INSTANT)})
