"""What the catalog of a source database says of its tables, its publication and its slots: facts, read in one transaction and not judged.

Read as the owner of the tables. Columns that only newer servers have are read by way of JSON, so that an older one has none of them
instead of refusing the query.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline_assets.core import names
from pipeline_assets.spec.sources import PostgresTable

if TYPE_CHECKING:
    import psycopg

# How `pg_class` writes the kinds of relations and how durable they are.
TABLE, PARTITIONED, VIEW, MATERIALIZED_VIEW, FOREIGN_TABLE = "r", "p", "v", "m", "f"
PERMANENT, TEMPORARY = "p", "t"
# How `pg_attribute` writes the kinds of generated columns, and `pg_publication` which of them it publishes.
STORED, VIRTUAL = "s", "v"

# While these queries run, names are written as SQL writes them: with their schema.
QUALIFIED_NAMES, USUAL_NAMES = "set local search_path to ''", "set local search_path to default"
SERVER = """
    select current_setting('server_version_num')::int as version, pg_is_in_recovery() as is_standby,
        current_setting('wal_level') as wal_level,
        current_setting('max_replication_slots')::int as slots_most, (select count(*) from pg_replication_slots) as slots_used,
        current_setting('max_wal_senders')::int as senders_most, (select count(*) from pg_stat_replication) as senders_used,
        s.slot_name is not null as has_slot, coalesce(s.active, false) as is_read, s.plugin as slot_plugin, s.database as slot_database,
        current_database()::text as database, current_user::text as publisher,
        has_database_privilege(current_database(), 'create') as may_create,
        r.oid is not null as is_reader_known, coalesce(has_database_privilege(r.oid, current_database(), 'connect'), false) as may_connect,
        coalesce(r.rolreplication or r.rolsuper or exists (
            -- How one provider gives the right to roles that are no superuser's to give it to.
            select from pg_roles as g where g.rolname = 'rds_replication' and pg_has_role(r.oid, g.oid, 'usage')
        ), false) as may_replicate
    from (values (%(reader)s)) as asked(reader)
    left join pg_roles as r on r.rolname = asked.reader
    left join pg_replication_slots as s on s.slot_name = %(replication)s
"""
PUBLICATION = """
    select pg_get_userbyid(p.pubowner)::text as owner, pg_has_role(p.pubowner, 'usage') as is_owned,
        p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate as has_all_operations,
        coalesce((to_jsonb(p) ->> 'pubviaroot')::boolean, false) as is_via_root,
        to_jsonb(p) ->> 'pubgencols' is not distinct from 's' as has_generated,
        (
            select jsonb_agg(jsonb_build_array(n.nspname, c.relname)) from pg_publication_rel as r
            join pg_class as c on c.oid = r.prrelid join pg_namespace as n on n.oid = c.relnamespace
            where r.prpubid = p.oid
        ) as listed
    from pg_publication as p where p.pubname = %(replication)s
"""
# Columns of an index by which a row can be told from all others.
KEY_COLUMNS = """
    array(
        select a.attname::text from unnest(i.indkey::int2[]) with ordinality as k(number, place)
        join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.number
        where k.place <= i.indnkeyatts order by k.place
    )
