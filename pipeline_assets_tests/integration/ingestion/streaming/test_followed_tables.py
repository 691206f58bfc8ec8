"""Tables of many kinds followed through Debezium to the lake, beside some that are refused: the lake has what each table has."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from threading import Event
from urllib.parse import urlsplit

from psycopg.sql import SQL

from pipeline_assets.core import names
from pipeline_assets.core.errors import NotFollowed, TransientError
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.audit.audit import verify
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import apply, connectors_of, examined, is_applied
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.streams import change_log, followed, record_streams
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import PostgresTable, Source
from pipeline_assets_tests.stream_pipelines import Pipeline, tables_on

AT = "updated_at timestamptz not null default clock_timestamp()"
DDL = f"""
    create table meters (id bigint, region text, note text, {AT}, primary key (id, region)) partition by list (region);
    create table meters_eu partition of meters for values in ('eu');
    create table meters_us partition of meters for values in ('us');
    insert into meters values (1, 'eu', 'a'), (2, 'us', 'b'), (3, 'us', 'c');
    create table invoices (id bigint primary key, note text, pieces bigint not null,
        total bigint generated always as (pieces * 3) stored, {AT});
    insert into invoices (id, note, pieces) values (1, 'a', 2), (2, 'b', 3);
    create table members (number bigint primary key, id bigint not null unique, note text, {AT});
    alter table members replica identity full;
    insert into members values (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c');
    create table vouchers (number bigint generated always as identity primary key, id bigint not null unique, note text, {AT});
    alter table vouchers replica identity using index vouchers_id_key;
    insert into vouchers (id, note) values (1, 'a'), (2, 'b'), (3, 'c');
    create table "Orders" (id bigint primary key, note text, {AT});
    insert into "Orders" values (1, 'upper');
    create table orders (id bigint primary key, note text, {AT});
    insert into orders values (100, 'lower');
    create table "order$items" (id bigint primary key, note text, {AT});
    insert into "order$items" values (1, 'a');
    create schema "sales, eu";
    grant usage on schema "sales, eu" to public;
    create table "sales, eu"."Größe: a;b.c" (number bigint primary key, id bigint not null unique, note text, {AT});
    alter table "sales, eu"."Größe: a;b.c" replica identity full;
    insert into "sales, eu"."Größe: a;b.c" values (1, 1, 'a');
    create table keyless (id bigint, note text, {AT});
    insert into keyless values (1, 'a');
    create schema closed;
    create table closed.letters (id bigint primary key, note text, {AT});
    insert into closed.letters values (1, 'a');
"""  # noqa: S608 - made of constants
CHANGES = """
    insert into meters values (4, 'eu', 'd');
    update meters set note = 'aa' where id = 1;
    update meters set region = 'eu' where id = 2;
    delete from meters where id = 3;
    update invoices set pieces = 10 where id = 1;
    insert into invoices (id, note, pieces) values (3, 'c', 4);
    update members set id = 11 where id = 1;
    delete from members where id = 2;
    update members set number = 33 where id = 3;
    update vouchers set id = 11 where id = 1;
    delete from vouchers where id = 2;
    update vouchers set note = 'cc' where id = 3;
    insert into "Orders" values (2, 'upper');
    insert into orders values (200, 'lower');
    update "order$items" set note = 'aa';
    update "sales, eu"."Größe: a;b.c" set id = 2;
    update keyless set note = 'aa';
    delete from keyless;
    insert into keyless values (2, 'b');
    update closed.letters set note = 'aa';
"""
TABLES = {
    "meters": "meters",
    "invoices": "invoices",
    "members": "members",
    "vouchers": "vouchers",
    "orders_upper": "Orders",
    "orders_lower": "orders",
    "order_items": "order$items",
    "sizes": "sales, eu/Größe: a;b.c",
    "keyless": "keyless",
    "letters": "closed/letters",
}
MORE = {
    "meters": Field(name="region", type="string", required=True, description="Where."),
    "invoices": Field(name="total", type="integer", description="What is to be paid."),
}


def sources_in(database: str) -> list[Source]:
    """All tables, followed by the key `id`, a partitioned one by that of its partitions as well."""
    contract = Contract(
        name="any",
        version="1.0.0",
        owner="owner@shop.example",
        description="A table.",
        fields=(
            Field(name="id", type="integer", required=True, description="Which."),
            Field(name="note", type="string", description="What."),
            Field(name="updated_at", type="timestamp", required=True, description="When."),
        ),
        primary_key=("id",),
        event_at="updated_at",
        known_at="updated_at",
        lateness=timedelta(0),
        freshness=timedelta(days=1),
        broken_share=0.0,
    )
    found = []
    for name, place in TABLES.items():
        schema, _, table = place.rpartition("/")
        fields = (*contract.fields, *([MORE[name]] if name in MORE else []))
        own = replace(contract, name=f"{name}_{database}", fields=fields, primary_key=("id", "region") if name == "meters" else ("id",))
        found.append(Source(contract=own, origin=PostgresTable(database=database, table=table, schema=schema or "public"), load="changes"))
    return found


def execute(pipeline: Pipeline, statements: str) -> None:
    """Runs statements as the owner, each as a transaction."""
    with pipeline.operations(autocommit=True) as connection:
        for statement in filter(str.strip, statements.split(";\n")):
            connection.execute(SQL(statement))


def applied(pipeline: Pipeline) -> list[str]:
    """Has the connectors run; what keeps tables from being followed, one sentence each."""
    found = [error for _, error in apply(pipeline.settings, connectors_of(pipeline.project)) if error is not None]
    assert all(isinstance(error, NotFollowed) for error in found), found
    return [sentence for error in found for sentence in str(error).splitlines()]


def differences(pipeline: Pipeline, *asked: names.AssetName) -> dict[names.AssetName, Sequence[str]]:
    """What the audit finds of topics and followed tables (of none named: of all), once their changes have come through."""
    streams = record_streams(pipeline.project)

    def proceed() -> None:
        Event().wait(0.3)
        for stream in streams:
            with suppress(TransientError):
                type_landed(pipeline.settings, stream, run_id="test", streams=streams, refetch=refetch_from(pipeline.settings))

    found = verify(pipeline.settings, pipeline.project, asked or None, meanwhile=proceed)
    return {one.asset: list(one.problems) for one in found if one.problems}


def reader_of(pipeline: Pipeline) -> str:
    """The role that reads changes."""
    return str(urlsplit(pipeline.settings.replication[pipeline.database].get_secret_value()).username)


def is_as_declared(pipeline: Pipeline) -> bool:
    """Whether the sensor would find nothing to apply."""
    with open_connect(pipeline.settings) as connect:
        return all(is_applied(pipeline.settings, connect, one, examined(pipeline.settings, one)) for one in connectors_of(pipeline.project))


def test_each_table_that_can_be_followed_is_and_one_that_cannot_stops_no_other(streams: Settings) -> None:
    """Partitions, generated columns, other keys and odd names come out as in the table; refused ones follow once their remedy was run."""
    with tables_on(streams, DDL, sources_in) as pipeline:
        refused = applied(pipeline)
        keyless, letters = (names.typed(change_log(source).contract.name) for source in followed(pipeline.project)[-2:])
        execute(pipeline, CHANGES)
        found = differences(pipeline)
        pipeline.tick()
        troubles = {asset: seen.trouble for asset, seen in pipeline.watch.seen.items() if seen.trouble is not None}

        assert found == {keyless: [refused[0]], letters: [refused[1]]}
        assert troubles == {keyless: refused[0], letters: refused[1]}
        assert "keyless" in refused[0]
        assert "letters" in refused[1]
        assert is_as_declared(pipeline)

        execute(pipeline, f"alter table keyless add primary key (id);\n grant usage on schema closed to {reader_of(pipeline)}")
        assert not is_as_declared(pipeline)
        assert applied(pipeline) == []
        execute(pipeline, "update keyless set note = 'bb';\n update closed.letters set note = 'bb'")
        assert differences(pipeline, keyless, letters) == {}

        execute(pipeline, "alter table keyless drop constraint keyless_pkey")
        (lost,) = applied(pipeline)
        execute(pipeline, "update keyless set note = 'cc'")
        assert '"public"."keyless"' in lost
