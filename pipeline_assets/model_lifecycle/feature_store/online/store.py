"""The online store in Postgres: its tables, and which version of each feed is read.

In the schema `online`: `feeds` has a row for each version of a feed, `offsets` how far its topic has been taken, `workers` and `progress`
what workers report of it, `served` vectors that were served, `parity` what came of holding them against the lake, `forgotten` the hashes of
keys whose records are not taken (`ingestion/sources/forgotten`), `changed` the keys whose states were written in the last
minutes (`kept_values`), `pruned` which of these were removed. Version 7 of a feed has
`state_7` (per view and entity key the packed state, the finished values and the time for which they hold), `rows_7` (the rows of the
cleaned table that a question can still reach) and, of a stream, `raw_7` (the rows of the contract that they are derived from).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg import sql

from pipeline_assets.core.online_errors import NotOnline
from pipeline_assets.core.versions import versioned
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.processing.cleaning.raw_schema import LOADED_AT, SQL_TYPES, sql_type

if TYPE_CHECKING:
    import psycopg

SCHEMA = "online"
BUILDING, LIVE = "building", "live"
NOTED = "noted_"
CONTROL = """
    create schema if not exists online;
    create table if not exists online.feeds (
        id integer generated always as identity primary key,
        name text not null,
        hash text not null,
        status text not null check (status in ('building', 'live')),
        made_at timestamptz not null default now(),
        watermark bigint,
        snapshot_id bigint,
        is_between boolean not null default false,
        change bigint not null default 0,
        unique (name, hash)
    );
    alter table online.feeds add column if not exists is_between boolean not null default false;
    alter table online.feeds add column if not exists change bigint not null default 0;
    create table if not exists online.offsets (
        feed integer not null references online.feeds on delete cascade,
        topic text not null,
        partition integer not null,
        next_offset bigint not null,
        primary key (feed, topic, partition)
    );
    create table if not exists online.workers (worker text primary key, seen_at timestamptz not null);
    create table if not exists online.progress (
        feed integer not null references online.feeds on delete cascade,
        worker text not null references online.workers on delete cascade,
        seen_at timestamptz not null,
        progressed_at timestamptz not null,
        caught_up_at timestamptz,
        lag bigint not null,
        taken bigint not null,
        left_out bigint not null,
        per_second double precision not null,
        bytes bigint not null,
        problem text,
        primary key (feed, worker)
    );
    create table if not exists online.served (
        id bigint generated always as identity primary key,
        model text not null,
        definition text not null,
        served_at timestamptz not null default now(),
        positions jsonb not null,
        asked text not null,
        features text not null
    );
    create index if not exists served_of_model on online.served (model, id);
    create table if not exists online.parity (
        id bigint generated always as identity primary key,
        model text not null,
        definition text not null,
        checked_at timestamptz not null default now(),
        checked integer not null,
        pending integer not null,
        unclear jsonb not null,
        differing jsonb not null
    );
"""
# Each by itself, as ADBC takes one statement at a time; also made where a store is older than they are.
CHANGED = (
    """create table if not exists online.changed (
        feed integer not null references online.feeds on delete cascade,
        view smallint not null,
        keys text[] not null,
        at xid8 not null default pg_current_xact_id()
    )""",
    "create index if not exists changed_at on online.changed (at)",
    """create table if not exists online.pruned (
        feed integer primary key references online.feeds on delete cascade,
        until pg_snapshot,
        seen pg_snapshot not null,
        seen_at timestamptz not null,
        emptied integer not null default 0
    )""",
    """create or replace function online.note_changed() returns trigger language plpgsql as $$ begin
        insert into online.changed (feed, view, keys) select tg_argv[0]::integer, view, array_agg(key) from changed_states group by view;
        return null;
    end $$""",
)
# Notes are removed once all who read them within a minute have: those that could be seen a minute ago, by a snapshot of then, as a
# transaction may end long after it wrote.
PRUNE = """
    with due as (
        insert into online.pruned (feed, seen, seen_at) values ({id}, pg_current_snapshot(), clock_timestamp())
        on conflict (feed) do update set until = pruned.seen, seen = excluded.seen, seen_at = excluded.seen_at
            where excluded.seen_at not between pruned.seen_at and pruned.seen_at + interval '1 minute'
        returning until
    )
    delete from online.changed using due where changed.feed = {id} and pg_visible_in_snapshot(changed.at, due.until)