"""
TABLES = f"""
    select c.oid is not null as is_known, n.oid is not null as is_schema_known, c.relkind::text as kind,
        c.relpersistence::text as persistence, pg_get_userbyid(c.relowner)::text as owner,
        coalesce(pg_has_role(c.relowner, 'usage'), false) as is_owned,
        coalesce(has_schema_privilege(reader.oid, n.oid, 'usage'), false) as has_usage,
        coalesce(has_table_privilege(reader.oid, c.oid, 'select'), false) as has_select,
        array(
            select other.relname::text from pg_class as other
            where other.relnamespace = n.oid and other.relkind in ('r', 'p') and other.relname <> w.name
                and lower(other.relname) = lower(w.name)
            order by 1
        ) as twins,
        (
            select jsonb_agg(jsonb_build_array(above_n.nspname, above.relname)) from pg_partition_ancestors(c.oid) as a
            join pg_class as above on above.oid = a join pg_namespace as above_n on above_n.oid = above.relnamespace
            where a <> c.oid
        ) as ancestors,
        array(
            select i.inhrelid::regclass::text from pg_inherits as i where i.inhparent = c.oid and c.relkind <> 'p' order by 1
        ) as children,
        array(
            select role.rolname::text from pg_roles as role
            where role.rolname in (%(reader)s, %(batches)s) and c.relrowsecurity and not role.rolsuper and not role.rolbypassrls
                and (c.relforcerowsecurity or not pg_has_role(role.oid, c.relowner, 'usage'))
                and not (
                    select coalesce(bool_or(shows_all) filter (where p.polpermissive), false)
                        and coalesce(bool_and(shows_all) filter (where not p.polpermissive), true)
                    from pg_policy as p, lateral (select pg_get_expr(p.polqual, p.polrelid) is not distinct from 'true') as q(shows_all)
                    where p.polrelid = c.oid and p.polcmd in ('*', 'r') and exists (
                        select from unnest(p.polroles) as given(oid)
                        where case when given.oid = 0 then true else pg_has_role(role.oid, given.oid, 'usage') end
                    )
                )
            order by 1
        ) as hidden_from,
        (
            select jsonb_object_agg(a.attname, a.attgenerated) from pg_attribute as a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated <> ''
        ) as generated,
        (
            select jsonb_agg(
                jsonb_build_object('index', x.relname, 'columns', {KEY_COLUMNS}, 'is_primary', i.indisprimary)
                order by not i.indisprimary, x.relname
            )
            from pg_index as i join pg_class as x on x.oid = i.indexrelid
            where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
                and not exists (
                    select from pg_attribute as a
                    where a.attrelid = i.indrelid and a.attnum = any(i.indkey::int2[]) and not a.attnotnull
                )
        ) as uniques,
        (
            select jsonb_agg(
                jsonb_build_object(
                    'name', s.oid::regclass::text, 'kind', s.relkind, 'persistence', s.relpersistence,
                    'is_full', s.relreplident = 'f', 'identity', coalesce(i.columns, '{{}}'::text[])
                )
                order by s.oid::regclass::text
            )
            from pg_class as s
            left join lateral (
                select {KEY_COLUMNS} as columns from pg_index as i
                where i.indrelid = s.oid and i.indisvalid and i.indimmediate
                    and ((s.relreplident = 'i' and i.indisreplident) or (s.relreplident = 'd' and i.indisprimary))
            ) as i on true
            where s.oid = c.oid and c.relkind <> 'p'
                or c.relkind = 'p' and s.oid in (select t.relid from pg_partition_tree(c.oid) as t where t.isleaf)
        ) as parts,
        exists (
            select from pg_publication_tables as t
            where t.pubname = %(replication)s and t.schemaname = w.schema_name and t.tablename = w.name
        ) or r.oid is not null as is_published,
        to_jsonb(r) ->> 'prqual' is not null as has_filter,
        to_jsonb(r) ->> 'prattrs' is not null as has_column_list
    from unnest(%(schemas)s::text[], %(tables)s::text[]) with ordinality as w(schema_name, name, number)
    left join pg_roles as reader on reader.rolname = %(reader)s
    left join pg_namespace as n on n.nspname = w.schema_name
    left join pg_class as c
        on c.relnamespace = n.oid and c.relname = w.name and c.relkind in ('r', 'p', 'v', 'm', 'f')
    left join pg_publication as p on p.pubname = %(replication)s
    left join pg_publication_rel as r on r.prpubid = p.oid and r.prrelid = c.oid
    order by w.number
