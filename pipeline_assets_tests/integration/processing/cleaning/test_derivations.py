"""Rows that dbt has built in a real Postgres, beside those that micro-batches derive in another database by the same models."""

import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pipeline_assets.core import connections
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings, read_code_settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.processing.cleaning.dbt import PROGRAM, variables
from pipeline_assets.processing.cleaning.derivations import Derivation, derivation_of, statements
from pipeline_assets.processing.cleaning.functions import OF_GRAMMAR, ROW_FUNCTIONS, words
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.processing.cleaning.raw_schema import follow_contract
from pipeline_assets.processing.cleaning.row_by_row import problems
from pipeline_assets.spec.contracts import Contract
from pipeline_assets_tests.derived_rows import added_models, edges, rows_at_edges
from pipeline_assets_tests.flight_rows import put_raw
from pipeline_assets_tests.library import dbt_project_of
from pipeline_assets_tests.stack_services import create_database

TABLES = (
    "departures_history", "arrivals_history", "flights_history", "weather_observations_history", "aircraft_history", "results_history",
    "edges_history", "chosen_history",
)  # fmt: skip
KEYS, VERSIONS = 150, 6
AT_HAND = "rows_at_hand"
FOREVER = date(1, 1, 1), date(9999, 12, 30)
# Functions that depend on settings of the session, which are fixed: the time zone, and how dates and intervals are written.
OF_SESSION = words(
    "date_part date_trunc date extract length to_char to_timestamp to_date to_json to_jsonb json_build_object jsonb_build_object "
    "json_build_array timezone jsonb_build_array concat concat_ws format array_to_string string_to_array "
    "quote_literal quote_nullable "
    "make_timestamptz date_add date_subtract to_number"
)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A dbt project that was built, with its manifest, and an empty database with the raw tables of its contracts."""

    warehouse: Settings
    online: Settings
    manifest: Any
    contracts: dict[str, Contract]


@pytest.fixture(scope="module")
def built(stores: Settings, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both use cases and one of edges: raw rows of each contract, and all of their models built from them by dbt itself."""
    project = Project(use_cases=(*load_project().use_cases, edges))
    folder = tmp_path_factory.mktemp("derived") / "dbt"
    dbt_project_of(folder, project, read_code_settings().dbt_project / "models", added_models())
    warehouse, online = (
        stores.model_copy(update={"warehouse_dsn": create_database(stores.home, stores.warehouse_dsn)}) for _ in ("warehouse", "online")
    )
    contracts = {contract.name: versioned(contract) for contract, _ in project.lake_contracts}
    random = Random(13)  # noqa: S311 - rows of a test
    for contract in contracts.values():
        put_raw(warehouse, contract, *FOREVER, rows_at_edges(contract, random, KEYS, VERSIONS))
        follow_contract(online, contract)
    command: list[str | Path] = [PROGRAM, "--quiet", "run", "--full-refresh", "--profiles-dir", folder, "--target-path", folder / "run"]
    command += ["--select", *(f"+{table}" for table in TABLES)]
    done = subprocess.run(command, cwd=folder, env=os.environ | variables(warehouse), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return Built(warehouse=warehouse, online=online, manifest=read_manifest(folder), contracts=contracts)


COLUMNS = "select column_name from information_schema.columns where table_schema = %s and table_name = %s order by ordinal_position"
Bits = Counter[tuple[Any, ...]]


@pytest.mark.parametrize("size", [1, 13, 10_000])
@pytest.mark.parametrize("table", TABLES)
def test_micro_batches_derive_what_dbt_builds(built: Built, table: str, size: int) -> None:
    """In any order, in batches of any size, all columns of all versions come out bit for bit as in the table that dbt has built."""
    derivation = derivation_of(built.manifest, table)
    with connections.warehouse(built.warehouse) as connection:
        columns = [name for (name,) in connection.execute(COLUMNS, ["cleaned", table])]
        arrived = list(connection.execute(sql.SQL("select * from {}").format(sql.Identifier("raw", derivation.source))))
        expected = bits_of(connection, sql.Identifier("cleaned", table), derivation, columns)
    Random(size).shuffle(arrived)  # noqa: S311 - rows of a test

    assert problems(built.manifest, table) == ()
    assert len(expected) > KEYS
    assert derived(built, derivation, columns, [arrived[first : first + size] for first in range(0, len(arrived), size)]) == expected


def derived(built: Built, derivation: Derivation, columns: Sequence[str], batches: Iterable[Sequence[tuple[Any, ...]]]) -> Bits:
    """The rows after the last batch; each is derived with all versions of its keys that came before, and replaces what these keys had."""
    key = derivation.key_of_raw
    assert key is not None
    stored, names = sql.Identifier("raw", derivation.source), sql.SQL(", ").join(map(sql.Identifier, key))
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    with connections.warehouse(built.online) as connection:
        connection.execute(sql.SQL("truncate {}").format(stored))
        connection.execute(sql.SQL("create temporary table {} (like {})").format(sql.Identifier(AT_HAND), stored))
        for statement in statements(derivation, f"select * from pg_temp.{AT_HAND}"):  # noqa: S608 - a table of the test
            connection.execute(statement.encode())
        places = [
            [one.name for one in connection.execute(sql.SQL("select * from {}").format(stored)).description or ()].index(k) for k in key
        ]
        for batch in batches:
            touched = list({tuple(row[place] for place in places) for row in batch})
            values = sql.SQL(", ").join([sql.Placeholder()] * len(batch[0]))
            connection.cursor().executemany(sql.SQL("insert into {} values ({})").format(stored, values), batch)
            connection.execute(sql.SQL("truncate {}").format(sql.Identifier(AT_HAND)))
            take = sql.SQL("insert into {} select * from {} where ({}) = ({})")
            marks = sql.SQL(", ").join([sql.Placeholder()] * len(key))
            connection.cursor().executemany(take.format(sql.Identifier(AT_HAND), stored, names, marks), touched)
            found |= {one: [] for one in touched}
            for row in bits_of(connection, sql.Identifier("pg_temp", derivation.table), derivation, columns).elements():
                found[row[:-1]].append(row)
    return Counter(row for rows in found.values() for row in rows)


def bits_of(connection: psycopg.Connection, table: sql.Identifier, derivation: Derivation, columns: Sequence[str]) -> Bits:
    """The rows of a table, each as its key and the bytes of all of its columns, types included."""
    key = sql.SQL(", ").join(map(sql.Identifier, derivation.key_of_raw or ()))
    query = sql.SQL("select {}, record_send(row({})) from {}")
    return Counter(connection.execute(query.format(key, sql.SQL(", ").join(map(sql.Identifier, columns)), table)))


def test_functions_that_may_derive_rows_follow_from_their_arguments(built: Built) -> None:
    """In the catalog of the real Postgres each is there, none is volatile, and none but those that are known is less than immutable."""
    query = "select proname, provolatile, proretset, prokind from pg_proc where pronamespace = 'pg_catalog'::regnamespace"
    with connections.warehouse(built.online) as connection:
        known = list(connection.execute(query))
    found = {name for name, *_ in known}
    listed = [one for one in known if one[0] in ROW_FUNCTIONS]

    assert ROW_FUNCTIONS - found - OF_GRAMMAR == frozenset()
    assert [one for one in listed if one[1] == "v" or one[2] or one[3] != "f"] == []
    assert {name for name, volatile, *_ in listed if volatile == "s"} <= OF_SESSION
