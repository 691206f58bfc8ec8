"""Life in the registers: rows of planes, airports and airlines that appear, change, get another key and go, as in any live database.

    python -m simulator.nyc_flights.changes --seed 1 --transactions 100 [--per-second 5]

The DSN comes from the environment variable PIPELINE_OWNERS__AIRLINE_OPS. The same seed on the same rows makes the same changes, and what
they end in is known before they are made. On the way `planes` gets a column more, `remarks`, whose long texts stand outside of their rows:
a change of another column does not carry them.
"""

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from string import ascii_uppercase, digits
from threading import Event
from typing import Literal

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier, Placeholder

from simulator.nyc_flights.database import DSN_VARIABLE, PRIMARY_KEYS

Kind = Literal["insert", "update", "rename", "delete", "add column"]
Row = dict[str, object]
Tables = dict[str, dict[str, Row]]

REGISTERS: Mapping[str, str] = {table: PRIMARY_KEYS[table][0] for table in ("planes", "airports", "airlines")}
LARGE_TABLE, LARGE_COLUMN, LARGE_SIZE = "planes", "remarks", 6_000
BEGIN = datetime(2013, 6, 1, tzinfo=UTC)
CODES = digits + ascii_uppercase
# Registers never shrink below this, so that there is always a row to change.
FEWEST = 5
RECENT = 8
KINDS: Mapping[Literal["insert", "update", "rename", "delete"], int] = {"insert": 3, "update": 10, "rename": 1, "delete": 2}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of one row, found by the key that it had; `values` are those that are written (all of them for a new row)."""

    table: str
    kind: Kind
    key: str = ""
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Changes by transaction, and the rows by table and key that stand there after the last."""

    transactions: Sequence[Sequence[Change]]
    after: Tables

    def counts(self) -> dict[str, int]:
        """How many changes of each kind there are."""
        kinds = [change.kind for changes in self.transactions for change in changes]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def plan(before: Tables, *, seed: int, transactions: int, begin: datetime = BEGIN) -> Plan:
    """The changes that a seed makes of rows, one to four a transaction; each changed row has its time, a minute after the one before."""
    world = _World(before, seed, begin)
    planned: list[list[Change]] = []
    for number in range(transactions):
        if number == transactions // 3 and not world.has_large:
            planned.append([world.add_column()])
        else:
            planned.append([world.change() for _ in range(world.random.randint(1, 4))])
    return Plan(transactions=planned, after=world.tables)


class _World:
    """The registers as they are after the changes made so far."""

    def __init__(self, before: Tables, seed: int, begin: datetime) -> None:
        self.tables: Tables = {table: {key: dict(row) for key, row in before[table].items()} for table in REGISTERS}
        self.random = Random(seed)  # noqa: S311 - a simulation, no secret
        self.has_large = any(LARGE_COLUMN in row for row in self.tables[LARGE_TABLE].values())
        self._now, self._gone = begin, {table: list[str]() for table in REGISTERS}
        self._recent = {table: deque[str](maxlen=RECENT) for table in REGISTERS}
        self._make: Mapping[Kind, Callable[[str], Change]] = {
            "insert": self._insert,
            "update": self._update,
            "rename": self._rename,
            "delete": self._delete,
        }

    def add_column(self) -> Change:
        """The large column comes to be, null in all rows."""
        self.has_large = True
        for row in self.tables[LARGE_TABLE].values():
            row[LARGE_COLUMN] = None
        return Change(table=LARGE_TABLE, kind="add column")

    def change(self) -> Change:
        """One more change of a row."""
        self._now += timedelta(minutes=1)
        table = self.random.choice(list(REGISTERS))
        (kind,) = self.random.choices(list(KINDS), list(KINDS.values()))
        return self._make[kind if len(self.tables[table]) > FEWEST else "insert"](table)

    def _insert(self, table: str) -> Change:
        like = self.tables[table][self._any(table)]
        row = {**like, **self._edit(table), REGISTERS[table]: self._free(table), "updated_at": self._now}
        return self._write(Change(table=table, kind="insert", key=str(row[REGISTERS[table]]), values=row))

    def _update(self, table: str) -> Change:
        values = {**self._edit(table), "updated_at": self._now}
        return self._write(Change(table=table, kind="update", key=self._any(table), values=values))

    def _rename(self, table: str) -> Change:
        values = {REGISTERS[table]: self._free(table), "updated_at": self._now}
        return self._write(Change(table=table, kind="rename", key=self._any(table), values=values))

    def _delete(self, table: str) -> Change:
        change = Change(table=table, kind="delete", key=self._any(table))
        del self.tables[table][change.key]
        self._gone[table].append(change.key)
        return change

    def _write(self, change: Change) -> Change:
        rows = self.tables[change.table]
        row = {**rows.pop(change.key, {}), **change.values}
        key = str(row[REGISTERS[change.table]])
        rows[key] = row
        self._recent[change.table].append(key)
        if change.kind == "rename":
            self._gone[change.table].append(change.key)
        return change

    def _any(self, table: str) -> str:
        """A row; half of the time one that was changed a short while ago, as rows have their busy days."""
        recent = [key for key in self._recent[table] if key in self.tables[table]]
        return self.random.choice(recent if recent and self.random.random() < 1 / 2 else sorted(self.tables[table]))

    def _free(self, table: str) -> str:
        """A key that no row has; one that a row had before, where the toss of a coin says so."""
        rows = self.tables[table]
        if self._gone[table] and self.random.random() < 1 / 2:
            key = self._gone[table].pop(self.random.randrange(len(self._gone[table])))
            if key not in rows:
                return key
        lengths = {"planes": 5, "airports": 3, "airlines": 2}
        while True:
            key = "".join(self.random.choices(CODES, k=lengths[table]))
            if key not in rows:
                return key

    def _edit(self, table: str) -> Row:
        """New values for a column or two."""
        if table == "airlines":
            return {"name": f"Airline {self.random.randrange(10**6)}"}
        if table == "airports":
            return {"altitude_ft": self.random.randint(-100, 9_000)}
        seats: Row = {"seats": self.random.randint(2, 400)}
        if self.has_large and self.random.random() < 1 / 3:
            return seats | {LARGE_COLUMN: self._text()}
        return seats

    def _text(self) -> str:
        return "".join(self.random.choices(ascii_uppercase, k=LARGE_SIZE))


