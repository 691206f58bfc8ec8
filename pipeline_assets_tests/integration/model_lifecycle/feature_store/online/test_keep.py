"""The online store in Postgres: rows that come in any order and any parts give the features of the offline kernel, bit for bit."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import BehindState, NotOnline
from pipeline_assets.core.settings import OnlineSettings, Settings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of
from pipeline_assets.model_lifecycle.feature_store.online.keep import KEPT_APART, forget_old, keep_days, keep_records
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.processing.features.view import view_features

PROJECT = load_project()
START = datetime(2013, 5, 1, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
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
        row = {
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
        while random.integers(0, 3) == 0:
            known_at += timedelta(seconds=int(random.integers(1, 30_000)))
            changes = [{"delay_minutes": int(random.integers(0, 400))}, {}, {"event_at": event_at + timedelta(hours=1)}, {"origin": "EWR"}]
            row = {**row, "recorded_at": known_at, **changes[random.integers(0, 4)]}
            rows.append(row)
    return sorted(rows, key=lambda one: one["recorded_at"])


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """The rows as those of the contract."""
    return pa.Table.from_pylist(rows, schema=arrow_schema(feed("departures_history").contract))


@pytest.fixture
def database(stores: Settings, fresh_database: Callable[..., SecretStr]) -> OnlineSettings:
    """An empty online store."""
    return OnlineSettings.model_construct(home=stores.home, online_dsn=fresh_database(stores.online_dsn))


@pytest.fixture
def session(database: OnlineSettings) -> Iterator[Session]:
    """A session that keeps departures, which nothing is known of yet."""
    with online(database) as connection:
        kept = store.begin(connection, feed("departures_history"))
        store.go_live(connection, kept)
    with open_session(database, kept) as opened:
        yield opened


def rows_kept(connection: psycopg.Connection, kept: store.Kept) -> pa.Table:
    """The cleaned rows that the store has."""
    columns = kept.feed.columns
    query = psycopg.sql.SQL("select {} from {}").format(psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, columns)), kept.rows)
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
    return pa.Table.from_pylist(rows, schema=pa.schema({**dict.fromkeys(("origin", "carrier", "tailnum", "dest"), pa.string()), "decision_at": INSTANT}))


@pytest.mark.parametrize("most", [1, 7, 200])
def test_served_values_equal_the_offline_ones_whatever_comes_together(session: Session, database: OnlineSettings, most: int) -> None:
    """Departures with corrections, moves and repeats, one by one or many at once: at each stop every feature of each view is equal."""
    random = np.random.default_rng(most)
    rows, kept = departures(random, 60 if most == 1 else 250), session.kept
    with psycopg.connect(database.online_dsn.get_secret_value(), autocommit=True) as connection:
        reader = Reader(connection, [kept.feed], kept.feed.views)
        place = 0
        while place < len(rows):
            size = int(random.integers(1, most + 1))
            keep_records(session, table_of(rows[place : place + size]), {0: place + size})
            place += size
            if place % 5 and place < len(rows):
                continue
            newest = rows[min(place, len(rows)) - 1]["recorded_at"]
            for later in (timedelta(0), timedelta(minutes=7), timedelta(days=2)):
                asked = questions(newest + later)
                served, whole = reader.read(asked), rows_kept(connection, kept)
                for view in kept.feed.views:
                    expected = view_features(view, asked, whole)
                    assert served.features.select(expected.column_names).to_pydict() == expected.to_pydict()
    assert place > 0


def test_a_record_that_comes_again_changes_nothing(session: Session, database: OnlineSettings) -> None:
    """The same records taken twice leave the same states, to the byte."""
    rows = table_of(departures(np.random.default_rng(3), 80))
    keep_records(session, rows, {0: rows.num_rows})
    with psycopg.connect(database.online_dsn.get_secret_value(), autocommit=True) as connection:
        before = connection.execute(f"select view, key, state, value from {session.state} order by 1, 2").fetchall()
        change = keep_records(session, rows.slice(10, 40), {0: rows.num_rows})
        after = connection.execute(f"select view, key, state, value from {session.state} order by 1, 2").fetchall()

    assert (change.gone, change.come) == (0, 0)
    assert len(before) > 10
    assert after == before
