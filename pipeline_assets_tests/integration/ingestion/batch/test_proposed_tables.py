"""Proposals of Postgres tables: what the catalog promises, what a sample shows, and that the rows keep what was proposed of them."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import pytest
from psycopg import sql
from pydantic import SecretStr
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.core.errors import ProposalRefused, SettingsMissing, SourceUnavailable
from pipeline_assets.ingestion.batch.postgres import open_table
from pipeline_assets.ingestion.batch.proposals import tables
from pipeline_assets.ingestion.batch.proposals.tables import propose_table
from pipeline_assets.spec.contracts import Field
from pipeline_assets.spec.sources import PostgresTable, Source
from pipeline_assets_tests.proposed_modules import formatted, lint, problems_of, source
from pipeline_assets_tests.readings import DATABASE, World, day, reading

ORDERS = """
    create type {kinds} as enum ('web', 'shop, "old"');
    create domain {levels} as smallint not null check (value > 0);
    create table {table} (
        order_no bigint generated always as identity, branch varchar(8) not null, kind {kinds}, level {levels}, amount numeric(9, 2),
        quantity numeric(12, 0) not null check (quantity >= 0), huge numeric(30, 0), any_number numeric,
        any_id numeric not null, weight real, code char(3), token uuid, is_paid boolean,
        placed_at timestamptz not null, recorded_at timestamptz not null, local_time timestamp, born date, tags text[], extra jsonb,
        "Odd Name" text, "class" text, name name,
        state text check (state in ('new', 'it''s done')), score integer check (score between 1 and 5), odd integer check (odd % 2 = 1),
        primary key (branch, order_no)
    );
    comment on table {table} is 'Orders, one row "per" order.';
    comment on column {table}.amount is 'What was paid,
        in EUR; null until it is.';
    insert into {table} (
        branch, kind, level, amount, quantity, weight, code, token, is_paid, placed_at, recorded_at, extra, state, score, odd, any_number,
        any_id
    )
    select 'b' || n % 3, (array['web', 'shop, "old"'])[1 + n % 2]::{kinds}, 1 + n % 5, case when n % 4 > 0 then n * 1.25 end, n, n / 3.0,
        'a' || n % 10, gen_random_uuid(), n % 2 = 0, '2013-05-01 00:00Z'::timestamptz + n * '10 min'::interval,
        '2013-05-01 00:05Z'::timestamptz + n * '10 min'::interval, '{{}}', 'new', 1 + n % 5, 1, n + 0.5,
        9223372036854775807::numeric + n
    from generate_series(1, 100) as n;