def read(connection: psycopg.Connection) -> Tables:
    """The rows of the registers by table and key, as a plan starts from them; times in UTC."""
    connection.execute("SET TIME ZONE 'UTC'")
    with connection.cursor(row_factory=dict_row) as cursor:
        return {
            table: {str(row[key]): row for row in cursor.execute(SQL("SELECT * FROM {}").format(Identifier("public", table))).fetchall()}
            for table, key in REGISTERS.items()
        }


def apply(connection: psycopg.Connection, changes: Sequence[Change]) -> None:
    """Makes changes in one transaction."""
    with connection.transaction():
        for change in changes:
            if change.kind == "add column":
                _add_column(connection)
            else:
                connection.execute(_statement(change), {**change.values, "_key": change.key})


def _add_column(connection: psycopg.Connection) -> None:
    names = {"table": Identifier("public", LARGE_TABLE), "column": Identifier(LARGE_COLUMN)}
    connection.execute(SQL("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} text").format(**names))
    # Not compressed: then every long text stands outside of its row.
    connection.execute(SQL("ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL").format(**names))


def _statement(change: Change) -> Composed:
    table, key = Identifier("public", change.table), Identifier(REGISTERS[change.table])
    columns, values = [Identifier(name) for name in change.values], [Placeholder(name) for name in change.values]
    if change.kind == "insert":
        return SQL("INSERT INTO {} ({}) VALUES ({})").format(table, SQL(", ").join(columns), SQL(", ").join(values))
    if change.kind == "delete":
        return SQL("DELETE FROM {} WHERE {} = {}").format(table, key, Placeholder("_key"))
    pairs = SQL(", ").join(SQL("{} = {}").format(column, value) for column, value in zip(columns, values, strict=True))
    return SQL("UPDATE {} SET {} WHERE {} = {}").format(table, pairs, key, Placeholder("_key"))


def main() -> None:
    """Make the changes that the command line asks for, and say how many of each kind."""
    parser = argparse.ArgumentParser(prog="python -m simulator.nyc_flights.changes", description="Change planes, airports and airlines.")
    parser.add_argument("--seed", type=int, required=True, help="the same seed on the same rows makes the same changes")
    parser.add_argument("--transactions", type=int, required=True)
    parser.add_argument("--per-second", type=float, help="transactions in a second; without it, as fast as possible")
    asked = parser.parse_args()
    if DSN_VARIABLE not in os.environ:
        parser.error(f"the environment variable {DSN_VARIABLE} is not set; it holds the DSN of the database to change")
    try:
        with psycopg.connect(os.environ[DSN_VARIABLE], autocommit=True) as connection:
            planned = plan(read(connection), seed=asked.seed, transactions=asked.transactions)
            for changes in planned.transactions:
                apply(connection, changes)
                if asked.per_second:
                    Event().wait(1 / asked.per_second)
    except psycopg.Error as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    for kind, number in planned.counts().items():
        sys.stdout.write(f"{kind}: {number}\n")


if __name__ == "__main__":
    main()
