"""Tables of every kind in one real database: what the preflight says of each, what is published, and that its remedies are right."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from secrets import token_hex

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.errors import NotFollowed
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.preflight import Contracts, Verdict
from pipeline_assets.ingestion.streaming.capture.replication import examine, publish
from pipeline_assets.ingestion.streaming.capture.table_rules import identifier
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import PostgresTable

OWNED = "airline_ops"
STATEMENT = re.compile(r"`((?:alter|create|grant) [^`]*;)`")
AT = "updated_at timestamptz not null default now()"
DDL = f"""
    create table fine (id bigint generated always as identity primary key, note text, {AT});
    create table keyless (id bigint, note text, {AT});
    create table nullable_key (id bigint unique, note text, {AT});
    create table late_key (id bigint primary key deferrable initially deferred, note text, {AT});
    create table vouchers (number bigint primary key, id bigint not null unique, note text, {AT});
    create table whole (number bigint primary key, id bigint not null unique, note text, {AT});
    alter table whole replica identity full;
    create table by_index (number bigint primary key, id bigint not null unique, note text, {AT});
    alter table by_index replica identity using index by_index_id_key;
    create table without_identity (id bigint primary key, note text, {AT});
    alter table without_identity replica identity nothing;
    create table wider_key (number bigint primary key, id bigint not null, note text, {AT});
    create table parted (id bigint, region text, note text, {AT}, primary key (id, region)) partition by list (region);
    create table parted_eu partition of parted for values in ('eu');
    create table parted_us partition of parted for values in ('us');
    create table uneven (id bigint primary key, note text, {AT}) partition by range (id);
    create table uneven_low partition of uneven for values from (0) to (10);
    create table "Uneven-high" partition of uneven for values from (10) to (20);
    alter table "Uneven-high" replica identity nothing;
    create table parents (id bigint primary key, note text, {AT});
    create table heirs (primary key (id)) inherits (parents);
    create table totals (id bigint primary key, note text, total bigint generated always as (id * 2) stored, {AT});
    create table guesses (id bigint primary key, note text, guess bigint generated always as (id * 2) virtual, {AT});
    create table whole_guesses (id bigint primary key, note text, guess bigint generated always as (id * 2) virtual, {AT});
    alter table whole_guesses replica identity full;
    create unlogged table unlogged_ones (id bigint primary key, note text, {AT});
    create view shown as select * from fine;
    create materialized view kept as select * from fine;
    create table hidden (id bigint primary key, note text, {AT});
    alter table hidden enable row level security;
    create table half_hidden (id bigint primary key, note text, {AT});
    alter table half_hidden enable row level security;
    create policy few on half_hidden using (id > 1);
    create table open_to_all (id bigint primary key, note text, {AT});
    alter table open_to_all enable row level security;
    create policy everything on open_to_all for select using (true);
    create schema closed;
    create table closed.letters (id bigint primary key, note text, {AT});
    create table "Orders" (id bigint primary key, note text, {AT});
    create table orders (id bigint primary key, note text, {AT});
    create table "order$items" (id bigint primary key, note text, {AT});
    create table "order items" (id bigint primary key, note text, {AT});
    create table other_note (id bigint primary key, note interval, {AT});