"""  # noqa: S608 - made of constants


@dataclass(frozen=True, kw_only=True)
class Server:
    """The server as one that changes are read from: its settings, what is taken of them, our slot, and the two roles.

    `publisher` is the role that owns tables and publication, `reader` the one that reads changes.
    """

    version: int
    is_standby: bool
    wal_level: str
    slots_most: int
    slots_used: int
    senders_most: int
    senders_used: int
    has_slot: bool
    is_read: bool
    slot_plugin: str | None
    slot_database: str | None
    database: str
    publisher: str
    may_create: bool
    is_reader_known: bool
    may_connect: bool
    may_replicate: bool


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Our publication: `listed` are the tables that it names one by one, with their schemas."""

    owner: str
    is_owned: bool
    has_all_operations: bool
    is_via_root: bool
    has_generated: bool
    listed: frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Unique:
    """A unique index without null values, conditions or expressions, which is checked at once."""

    index: str
    columns: Sequence[str]
    is_primary: bool


@dataclass(frozen=True, kw_only=True)
class Part:
    """A table that holds rows, as SQL writes its name: a table itself, or a leaf of a partitioned one.

    A row that is updated or deleted shows its values of the columns of `identity` from before, or all of them (`is_full`); it cannot be
    updated or deleted at all where there are none and the table is published.
    """

    name: str
    kind: str
    persistence: str
    is_full: bool
    identity: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """A declared table. Where `is_known` is false there is none, and of the rest only `is_schema_known` says anything.

    `twins` are tables of the same schema whose names differ in case alone, `ancestors` what it is a partition of, `children` what inherits
    from it, `parts` what holds its rows, `hidden_from` the roles that row-level security hides rows from, `generated` the generated columns
    with their kind. `is_owned`: the publisher has the rights of its owner.
    """

    is_known: bool
    is_schema_known: bool
    kind: str | None = None
    persistence: str | None = None
    owner: str | None = None
    is_owned: bool = False
    has_usage: bool = False
    has_select: bool = False
    twins: Sequence[str] = ()
    ancestors: frozenset[tuple[str, str]] = frozenset()
    children: Sequence[str] = ()
    hidden_from: Sequence[str] = ()
    generated: Mapping[str, str] = field(default_factory=dict)
    uniques: Sequence[Unique] = ()
    parts: Sequence[Part] = ()
    is_published: bool = False
    has_filter: bool = False
    has_column_list: bool = False


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The facts of a database as of one instant; `publication` is None where there is none."""

    database: str
    reader: str
    server: Server
    publication: Publication | None
    tables: Mapping[PostgresTable, TableFacts]


def read_catalog(connection: "psycopg.Connection", database: str, reader: str, batches: str, tables: Sequence[PostgresTable]) -> Catalog:
    """The facts of a database and of some of its tables; `reader` and `batches` are the roles that read changes, and tables for the audit.

    Nothing is changed.
    """
    from psycopg.rows import dict_row

    asked = {
        "reader": reader,
        "batches": batches,
        "replication": names.replication(database),
        "schemas": [table.schema for table in tables],
        "tables": [table.table for table in tables],
    }
    connection.execute(QUALIFIED_NAMES)
    with connection.cursor(row_factory=dict_row) as cursor:
        (server,) = cursor.execute(SERVER, asked).fetchall()
        publication = cursor.execute(PUBLICATION, asked).fetchone()
        rows = cursor.execute(TABLES, asked).fetchall()
    connection.execute(USUAL_NAMES)
    return Catalog(
        database=database,
        reader=reader,
        server=Server(**server),
        publication=None if publication is None else Publication(**{**publication, "listed": _pairs(publication["listed"])}),
        tables={table: _facts(row) for table, row in zip(tables, rows, strict=True)},
    )


def _facts(row: Mapping[str, Any]) -> TableFacts:
    lists = {
        "uniques": [Unique(**one) for one in row["uniques"] or ()],
        "parts": [Part(**one) for one in row["parts"] or ()],
        "generated": row["generated"] or {},
        "ancestors": _pairs(row["ancestors"]),
    }
    return TableFacts(**{**row, **lists})


def _pairs(found: Sequence[Sequence[str]] | None) -> frozenset[tuple[str, str]]:
    return frozenset((schema, table) for schema, table in found or ())