"""
# Removes all notes of a feed at once, in the transaction that wrote what nobody may read in them; readers forget all that they keep of it.
EMPTY = (
    """insert into online.pruned (feed, seen, seen_at, emptied) values ({id}, pg_current_snapshot(), clock_timestamp(), 1)
        on conflict (feed) do update set emptied = pruned.emptied + 1""",
    "delete from online.changed where feed = {id}",
)
# How far a feed has followed its source, as `position_of` takes it.
POSITION = """jsonb_build_array(watermark, snapshot_id, is_between,
    (select jsonb_object_agg(partition, next_offset) from online.offsets where feed = feeds.id))"""
TYPES: dict[str, str] = {str(kind): shown for kind, shown in SQL_TYPES.items()} | {"date": "date"}
# Also made where a store is older than it.
FORGOTTEN = """
    create table if not exists online.forgotten (
        contract text not null,
        columns text not null,
        digest text not null,
        salt bytea not null,
        primary key (contract, columns, digest)
    );
"""
ABANDONED = """
    select id, hash from online.feeds where name = %s and hash <> %s and made_at < now() - interval '1 day'
        and not exists (select from online.progress where feed = feeds.id and seen_at > now() - interval '1 day')
"""
FIND = "select id, status, watermark, snapshot_id, made_at, change from online.feeds where name = %s and hash = %s"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A version of a feed in the store: its number, whether it is read, the newest `known_at` that came (µs), the lake's snapshot.

    made_at: since when it is read; while it is built, since when that is done. change: the number of the last change.
    """

    id: int
    feed: Feed
    is_live: bool
    watermark: int | None
    snapshot_id: int | None
    made_at: datetime
    change: int = 0

    @property
    def state(self) -> sql.Identifier:
        """The table of states."""
        return sql.Identifier(SCHEMA, f"state_{self.id}")

    @property
    def rows(self) -> sql.Identifier:
        """The table of cleaned rows."""
        return sql.Identifier(SCHEMA, f"rows_{self.id}")

    @property
    def raw(self) -> sql.Identifier:
        """The table of raw rows."""
        return sql.Identifier(SCHEMA, f"raw_{self.id}")


def create(connection: "psycopg.Connection") -> None:
    """Makes the tables that all feeds share, where they are missing."""
    connection.execute("select pg_advisory_xact_lock(hashtext('online'))")
    connection.execute(CONTROL)
    connection.execute(FORGOTTEN)
    if connection.execute("select to_regclass('online.pruned') is null").fetchone() == (True,):
        for statement in CHANGED:
            connection.execute(statement)


def find(connection: "psycopg.Connection", feed: Feed) -> Kept | None:
    """This version of a feed, if the store has it."""
    if connection.execute("select to_regclass('online.feeds') is null").fetchone() == (True,):
        return None
    row = connection.execute(FIND, (feed.name, feed.hash)).fetchone()
    if row is None:
        return None
    return Kept(id=row[0], feed=feed, is_live=row[1] == LIVE, watermark=row[2], snapshot_id=row[3], made_at=row[4], change=row[5])


def live(connection: "psycopg.Connection", feed: Feed) -> Kept:
    """This version of a feed, ready to be read; raises NotOnline where it is not there or still being built."""
    kept = find(connection, feed)
    if kept is None or not kept.is_live:
        raise NotOnline(feed.table.name, [view.name for view in feed.views], is_building=kept is not None)
    return kept


def begin(connection: "psycopg.Connection", feed: Feed) -> Kept:
    """A new version of a feed with nothing in it, in the place of one that was not built to its end."""
    create(connection)
    known = find(connection, feed)
    if known is not None:
        drop(connection, known)
    row = connection.execute(
        "insert into online.feeds (name, hash, status) values (%s, %s, 'building') returning id, made_at", (feed.name, feed.hash)
    ).fetchone()
    number, made_at = row or (0, datetime.now(UTC))
    made = Kept(id=number, feed=feed, is_live=False, watermark=None, snapshot_id=None, made_at=made_at)
    for statement in _tables(made):
        connection.execute(statement)
    return made


