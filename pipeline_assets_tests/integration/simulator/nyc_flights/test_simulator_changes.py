"""The changes of the registers: planned beforehand, and in the database as planned."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL
from pydantic import SecretStr

from pipeline_assets.core.settings import Settings
from simulator.nyc_flights import changes, database
from simulator.nyc_flights.changes import LARGE_COLUMN, LARGE_SIZE, LARGE_TABLE

ROOT = Path(__file__).resolve().parents[4]
DAY = date(2013, 3, 11)


@pytest.fixture
def dsn(stores: Settings, fresh_database: Callable[[SecretStr], SecretStr]) -> str:
    """An operational database with its registers."""
    made = fresh_database(stores.owners["airline_ops"]).get_secret_value()
    database.load(made, DAY, DAY)
    return made


def test_the_database_ends_as_planned(dsn: str) -> None:
    """Inserts, updates, new keys, deletes and a new column leave exactly the rows that the plan said, and all kinds did happen."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        planned = changes.plan(changes.read(connection), seed=7, transactions=150)
        for each in planned.transactions:
            changes.apply(connection, each)
        after = changes.read(connection)

    assert after == planned.after
    assert set(planned.counts()) == {"insert", "update", "rename", "delete", "add column"}


def test_a_long_text_stands_outside_of_its_row(dsn: str) -> None:
    """The large column is toasted, so that a change of another column leaves it untold."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        planned = changes.plan(changes.read(connection), seed=7, transactions=150)
        for each in planned.transactions:
            changes.apply(connection, each)
        (toasted,) = connection.execute(
            SQL("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'planes'::regclass")
        ).fetchall()[0]
    long = [row for row in planned.after[LARGE_TABLE].values() if row[LARGE_COLUMN] is not None]

    assert len(long) > 0
    assert toasted >= len(long) * LARGE_SIZE


def test_the_same_seed_makes_the_same_changes(dsn: str) -> None:
    """A plan follows from rows and seed alone; planned again after its end it makes other changes, and needs no second column."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = changes.read(connection)
        first, again, other = (changes.plan(before, seed=seed, transactions=60) for seed in (1, 1, 2))
        for each in first.transactions:
            changes.apply(connection, each)
        more = changes.plan(changes.read(connection), seed=1, transactions=60)
        for each in more.transactions:
            changes.apply(connection, each)
        after = changes.read(connection)

    assert first == again != other
    assert "add column" not in more.counts()
    assert after == more.after


def test_the_registers_can_be_loaded_again_after_they_changed(dsn: str) -> None:
    """A load puts the real rows back, also where a column was added since."""
    command = [sys.executable, "-m", "simulator.nyc_flights.changes", "--seed", "3", "--transactions", "40"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {database.DSN_VARIABLE: dsn}, check=False, capture_output=True, text=True)
    database.load(dsn, DAY, DAY)
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = changes.read(connection)
    wanted = database.tables(DAY, DAY, broken=True)

    assert (done.returncode, "add column: 1" in done.stdout) == (0, True), done.stderr
    for table, key in changes.REGISTERS.items():
        expected = {row[key]: row for row in wanted[table].to_dicts()}
        assert {name: {c: v for c, v in row.items() if c != LARGE_COLUMN} for name, row in rows[table].items()} == expected