"""  # noqa: S608 - made of constants
ID, NOTE = Field(name="id", type="integer", required=True, description="Which."), Field(name="note", type="string", description="What.")
UPDATED = Field(name="updated_at", type="timestamp", required=True, description="When.")
CONTRACT = Contract(
    name="anything",
    version="1.0.0",
    owner="owner@shop.example",
    description="Any table.",
    fields=(ID, NOTE, UPDATED),
    primary_key=("id",),
    event_at="updated_at",
    known_at="updated_at",
    lateness=timedelta(0),
    freshness=timedelta(days=1),
    broken_share=0.0,
)


def with_fields(*added: Field, key: Sequence[str] = ("id",)) -> Contract:
    """The contract with more fields and another key."""
    return replace(CONTRACT, fields=(*CONTRACT.fields, *added), primary_key=tuple(key))


def integer(name: str) -> Field:
    """A field of whole numbers."""
    return Field(name=name, type="integer", description=name)


REGION = Field(name="region", type="string", required=True, description="Where.")
# Of each table what its only obstacle says (None: it has none), and whether the remedy is a statement that the owner can run.
EXPECTED: dict[str, tuple[str | None, bool]] = {
    "fine": (None, False),
    "keyless": ("has no key, and no unique index without nulls on the contract's key (id)", True),
    "nullable_key": ("has no key, and no unique index without nulls", True),
    "late_key": ("has no key, and no unique index without nulls", False),
    "vouchers": ("has a replica identity that shows only (number) of a row that was updated or deleted", True),
    "whole": (None, False),
    "by_index": (None, False),
    "without_identity": (
        "shows nothing of a row that was updated or deleted, so that once it is published the database would refuse",
        True,
    ),
    "wider_key": ("has a replica identity that shows only (number)", True),
    "parted": (None, False),
    "parted_eu": ('is a partition of "public"."parted", which is followed too', False),
    "uneven": ('in the partition public."Uneven-high" that shows nothing', True),
    "parents": ("has tables that inherit from it (public.heirs)", False),
    "heirs": (None, False),
    "totals": (None, False),
    "guesses": ("has the virtual generated column 'guess'", False),
    "whole_guesses": ("has virtual generated columns (guess) and shows whole rows", True),
    "unlogged_ones": ("is unlogged", True),
    "shown": ("is a view", False),
    "kept": ("is a materialized view", False),
    "hidden": ("hides rows from the role", True),
    "half_hidden": ("hides rows from the role", True),
    "open_to_all": (None, False),
    "closed.letters": ('is in the schema "closed", which the role', True),
    "Orders": (None, False),
    "orders": (None, False),
    "order$items": (None, False),
    "order items": ('lands where "public"."order$items" does', False),
    "other_note": ("does not have the field 'note' as the contract declares it: it is interval, expected string", False),
    "ORDERS": ('is not there. Expected: a table of this name. Declare its name as the database has it: "Orders", "orders"', False),
    "nowhere.at_all": ('there is no schema "nowhere"', False),
}
CONTRACTS = {
    "wider_key": with_fields(integer("number"), key=("id", "number")),
    "parted": with_fields(REGION, key=("id", "region")),
    "parted_eu": with_fields(REGION, key=("region", "id")),
    "totals": with_fields(integer("total")),
    "guesses": with_fields(integer("guess")),
}


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A database with tables of every kind, and the settings to read it."""

    settings: Settings
    database: str

    def execute(self, *statements: str) -> None:
        """Runs statements as the owner of the tables, each as a transaction."""
        with psycopg.connect(self.settings.databases[self.database].get_secret_value(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(SQL(statement))

    def change(self, name: str) -> None:
        """Updates and deletes rows of a table, as its application does."""
        table = self.table(name)
        with psycopg.connect(self.settings.databases[self.database].get_secret_value()) as connection:
            for statement in ("update {} set updated_at = now()", "delete from {}"):
                connection.execute(SQL(statement).format(Identifier(table.schema, table.table)))

    def published(self) -> set[str]:
        """The tables whose changes are published."""
        with psycopg.connect(self.settings.databases[self.database].get_secret_value()) as connection:
            query = "select schemaname, tablename from pg_publication_tables where pubname = %s"
            found = connection.execute(query, [names.replication(self.database)]).fetchall()
        return {table if schema == "public" else f"{schema}.{table}" for schema, table in found}

    def contracts(self, *chosen: str) -> Contracts:
        """The contracts of tables."""
        return {self.table(name): CONTRACTS.get(name, CONTRACT) for name in chosen}

    def table(self, name: str) -> PostgresTable:
        """A table by its name, with its schema where that is not `public`."""
        schema, _, table = name.rpartition(".")
        return PostgresTable(database=self.database, table=table, schema=schema or "public")

    def examined(self, *chosen: str) -> Verdict:
        """The preflight of tables."""
        contracts = self.contracts(*chosen)
        return examine(self.settings, self.database, list(contracts), contracts)

    def publish(self, *chosen: str) -> None:
        """Publishes tables."""
        contracts = self.contracts(*chosen)
        publish(self.settings, self.database, list(contracts), contracts)


@pytest.fixture
def shop(stores: Settings, fresh_database: Callable[[SecretStr], SecretStr]) -> Shop:
    """An empty database whose name no other test has."""
    owned, database = fresh_database(stores.owners[OWNED]), f"shop_{token_hex(6)}"
    base = stores.replication[OWNED].get_secret_value().rpartition("/")[0]
    reader = SecretStr(f"{base}/{owned.get_secret_value().rpartition('/')[2]}")
    settings = stores.model_copy(update={"databases": {database: owned}, "replication": {database: reader}})
    return Shop(settings=settings, database=database)


def said(verdict: Verdict, shop: Shop) -> dict[str, list[str]]:
    """What was found of each table that has obstacles."""
    return {name: [str(one) for one in verdict.of_tables.get(shop.table(name), ())] for name in EXPECTED}


def test_each_table_is_followed_or_refused_by_name_and_the_remedies_are_right(shop: Shop) -> None:
    """One database, many tables: those that can be followed are published, all can be changed, and a remedy that was run is enough."""
    shop.execute(DDL)
    verdict = shop.examined(*EXPECTED)
    found, accepted = said(verdict, shop), {name for name, (problem, _) in EXPECTED.items() if problem is None}

    assert verdict.of_database == []
    assert {name: sentences for name, sentences in found.items() if len(sentences) > 1} == {}
    assert {name: sentences for name, sentences in found.items() if (EXPECTED[name][0] is None) != (sentences == [])} == {}
    for name, (problem, _) in EXPECTED.items():
        assert problem is None or problem in found[name][0], name
        assert problem is None or identifier(shop.table(name)) in found[name][0]

    with pytest.raises(NotFollowed) as refused:
        shop.publish(*EXPECTED)
    published = shop.published()
    for name in EXPECTED.keys() - {"shown", "kept", "ORDERS", "nowhere.at_all"}:
        shop.change(name)

    assert published == accepted
    assert sorted(str(refused.value).splitlines()) == sorted(sentence for sentences in found.values() for sentence in sentences)
    assert shop.examined(*accepted).captured == {shop.table(name) for name in accepted}

    mended = {name for name, (_, has_statement) in EXPECTED.items() if has_statement}
    for name in mended:
        shop.execute(STATEMENT.findall(found[name][0])[0])
    shop.publish(*mended, *accepted)

    assert shop.published() == accepted | mended