def drop(connection: "psycopg.Connection", kept: Kept) -> None:
    """Removes a version of a feed with all that it keeps, and the temporary views that a worker's session has on it."""
    drop_version(connection, kept.id)


def drop_version(connection: "psycopg.Connection", number: int) -> None:
    """Removes a version of a feed by its number, whether it is declared or not."""
    for kind in ("state", "rows", "raw"):
        connection.execute(sql.SQL("drop table if exists {} cascade").format(sql.Identifier(SCHEMA, f"{kind}_{number}")))
    connection.execute("delete from online.feeds where id = %s", (number,))


def drop_abandoned(connection: "psycopg.Connection", feed: Feed) -> list[str]:
    """Removes the other versions of a feed that are a day old and of which no worker has reported for a day; their hashes."""
    found = connection.execute(ABANDONED, (feed.name, feed.hash)).fetchall()
    for number, _ in found:
        drop_version(connection, number)
    return [digest for _, digest in found]


def go_live(connection: "psycopg.Connection", kept: Kept) -> None:
    """Has a version of a feed read from now on, and notes written of each key whose state changes then (`kept_values`)."""
    for operation, side in (("insert", "new"), ("update", "new"), ("delete", "old")):
        trigger = sql.Identifier(f"{NOTED}{operation}")
        connection.execute(
            sql.SQL("create or replace trigger {} after {} on {} referencing {} table as changed_states execute function {}({})").format(
                trigger, sql.SQL(operation), kept.state, sql.SQL(side), sql.Identifier(SCHEMA, "note_changed"), sql.Literal(str(kept.id))
            )
        )
    connection.execute("update online.feeds set status = 'live', made_at = now() where id = %s", (kept.id,))


def offsets(connection: "psycopg.Connection", kept: Kept) -> dict[int, int]:
    """The next offset of each partition of a stream's topic that the states have not seen."""
    found = connection.execute("select partition, next_offset from online.offsets where feed = %s", (kept.id,))
    return {int(partition): int(offset) for partition, offset in found}


def column_type(feed: Feed, column: str) -> str:
    """The type of a column of cleaned rows in the store."""
    return TYPES.get(feed.kinds[column], "text")


def _tables(kept: Kept) -> Iterator[sql.Composed]:
    feed = kept.feed
    yield sql.SQL(
        "create table {} (view smallint, key text, state bytea not null, value bytea not null, since bigint not null,"
        " until bigint not null, primary key (view, key)) with (fillfactor = 70)"
    ).format(kept.state)
    # Packed numbers hardly get shorter, and would have to be unpacked at each change.
    yield sql.SQL("alter table {} alter column state set storage external, alter column value set storage external").format(kept.state)
    columns = [sql.SQL("{} " + column_type(feed, name)).format(sql.Identifier(name)) for name in feed.columns]
    yield sql.SQL("create table {} ({}, _row_key text not null)").format(kept.rows, sql.SQL(", ").join(columns))
    yield sql.SQL("create index on {} (_row_key)").format(kept.rows)
    for keys in dict.fromkeys(view.entity.keys for view in feed.views):
        yield sql.SQL("create index on {} ({})").format(kept.rows, sql.SQL(", ").join(map(sql.Identifier, keys)))
    yield sql.SQL("create index on {} ({})").format(kept.rows, sql.Identifier(feed.table.event_at))
    yield from _raw_table(kept)


def _raw_table(kept: Kept) -> Iterator[sql.Composed]:
    feed = kept.feed
    if feed.stream is None or feed.derivation is None:
        return
    contract = versioned(feed.stream.contract)
    columns = [sql.SQL("{} " + sql_type(field)).format(sql.Identifier(field.name)) for field in contract.fields]
    loaded = sql.SQL("{} timestamptz").format(sql.Identifier(LOADED_AT))
    yield sql.SQL("create table {} ({})").format(kept.raw, sql.SQL(", ").join([*columns, loaded]))
    key = sql.SQL(", ").join(map(sql.Identifier, contract.primary_key))
    yield sql.SQL("create index on {} ({})").format(kept.raw, key)
    yield sql.SQL("create index on {} ({})").format(kept.raw, sql.Identifier(contract.event_at))