"""


def fill(world: World, statement: str) -> None:
    """Runs the statements that make a table, with types of its own."""
    with world.database() as connection:
        names = {name: sql.Identifier(f"{world.name}_{name}") for name in ("kinds", "levels", "other")}
        connection.execute(sql.SQL(statement).format(table=sql.Identifier(world.name), **names))


def propose(world: World, rows: int = 10_000, **origin: str) -> tuple[Source, str]:
    """The source that is proposed, and its module; it is in order, and laid out as it should be."""
    place = PostgresTable(**{"database": DATABASE, "table": world.name, **origin})
    proposal, module = propose_table(world.settings, place, None, rows)
    found = source(module)
    assert (found.contract, found.origin) == (proposal.contract, place)
    assert problems_of(found) == []
    assert (formatted(module), lint(module)) == (module, "All checks passed!\n")
    return found, module


def read(world: World, found: Source, asked: date | None = None) -> tuple[int, list[str]]:
    """How many rows keep the contract, and what is wrong with the others, by the reader of the batches."""
    assert isinstance(found.origin, PostgresTable)
    with open_table(world.settings, found.contract, found.origin) as table, table.reader() as reader:
        parts = list(reader(asked))
    return sum(part.good.num_rows for part in parts), [row.fault for part in parts for row in part.broken]


def rules(found: Source) -> dict[str, dict[str, Any]]:
    """What each field says beyond its type and its description."""
    return {field.name: {"type": field.type, **_given(field)} for field in found.contract.fields}


def _given(field: Field) -> dict[str, Any]:
    given = {name: getattr(field, name) for name in ("required", "minimum", "maximum", "precision", "scale", "allowed", "max_length")}
    return {name: value for name, value in given.items() if value is not None and value is not False and value != ()}


def test_the_catalog_promises_and_the_sample_shows(world: World) -> None:
    """Types, `not null`, lengths, enumerations, key and comments are values; ranges are comments; what no type holds is left out."""
    fill(world, ORDERS)

    found, module = propose(world)

    required = {"required": True}
    assert rules(found) == {
        "order_no": {"type": "integer", **required},
        "branch": {"type": "string", **required, "max_length": 8},
        "kind": {"type": "string", "allowed": ("web", 'shop, "old"')},
        "level": {"type": "integer", **required, "minimum": 1},
        "amount": {"type": "decimal", "precision": 9, "scale": 2},
        "quantity": {"type": "integer", **required, "minimum": 0},
        "huge": {"type": "decimal", "precision": 30, "scale": 0},
        "any_number": {"type": "number"},
        "any_id": {"type": "decimal", **required, "precision": 38, "scale": 0},
        "weight": {"type": "number"},
        "code": {"type": "string", "max_length": 3},
        "token": {"type": "string"},
        "is_paid": {"type": "boolean"},
        "placed_at": {"type": "timestamp", **required},
        "recorded_at": {"type": "timestamp", **required},
        "extra": {"type": "string"},
        "class": {"type": "string"},
        "name": {"type": "string"},
        "state": {"type": "string", "allowed": ("new", "it's done")},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
        "odd": {"type": "integer"},
    }
    contract = found.contract
    assert (contract.primary_key, contract.event_at, contract.known_at) == (("branch", "order_no"), "placed_at", "recorded_at")
    assert (contract.lateness, contract.freshness, found.load) == (timedelta(minutes=15), timedelta(hours=1), "daily")
    assert contract.description == 'Orders, one row "per" order.'
    assert next(field.description for field in contract.fields if field.name == "amount") == "What was paid, in EUR; null until it is."
    for line in (
        f'# Looked at: 100 rows of "public.{world.name}" in database "airline_ops", and its catalog.',
        '# - "tags": "text[]" has no type of contracts; leave it out, or declare a view of the table with a cast',
        '# - "Odd Name": string, but its name is not a lower-case name of letters, digits and underscores, at most 48 long',
        "            # seen: 1.25 to 123.75; null in 25 of 100 rows",
        "            # guess: numeric without digits, of the type that its values show",
        "            # guess: 0 digits after the point were seen, and 19 in all",
        "            # seen: 9223372036854775808 to 9223372036854775907",
        '            # checked by the table: "CHECK (((odd % 2) = 1))"',
    ):
        assert f"{line}\n" in module
    assert '\n# - "local_time": "timestamp without time zone" names no instant; give it a zone: alter its type to timestamptz' in module
    assert "guess: no two" not in module
    assert read(world, found) == (100, [])
    assert read(world, found, date(2013, 5, 1)) == (100, [])


def test_a_domain_is_what_it_is_made_of_through_all_domains_between(world: World) -> None:
    """Regression: of a domain over a domain or an enumeration the column was left out, as one of no type of contracts."""
    fill(
        world,
        """
        create type {kinds} as enum ('web', 'shop');
        create domain {levels} as varchar(12) not null;
        create domain {other} as {levels} check (value <> '');
        create domain {table}_amount as numeric(9, 2) check (value >= 0);
        create domain {table}_kind as {kinds};
        create table {table} (
            sku {other} primary key, amount {table}_amount, kind {table}_kind, updated_at timestamptz not null
        );
        insert into {table} values ('a', 1.25, 'web', '2013-05-01Z');
        """.replace("{table}_", f"{world.name}_"),
    )

    found, module = propose(world)

    assert rules(found) == {
        "sku": {"type": "string", "required": True, "max_length": 12},
        "amount": {"type": "decimal", "precision": 9, "scale": 2, "minimum": 0},
        "kind": {"type": "string", "allowed": ("web", "shop")},
        "updated_at": {"type": "timestamp", "required": True},
    }
    assert "# checked by the table: \"CHECK (((VALUE)::text <> ''::text))\"" in module
    assert read(world, found) == (1, [])


def test_a_register_is_followed_by_its_changes(world: World) -> None:
    """A table with a key whose rows are changed; without a key it is a snapshot, and its key is guessed."""
    fill(
        world,
        """
        create table {table} (code text primary key, name text, created_at timestamptz not null, updated_at timestamptz not null);
        insert into {table}
        select n::text, 'n', '2013-05-01Z', '2013-05-02Z'::timestamptz + n * '1 h'::interval from generate_series(1, 9) as n;
        create view {other} as select code, name, updated_at from {table};
        """,
    )

    followed, _ = propose(world)
    seen, module = propose(world, table=f"{world.name}_other")

    assert (followed.load, followed.contract.event_at, followed.contract.known_at) == ("changes", "updated_at", "updated_at")
    assert (followed.contract.primary_key, followed.contract.lateness) == (("code",), timedelta(0))
    assert (seen.load, seen.contract.primary_key) == ("snapshot", ("code",))
    assert [name for name, rule in rules(seen).items() if rule.get("required")] == ["code", "name", "updated_at"]
    assert "# guess: no two of 9 rows have it in common" in module
    assert (read(world, followed), read(world, seen)) == ((9, []), (9, []))


def test_a_table_without_a_time_is_known_by_the_commits_of_its_changes(world: World) -> None:
    """Where it has a key; the field of that time stands in no table."""
    fill(world, "create table {table} (id integer primary key, name text); insert into {table} values (1, 'a')")

    found, module = propose(world)

    assert (found.load, found.known_at_commit, found.contract.known_at) == ("changes", True, "committed_at")
    assert "# guess: no time stands in the table; `pipeline sources preflight` says whether they can be followed" in module
    assert rules(found)["committed_at"] == {"type": "timestamp", "required": True}


def test_without_key_and_time_the_proposal_says_that_it_does_not_load(world: World) -> None:
    """There is nothing that a row could be known by."""
    fill(world, "create table {table} (name text)")

    proposal, _ = propose_table(world.settings, world.origin, None, 10)

    assert "no field can say when a row happened and was known" in proposal.problem


def test_an_empty_table_is_proposed_from_its_catalog(world: World) -> None:
    """Nothing was seen, and the comments say so."""
    fill(world, "create table {table} (id integer primary key, seen_at timestamptz)")

    found, module = propose(world)

    assert (found.contract.event_at, found.contract.known_at, found.load) == ("seen_at", "seen_at", "daily")
    assert "# Looked at: 0 rows of" in module
    assert "# guess: required, as no null was seen; the source allows it" in module


def test_a_column_with_values_that_would_break_is_left_out(world: World) -> None:
    """NaN and infinite times are in quarantine under any contract."""
    world.fill([reading(0), reading(1, value="NaN"), reading(2)])
    world.run("alter table {table} add column until timestamptz default 'infinity'")

    found, module = propose(world)

    assert '# - "value": number, but 1 of 3 values would put their rows in quarantine (not finite)\n' in module
    assert '# - "until": timestamp, but 3 of 3 values would put their rows in quarantine (out of range)\n' in module
    assert read(world, found) == (3, [])
    assert (read(world, found, day(0)), found.contract.known_at) == ((1, []), "sent_at")


@pytest.fixture
def large(world: World) -> Iterator[World]:
    """A table of 50,000 rows of which the server knows how many they are."""
    fill(
        world,
        """
        create table {table} (id integer primary key, note text, recorded_at timestamptz not null);
        insert into {table}
        select n, repeat('x', 100), '2013-05-01Z'::timestamptz + n * '1 s'::interval from generate_series(1, 50000) as n;
        """,
    )
    world.run("analyze {table}")
    yield world
    world.run("drop table {table}")


def test_a_large_table_is_looked_at_in_all_its_parts(large: World) -> None:
    """So many rows, at most, from blocks all over it, and the proposal says of how many."""
    proposal, module = propose_table(large.settings, large.origin, None, 5_000)
    ids = _values(proposal.sample.columns, "id")

    assert f"{len(ids):,} rows of about 50,000 of" in module
    assert 2_000 < len(ids) <= 5_000
    assert min(ids) < 15_000
    assert max(ids) > 35_000


def _values(columns: Sequence[Any], name: str) -> Sequence[Any]:
    return next(column.values for column in columns if column.name == name)


def test_a_sample_ends_at_so_many_bytes(large: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may be of any size, and the connection is given up in the middle of them."""
    monkeypatch.setattr(tables, "SAMPLE_BYTES", 1_000)

    proposal, _ = propose_table(large.settings, large.origin, None, 40_000)

    assert 0 < proposal.sample.rows < 40_000


