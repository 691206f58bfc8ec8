"""Registers that have not changed are left as they are, and come out as if all had been built each time, whatever happens between."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from psycopg.sql import SQL, Composable, Composed, Identifier

from pipeline_assets.core import connections, names
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.processing.cleaning.inspection import read_held
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.use_cases.nyc_flights.sources import airlines, airports
from pipeline_assets_tests.cleaning_runs import assets_of_room, checked, metadata_of, room
from pipeline_assets_tests.flight_rows import Row, cleaned_rows
from pipeline_assets_tests.lake_rows import stage

AIRLINES, AIRPORTS = versioned(airlines.contract), versioned(airports.contract)
CONTRACTS = (AIRLINES, AIRPORTS)
KNOWN = datetime(2013, 1, 1, tzinfo=UTC)
STAGED = tuple((names.STAGING, names.stg(contract.name)) for contract in CONTRACTS)
CLEANED = tuple(names.cleaned(contract.name) for contract in CONTRACTS)
RAW = tuple(names.raw(contract.name) for contract in CONTRACTS)
# What is done to the warehouse between two runs by other hands, or by a restore.
DONE = {
    "nothing": "select 1",
    "older rows": "update {table} set name = 'of another time'",
    "older copy": "update {raw} set name = 'of another time'",
    "lost row": "delete from {table} where ctid = (select min(ctid) from {table})",
    "dropped view": "drop view {view} cascade",
    "dropped table": "drop table {table} cascade",
    "emptied view": "create or replace view {view} as select * from {raw_view} where false",
    "lost notes": "drop table publishing.built",
}
HAPPENINGS = (*DONE, "new rows", "older notes")
Rows = dict[str, list[Row]]


def airline(number: int, name: str) -> Row:
    """An airline."""
    return {"carrier": f"C{number}", "name": name, "updated_at": KNOWN, "_deleted_at": None}


def airport(number: int, name: str) -> Row:
    """An airport."""
    place = {"latitude": 40.0, "longitude": -70.0, "altitude_ft": 5, "time_zone": "America/New_York"}
    return {"faa": f"A{number}", "name": name, "updated_at": KNOWN, "_deleted_at": None, **place}


def put(settings: Settings, contract: Contract, rows: list[Row]) -> None:
    """Puts rows of a register into the lake."""
    stage(settings, contract, None, pa.Table.from_pylist(rows, schema=arrow_schema(contract)))
    tables.publish_snapshot(settings, contract)


def build(platform: Platform, *, full_refresh: bool = False) -> dg.ExecuteInProcessResult:
    """The raw tables and registers of airlines and airports, materialized."""
    config = {"ops": {names.registers("nyc_flights"): {"config": {"full_refresh": True}}}} if full_refresh else None
    result = dg.materialize(
        assets_of_room(room()),
        selection=dg.AssetSelection.assets(*(key(name) for name in (*RAW, *STAGED, *CLEANED))),
        resources={"platform": platform, **(room().resources or {})},
        run_config=config,
    )
    assert result.success
    return result


def left(result: dg.ExecuteInProcessResult) -> set[str]:
    """The tables that a run says it has left as they were."""
    found = {name: metadata_of(result, name) for name in (*RAW, *STAGED, *CLEANED)}
    return {".".join(name) for name, said in found.items() if said.get(names.UNCHANGED)}


def numbers(settings: Settings) -> dict[str, int]:
    """The number that Postgres has given each relation when it was made."""
    with connections.warehouse(settings) as connection:
        asked = ".".join
        found = {asked(one): connection.execute("select to_regclass(%s)::oid", [asked(one)]).fetchone() for one in (*STAGED, *CLEANED)}
        return {name: row[0] for name, row in found.items() if row is not None}


def said(result: dg.ExecuteInProcessResult) -> Mapping[str, Any]:
    """The checks of the tables of a run."""
    return {f"{name[1]}.{check}": one.passed for name in (*STAGED, *CLEANED) for check, one in checked(result, name).items()}


def first_rows() -> Rows:
    """Three rows of each register."""
    made = {AIRLINES.name: airline, AIRPORTS.name: airport}
    return {name: [make(number, f"{name} {number}") for number in range(3)] for name, make in made.items()}


@dataclass(kw_only=True)
class Course:
    """What happens to the registers between runs, at random; `rows` is what they hold in the end."""

    settings: Settings
    random: Random
    rows: Rows = field(default_factory=first_rows)
    notes: list[tuple[Any, ...]] = field(default_factory=list)

    def happen(self, what: str) -> None:
        """Something happens to one of the registers."""
        contract = self.random.choice(CONTRACTS)
        if what == "new rows":
            make = {AIRLINES.name: airline, AIRPORTS.name: airport}[contract.name]
            self.rows[contract.name] = [*self.rows[contract.name], make(len(self.rows[contract.name]), f"new {self.random.random()}")]
            put(self.settings, contract, self.rows[contract.name])
        elif what == "older notes":
            self.do(SQL("delete from publishing.built"))
            for note in self.notes:
                self.do(SQL("insert into publishing.built values ({}, {}, {}, {}::jsonb)").format(*note))
        else:
            self.do(SQL(DONE[what]).format(**self.relations(contract)))

    def relations(self, contract: Contract) -> dict[str, Composable]:
        """The relations of a register, and the query of its view."""
        view = Identifier(names.STAGING, names.stg(contract.name))
        with connections.warehouse(self.settings) as connection:
            (query,) = connection.execute("select pg_get_viewdef(%s::regclass)", [view.as_string()]).fetchone() or ("",)
        return {
            "table": Identifier(*names.cleaned(contract.name)),
            "raw": Identifier(*names.raw(contract.name)),
            "view": view,
            "raw_view": SQL("({}) as its_rows").format(SQL(query.rstrip().rstrip(";"))),
        }

    def remember(self) -> None:
        """Keeps the notes as they are now, to be put back later."""
        with connections.warehouse(self.settings) as connection:
            self.notes = connection.execute("select relation, made_from, held, facts::text from publishing.built").fetchall()

    def do(self, statement: SQL | Composed) -> None:
        """A statement by other hands."""
        with connections.warehouse(self.settings) as connection:
            connection.execute(statement)


def expected(rows: Rows) -> dict[str, set[tuple[Any, ...]]]:
    """The same of raw rows that have one version each."""
    return {contract.name: facts(contract, rows[contract.name], "updated_at") for contract in CONTRACTS}


def facts(contract: Contract, rows: list[Row], known_at: str) -> set[tuple[Any, ...]]:
    """Key, name and time of rows."""
    return {tuple(row[column] for column in (*contract.primary_key, "name", known_at)) for row in rows}


def held(settings: Settings) -> dict[str, set[tuple[Any, ...]]]:
    """Key, name and time of the rows of the cleaned registers."""
    return {contract.name: facts(contract, cleaned_rows(settings, contract.name), "known_at") for contract in CONTRACTS}


@pytest.mark.timeout(900)
def test_what_has_not_changed_is_not_built(isolated: Settings, platform: Platform) -> None:
    """The second run builds nothing, by its own words and by Postgres, and says the results of the tests again; then one register alone."""
    rows = first_rows()
    for contract in CONTRACTS:
        put(isolated, contract, rows[contract.name])
    first = build(platform)
    made = numbers(isolated)
    second = build(platform)
    as_made = numbers(isolated)
    put(isolated, AIRLINES, [*rows[AIRLINES.name], airline(3, "new")])
    third = build(platform)

    everything = {".".join(name) for name in (*RAW, *STAGED, *CLEANED)}
    assert (left(first), left(second)) == (set(), everything)
    assert as_made == made
    assert said(first) == said(second) == said(third) != {}
    assert left(third) == {name for name in everything if name.endswith("airports")}
    assert {name for name, number in numbers(isolated).items() if number != made[name]} == {"staging.stg_airlines", "cleaned.airlines"}
    assert len(cleaned_rows(isolated, "airlines")) == 4


@pytest.mark.timeout(1800)
def test_any_course_gives_what_building_everything_gives(isolated: Settings, platform: Platform) -> None:
    """Rows that change, tables that are lost or of another time, notes that are older or gone: after each run all is as it should be."""
    course = Course(settings=isolated, random=Random(5))  # noqa: S311 - rows, no secrets
    for contract in CONTRACTS:
        put(isolated, contract, course.rows[contract.name])
    build(platform)
    course.remember()
    for what in ("new rows", *course.random.sample(HAPPENINGS, len(HAPPENINGS))):
        course.happen(what)
        build(platform)

        assert held(isolated) == expected(course.rows), what


@pytest.mark.timeout(900)
def test_a_build_that_ended_before_its_note_is_made_up_for(isolated: Settings, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends between the last table and the notes: the next one builds what had changed once more, and nothing else."""
    rows = first_rows()
    for contract in CONTRACTS:
        put(isolated, contract, rows[contract.name])
    build(platform)
    put(isolated, AIRPORTS, [*rows[AIRPORTS.name], airport(3, "new")])
    with monkeypatch.context() as patch:
        patch.setattr("pipeline_assets.processing.cleaning.assets.note_built", lambda *_: None)
        build(platform)
    again = build(platform)
    after = build(platform)

    assert left(again) >= {"cleaned.airlines", "raw.airports"}
    assert "cleaned.airports" not in left(again)
    assert "cleaned.airports" in left(after)


def test_a_type_without_a_hash_is_never_taken_for_unchanged(isolated: Settings) -> None:
    """Nothing is said of rows with a column of JSON, and all of a table whose rows stand in another order."""
    with connections.warehouse(isolated) as connection:
        connection.execute("create table plain as select * from (values (1, 'a'), (2, 'b')) as v (n, t)")
        connection.execute("create table turned as select * from (values (2, 'b'), (1, 'a')) as v (n, t)")
        connection.execute("create table doubled as select * from (values (1, 'a'), (1, 'a'), (2, 'b'), (2, 'b')) as v (n, t)")
        connection.execute("create table of_json as select '{}'::json as j")
        plain, turned, doubled = (read_held(connection, ("public", name)) for name in ("plain", "turned", "doubled"))

        assert plain == turned != doubled
        assert read_held(connection, ("public", "of_json")) is None
        assert read_held(connection, ("public", "nowhere")) is None
