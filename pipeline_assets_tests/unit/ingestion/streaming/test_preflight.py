"""The judgement over the facts of a catalog: what no server of the tests has, and what is to be done for each combination of keys."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipeline_assets.ingestion.streaming.capture.catalog import Catalog, Part, Publication, Server, TableFacts, Unique
from pipeline_assets.ingestion.streaming.capture.preflight import Verdict, judged
from pipeline_assets.ingestion.streaming.capture.replication import publishing
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import PostgresTable
from pipeline_assets_tests.followed_tables import CONTRACT

ORDERS = PostgresTable(database="shop", table="orders")
SERVER = Server(
    version=180_006, is_standby=False, wal_level="logical", slots_most=10, slots_used=1, senders_most=10, senders_used=1,
    has_slot=False, is_read=False, slot_plugin=None, slot_database=None, database="shop", publisher="shop", may_create=True,
    is_reader_known=True, may_connect=True, may_replicate=True,
)  # fmt: skip
PART = Part(name="public.orders", kind="r", persistence="p", is_full=False, identity=["id"])
KEY = Unique(index="orders_pkey", columns=["id"], is_primary=True)
FACTS = TableFacts(
    is_known=True, is_schema_known=True, kind="r", persistence="p", owner="shop", is_owned=True, has_usage=True, has_select=True,
    uniques=[KEY], parts=[PART],
)  # fmt: skip
RIGHT = Publication(
    owner="shop", is_owned=True, has_all_operations=True, is_via_root=True, has_generated=True, listed=frozenset({("public", "orders")})
)


def contract(*key: str) -> Contract:
    """A contract of orders with this key."""
    code = Field(name="code", type="string", required=True, description="Code.")
    return replace(CONTRACT, fields=(*CONTRACT.fields, code), primary_key=key)


def catalog(
    facts: TableFacts | Mapping[PostgresTable, TableFacts] = FACTS, publication: Publication | None = None, **server: Any
) -> Catalog:
    """The catalog of a shop with one table, unless more are given."""
    tables = {ORDERS: facts} if isinstance(facts, TableFacts) else facts
    return Catalog(database="shop", reader="reader", server=replace(SERVER, **server), publication=publication, tables=tables)


def verdict(found: Catalog, declared: Contract | None = None) -> Verdict:
    """The verdict on a catalog, whose tables all have one contract."""
    return judged(found, dict.fromkeys(found.tables, declared or contract("id")), {})


def said(facts: TableFacts, declared: Contract | None = None, **more: Any) -> list[str]:
    """What is said of a table."""
    return [str(one) for one in verdict(catalog(facts, **more), declared).of_tables.get(ORDERS, ())]


def identified_by(*columns: str, is_full: bool = False) -> Part:
    """A table that shows these columns of a row that was changed."""
    return replace(PART, identity=columns, is_full=is_full)


@pytest.mark.parametrize(
    ("changed", "problem", "remedy"),
    [
        ({"is_standby": True}, "is a standby", "the DSN of the primary"),
        ({"wal_level": "replica"}, "wal_level 'replica'", "`alter system set wal_level = logical;`"),
        ({"slots_used": 10}, "no replication slot left: 10 of 10", "`alter system set max_replication_slots = 11;`"),
        ({"senders_used": 10}, "no sender of its log left", "`alter system set max_wal_senders = 11;`"),
        ({"has_slot": True, "slot_plugin": "wal2json", "slot_database": "shop"}, "wal2json", "pg_drop_replication_slot('pipeline_shop')"),
        ({"is_reader_known": False}, "has no role 'reader'", "create role"),
        ({"may_connect": False}, "connect", '`grant connect on database "shop" to "reader";`'),
        ({"may_replicate": False}, "replicate", '`alter role "reader" replication;`'),
        ({"may_create": False}, "create a publication", '`grant create on database "shop" to "shop";`'),
    ],
)
def test_what_a_server_lacks_is_said_of_the_database_and_none_of_its_tables_is_accepted(
    changed: Mapping[str, Any], problem: str, remedy: str
) -> None:
    """One sentence with the statement that mends it."""
    found = verdict(catalog(**changed))
    (sentence,) = map(str, found.of_database)

    assert sentence.startswith("Database 'shop' ")
    assert problem in sentence
    assert remedy in sentence
    assert (found.of_tables, found.accepted) == ({}, [])


def test_a_slot_of_ours_needs_no_other() -> None:
    """A server all of whose slots and senders are taken is fine where one of each is taken by our connector."""
    ours: dict[str, Any] = {"has_slot": True, "is_read": True, "slot_plugin": "pgoutput", "slot_database": "shop"}

    assert verdict(catalog(slots_used=10, senders_used=10, **ours)).accepted == [ORDERS]


CODE = Unique(index="orders_code_key", columns=["code"], is_primary=False)
BOTH = Unique(index="orders_both_key", columns=["id", "code"], is_primary=False)

UNIQUE_CODE = 'alter table "public"."orders" alter column "code" set not null, add unique ("code");'


@pytest.mark.parametrize(
    ("key", "uniques", "part", "statement"),
    [
        (("id",), [KEY], identified_by("id"), None),
        (("id",), [KEY], identified_by(is_full=True), None),
        (("id",), [KEY, BOTH], identified_by("id", "code"), None),
        (("code",), [KEY, CODE], identified_by("code"), None),
        (("code",), [KEY, CODE], identified_by(is_full=True), None),
        (("code", "id"), [KEY], identified_by(is_full=True), None),
        (("id",), [KEY], identified_by(), "alter table public.orders replica identity default;"),
        (("id",), [KEY, CODE], identified_by("code"), "alter table public.orders replica identity default;"),
        (("code",), [KEY, CODE], identified_by("id"), 'alter table public.orders replica identity using index "orders_code_key";'),
        (("code", "id"), [KEY, CODE], identified_by("id"), "alter table public.orders replica identity full;"),
        (("code", "id"), [KEY, BOTH], identified_by("id"), 'alter table public.orders replica identity using index "orders_both_key";'),
        (("code",), [], identified_by(is_full=True), 'alter table "public"."orders" add primary key ("code");'),
        (("code",), [KEY], identified_by(is_full=True), UNIQUE_CODE),
        (("code",), [KEY, BOTH], identified_by("id", "code"), UNIQUE_CODE),
    ],
)  # fmt: skip
def test_the_key_of_the_contract_must_be_unique_and_shown_by_the_replica_identity(
    key: Sequence[str], uniques: Sequence[Unique], part: Part, statement: str | None
) -> None:
    """Every other combination is refused with the statement that makes it right."""
    found = said(replace(FACTS, uniques=uniques, parts=[part]), contract(*key))

    assert len(found) == (statement is not None)
    assert all(f"`{statement}`" in sentence for sentence in found)


def test_without_a_contract_a_table_needs_an_identity_at_all() -> None:
    """Else the database would refuse updates of it once it is published."""
    bare = judged(catalog(replace(FACTS, uniques=[], parts=[identified_by()])), {}, {})

    assert "would refuse updates" in str(bare.of_tables[ORDERS][0])
    assert judged(catalog(), {}, {}).accepted == [ORDERS]


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (replace(PART, name="public.eu", kind="f"), "has the partition public.eu, which is a foreign table"),
        (replace(PART, name="public.eu", persistence="u"), "has the partition public.eu, which is unlogged"),
        (replace(PART, name="public.eu", identity=[]), "has a replica identity in the partition public.eu that shows nothing"),
    ],
)
def test_one_partition_that_cannot_be_followed_is_an_obstacle_of_the_whole(part: Part, problem: str) -> None:
    """It is named."""
    (sentence,) = said(replace(FACTS, kind="p", parts=[PART, part]))

    assert problem in sentence


def test_a_temporary_table_is_refused() -> None:
    """It is gone with the session that made it."""
    (sentence,) = said(replace(FACTS, parts=[replace(PART, persistence="t")]))

    assert "is temporary" in sentence


def test_generated_columns_are_refused_where_the_server_does_not_publish_them() -> None:
    """With the statement that turns one into a column of its own; an undeclared one, and one of Postgres 18, is none of this."""
    facts = replace(FACTS, generated={"size": "s"})
    (sentence,) = said(facts, version=170_002)

    assert "'size', which Postgres 17 does not publish" in sentence
    assert '`alter table "public"."orders" alter column "size" drop expression;`' in sentence
    assert said(facts) == []
    assert said(replace(FACTS, generated={"other": "s"}), version=170_002) == []


def test_a_table_of_another_owner_is_refused_unless_it_is_published_and_can_be_read() -> None:
    """The statement that mends it names both roles."""
    facts = replace(FACTS, is_owned=False, owner="app")
    (foreign,), (unreadable,) = said(facts), said(replace(facts, is_published=True, has_select=False), publication=RIGHT)

    assert '`grant "app" to "shop";`' in foreign
    assert '`grant select on "public"."orders" to "reader";`' in unreadable
    assert said(replace(facts, is_published=True), publication=RIGHT) == []


@pytest.mark.parametrize(
    ("facts", "publication", "lack"),
    [
        ({"is_published": False}, {}, "does not list it"),
        ({"has_filter": True}, {}, "has a row filter for it"),
        ({"has_column_list": True}, {}, "has a column list for it"),
        ({}, {"has_all_operations": False}, "lacks operations"),
        ({"kind": "p"}, {"is_via_root": False}, "publishes its partitions instead of it"),
        ({"generated": {"size": "s"}}, {"has_generated": False}, "lacks generated columns"),
    ],
)
def test_a_publication_that_loses_changes_is_mended_or_refused_where_somebody_else_owns_it(
    facts: Mapping[str, Any], publication: Mapping[str, Any], lack: str
) -> None:
    """In both cases the table is not captured yet, so that a new snapshot follows."""
    table, lacking = replace(FACTS, **{"is_published": True, **facts}), replace(RIGHT, **publication)
    ours = catalog(table, lacking)
    theirs = verdict(catalog(table, replace(lacking, is_owned=False, owner="dba")))

    assert (verdict(ours).captured, verdict(ours).accepted) == (frozenset(), [ORDERS])
    assert publishing(ours, verdict(ours)) != []
    assert lack in str(theirs.of_tables[ORDERS][0])
    assert '`alter publication "pipeline_shop" owner to "shop";`' in str(theirs.of_tables[ORDERS][0])


def test_what_is_right_is_left_alone() -> None:
    """A published table is captured, and there is nothing to run; nor where its columns do not fit any more."""
    found = catalog(replace(FACTS, is_published=True), RIGHT)
    drifted = judged(found, {ORDERS: contract("id")}, {ORDERS: {"size": "has no column"}})

    assert verdict(found).captured == {ORDERS}
    assert publishing(found, verdict(found)) == []
    assert drifted.accepted == [ORDERS]


def test_what_is_listed_and_not_accepted_is_taken_out() -> None:
    """A table that lost its key, and one that is declared no more."""
    listed = replace(RIGHT, listed=frozenset({("public", "orders"), ("public", "gone")}))
    found = catalog(replace(FACTS, is_published=True, uniques=[], parts=[identified_by()]), listed)
    statements = [one.as_string() for one in publishing(found, verdict(found))]

    assert statements == [f'alter publication "pipeline_shop" drop table "public"."{table}"' for table in ("gone", "orders")]


def test_tables_that_would_land_in_one_place_are_refused_but_for_the_first() -> None:
    """Case keeps two apart; signs do not."""
    tables = [ORDERS, *(PostgresTable(database="shop", table=table, schema=schema) for schema, table in (
        ("public", "Orders"), ("sales", "eu_orders"), ("sales_eu", "orders"),
    ))]  # fmt: skip
    found = verdict(catalog(dict.fromkeys(tables, FACTS)))

    assert found.accepted == tables[:3]
    assert 'lands where "sales"."eu_orders" does' in str(found.of_tables[tables[3]][0])