def test_a_table_that_takes_too_long_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database itself ends the statement."""
    fill(world, "create view {table} as select 1 as id, now() as at from pg_sleep(60)")
    monkeypatch.setattr(tables, "SAMPLE_SECONDS", 0.05)

    with pytest.raises(SourceUnavailable, match="statement timeout"):
        propose_table(world.settings, world.origin, None, 10)


def test_names_and_comments_are_no_code(world: World) -> None:
    """Whatever stands in a catalog stays a text."""
    fill(
        world,
        '''
        create table {table} ("a"");import os;(""" int, "# fmt: off" int, id integer primary key, recorded_at timestamptz not null);
        comment on table {table} is '""")\n# fmt: off\nraise SystemExit("';
        comment on column {table}.id is E'\\\\ \\x01 " \\'\\'\\'';
        ''',
    )

    found, module = propose(world)

    assert found.contract.description == '""") # fmt: off raise SystemExit("'
    assert found.contract.fields[0].description == "\\ \x01 \" '''"
    assert [line for line in module.splitlines() if line.startswith("# - ")] == [
        r"""# - 'a");import os;("': integer, but its name is not a lower-case name of letters, digits and underscores, at most 48 long""",
        '# - "# fmt: off": integer, but its name is not a lower-case name of letters, digits and underscores, at most 48 long',
    ]


def test_what_is_not_there_is_said_in_a_sentence(world: World) -> None:
    """A table, and a database, that there is not."""
    with pytest.raises(ProposalRefused, match=f'database \'airline_ops\' has no table "public"."{world.name}"'):
        propose_table(world.settings, world.origin, None, 10)
    with pytest.raises(SettingsMissing, match="PIPELINE_DATABASES__NOWHERE"):
        propose_table(world.settings, PostgresTable(database="nowhere", table="a"), None, 10)


def test_the_command_needs_the_database_alone(world: World) -> None:
    """A schema may stand before the table; no other setting is read."""
    fill(world, "create table {table} (id integer primary key, recorded_at timestamptz not null)")
    dsn: SecretStr = world.settings.databases[DATABASE]
    environment = {"PIPELINE_DATABASES__AIRLINE_OPS": dsn.get_secret_value()}

    ended = [
        CliRunner().invoke(app, ["sources", "propose", "table", DATABASE, table, "--name", "things"], env=environment)
        for table in (world.name, f"public.{world.name}")
    ]

    assert [each.exit_code for each in ended] == [0, 0], ended[0].output
    assert source(ended[0].stdout) == source(ended[1].stdout)
    assert source(ended[0].stdout).origin == world.origin
