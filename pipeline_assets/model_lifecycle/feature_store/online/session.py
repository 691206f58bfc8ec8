# ruff: noqa: S608 - the names in these queries are quoted, or made here
"""A session of the online store: what changes of rows make of it, one transaction a change, in Arrow from end to end."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
from psycopg.sql import Literal

from pipeline_assets.core.connections import arrow_online
from pipeline_assets.core.settings import OnlineSettings
from pipeline_assets.ingestion.sources.arrow_types import ARROW_TYPES
from pipeline_assets.ingestion.sources.forgotten import NOTHING, Forgotten, Rule
from pipeline_assets.model_lifecycle.feature_store.online.copies import Copies, change_name, open_copies
from pipeline_assets.model_lifecycle.feature_store.online.rows import ROW_KEY
from pipeline_assets.model_lifecycle.feature_store.online.store import CHANGED, FORGOTTEN, POSITION, PRUNE, Kept, column_type
from pipeline_assets.processing.cleaning.dbt import SESSION
from pipeline_assets.processing.cleaning.derivations import quoted, statements

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection, Cursor

BEFORE, AFTER, GONE, COME = "online_before", "online_after", "online_gone", "online_come"
BATCH, TOUCHED, WANTED, WRITTEN, KEYS = "online_batch", "online_touched", "online_wanted", "online_written", "online_keys"
KIND_TYPES: dict[str, pa.DataType] = {str(kind): shown for kind, shown in ARROW_TYPES.items()} | {"date": pa.date32()}


class Session:
    """A connection that keeps one version of a feed; its temporary tables and views are made once, and emptied by each commit."""

    def __init__(self, connection: "Connection", kept: Kept, copies: Copies | None = None) -> None:
        self.connection, self.kept, self.copies = connection, kept, copies
        self._changes, self._written, self._is_anew = 0, list[tuple[int, pa.Table]](), False
        self.rows, self.state, self.raw = (one.as_string() for one in (kept.rows, kept.state, kept.raw))
        self._columns = ", ".join(quoted(name) for name in (*kept.feed.columns, ROW_KEY))
        with connection.cursor() as cursor:
            for statement in self._made_once():
                cursor.execute(statement)
        connection.commit()

    @contextmanager
    def transaction(self) -> Iterator["Cursor"]:
        """One change of the feed at a time, whole or not at all."""
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(f"select pg_advisory_xact_lock(hashtext('online'), {self.kept.id})")
                cursor.fetchall()
                self._changes, self._written, self._is_anew = 0, [], False
                yield cursor
                if self._changes and self.kept.is_live:
                    self._copy(cursor)
            self.connection.commit()
        except BaseException:
            self.connection.rollback()
            raise

    def copy_anew(self) -> None:
        """Has this transaction make the copy of the states anew: a change in which states went cannot be copied as those that it wrote."""
        self._is_anew = True

    def ensure_copy(self) -> None:
        """Makes the copy of the states anew where it is missing, or not at the change that they are at."""
        if self.copies is not None:
            with self.transaction() as cursor:
                self._copy(cursor)

    def derive(self, cursor: "Cursor", batch: pa.Table) -> None:
        """Puts rows of the contract among the raw ones, and what the rows of their keys were and have become into `before` and `after`."""
        derivation = self.kept.feed.derivation
        if derivation is None or derivation.key_of_raw is None:
            raise ValueError(f"Feed {self.kept.feed.name} has no raw rows.")
        keys = ", ".join(map(quoted, derivation.key_of_raw))
        self.fill(cursor, BATCH, batch)
        cursor.execute(f"insert into {TOUCHED} select distinct {keys} from {BATCH}")
        cursor.execute(f"insert into {BEFORE} {self._derived()}")
        names = ", ".join(map(quoted, batch.column_names))
        known = f"select {names} from {self.raw} as raw where {self._is_touched(derivation.key_of_raw)}"
        cursor.execute(f"insert into {self.raw} ({names}) (select {names} from {BATCH} except {known})")
        cursor.execute(f"insert into {AFTER} {self._derived()}")

    def derive_without(self, cursor: "Cursor", gone: str) -> None:
        """Takes raw rows out by a condition in SQL, and puts what the rows of their keys were and have become into `before` and `after`."""
        derivation = self.kept.feed.derivation
        if derivation is None or derivation.key_of_raw is None:
            raise ValueError(f"Feed {self.kept.feed.name} has no raw rows.")
        keys = ", ".join(map(quoted, derivation.key_of_raw))
        cursor.execute(f"insert into {TOUCHED} select distinct {keys} from {self.raw} where {gone}")
        cursor.execute(f"insert into {BEFORE} {self._derived()}")
        cursor.execute(f"delete from {self.raw} where {gone}")
        cursor.execute(f"insert into {AFTER} {self._derived()}")

    def stored(self, condition: str) -> str:
        """A query of the store's rows by a condition in SQL."""
        return f"select {self._columns} from {self.rows} where {condition}"

    def forgotten(self, cursor: "Cursor") -> Forgotten:
        """What is not taken of the feed's stream, as the transaction sees it."""
        own = f"contract = {Literal(self.kept.feed.contract.name).as_string()}"
        found = self.fetch(cursor, f"select columns, digest, salt from online.forgotten where {own}").to_pylist()
        by_columns: dict[str, set[str]] = {}
        for row in found:
            by_columns.setdefault(row["columns"], set()).add(row["digest"])
        rules = tuple(Rule(columns=tuple(json.loads(columns)), digests=frozenset(each)) for columns, each in sorted(by_columns.items()))
        return Forgotten(rules=rules, salt=found[0]["salt"]) if found else NOTHING

    def compare(self, cursor: "Cursor") -> tuple[pa.Table, pa.Table]:
        """The rows of `before` that are not in `after` and the other way round, each as often; the store's rows follow."""
        for name, ours, theirs in ((GONE, BEFORE, AFTER), (COME, AFTER, BEFORE)):
            cursor.execute(f"insert into {name} (select * from {ours} except all select * from {theirs})")
        numbered = "row_number() over (partition by _row_key)"
        cursor.execute(
            f"delete from {self.rows} where ctid in (select held.id from"
            f" (select ctid as id, _row_key, {numbered} as number from {self.rows}"
            f" where _row_key = any(array(select _row_key from {GONE}))) as held"
            f" join (select _row_key, count(*) as number from {GONE} group by 1) as gone"
            " on held._row_key = gone._row_key and held.number <= gone.number)"
        )
        cursor.execute(f"insert into {self.rows} ({self._columns}) select {self._columns} from {COME}")
        return self.fetch(cursor, f"select * from {GONE}"), self.fetch(cursor, f"select * from {COME}")

    def before_between(self, cursor: "Cursor", first_us: int, end_us: int) -> None:
        """Puts the store's rows that happened from one instant on and before another (µs) into `before`."""
        at = quoted(self.kept.feed.table.event_at)
        instants = [f"to_timestamp({us // 1_000_000}) + interval '{us % 1_000_000} microseconds'" for us in (first_us, end_us)]
        cursor.execute(f"insert into {BEFORE} select {self._columns} from {self.rows} where {at} >= {instants[0]} and {at} < {instants[1]}")

    def after(self, cursor: "Cursor", rows: pa.Table) -> None:
        """Puts rows of the cleaned table into `after`."""
        feed = self.kept.feed
        plain = pa.table({name: rows[name].cast(KIND_TYPES.get(feed.kinds[name], pa.string())) for name in feed.columns})
        self.fill(cursor, BATCH, plain)
        cursor.execute(f"insert into {AFTER} select *, md5(r::text) as _row_key from (select {self._cast()} from {BATCH}) as r")

    def states(self, cursor: "Cursor", slot: int, keys: Sequence[str]) -> list[bytes | None]:
        """The packed states of some keys of a view, in their order."""
        places = pa.array(range(len(keys)), pa.int32())
        self.fill(cursor, WANTED, pa.table({"view": pa.repeat(pa.scalar(slot, pa.int16()), len(keys)), "place": places, "key": keys}))
        found = self.fetch(
            cursor,
            f"select state from {WANTED} as wanted left join {self.state} as held on held.view = wanted.view and held.key = wanted.key"
            f" where wanted.view = {slot} order by place",
        )
        states: list[bytes | None] = found.column(0).to_pylist()
        return states

    def write_states(self, cursor: "Cursor", slot: int, written: pa.Table) -> None:
        """Puts states of a view in the place of what their keys had; `written` has view, key, state, value, since and until."""
        self.fill(cursor, WRITTEN, written)
        self._written.append((slot, written))
        cursor.execute(
            f"insert into {self.state} select view, key, state, value, since, until from {WRITTEN} where view = {slot}"
            " on conflict (view, key) do update set state = excluded.state, value = excluded.value, since = excluded.since,"
            " until = excluded.until"
        )

    def rows_of_keys(self, cursor: "Cursor", keys: pa.Table) -> pa.Table:
        """All rows of some entity keys (columns by their names, and `place`), with the place of each."""
        cursor.execute(f"delete from {KEYS}")
        self.fill(cursor, KEYS, keys)
        own = ", ".join(f"held.{quoted(name)}" for name in (*self.kept.feed.columns, ROW_KEY))
        same = " and ".join(f"held.{quoted(name)} = {KEYS}.{quoted(name)}" for name in keys.column_names if name != "place")
        return self.fetch(cursor, f"select place, {own} from {KEYS} join {self.rows} as held on {same}")

    def begin_commit(self, cursor: "Cursor") -> None:
        """Marks the states as being between two snapshots of their table, until `note` is given one."""
        self._changes += 1
        cursor.execute(f"update online.feeds set is_between = true, change = change + 1 where id = {self.kept.id}")

    def note(self, cursor: "Cursor", *, watermark: int, offsets: Mapping[int, int] | None = None, snapshot_id: int | None = None) -> None:
        """Writes down how far the feed has been followed."""
        feed = self.kept.feed
        snapshot = "" if snapshot_id is None else f", snapshot_id = {snapshot_id}, is_between = false"
        self._changes += 1
        cursor.execute(f"update online.feeds set change = change + 1, watermark = {watermark}{snapshot} where id = {self.kept.id}")
        for partition, offset in (offsets or {}).items():
            topic = "" if feed.stream is None else feed.stream.topic
            cursor.execute(
                "insert into online.offsets values ($1, $2, $3, $4) on conflict (feed, topic, partition)"
                " do update set next_offset = greatest(offsets.next_offset, excluded.next_offset)",
                (self.kept.id, topic, partition, offset),
            )
        cursor.execute(PRUNE.format(id=self.kept.id))

    def _copy(self, cursor: "Cursor") -> None:
        """Copies what this transaction has changed, or all where the copy is not at what was before; if it fails, nothing is committed."""
        if self.copies is None:
            return
        stored = self.fetch(cursor, f"select change, {POSITION}::text from online.feeds where id = {self.kept.id}").to_pylist()[0]
        number, position = stored.values()
        before, now = (change_name(self.kept.id, change) for change in (number - self._changes, number))
        feed = self.kept.feed
        if self._is_anew:
            is_there = False
        elif self._changes:
            is_there = self.copies.write(feed, (before, now), position, self._written)
        else:
            is_there = self.copies.change_of(feed) == now
        if not is_there:
            self.copies.replace(feed, now, position, self._all_states(cursor))

    def _all_states(self, cursor: "Cursor") -> Iterator[tuple[int, pa.Table]]:
        for slot in range(len(self.kept.feed.layouts)):
            cursor.execute(f"select key, state, value, since, until from {self.state} where view = {slot}")
            yield from ((slot, pa.Table.from_batches([batch])) for batch in cursor.fetch_record_batch())

    def watermark(self, cursor: "Cursor") -> int | None:
        """The newest time that something of the feed was known at (µs), as it stands now; None where nothing came."""
        found: list[int | None] = self.fetch(cursor, f"select watermark from online.feeds where id = {self.kept.id}").column(0).to_pylist()
        return found[0] if found else None

    def forget_before(self, cursor: "Cursor", us: int) -> None:
        """Removes the rows that happened before an instant."""
        until = f"to_timestamp({us // 1_000_000})"
        cursor.execute(f"delete from {self.rows} where {quoted(self.kept.feed.table.event_at)} < {until}")
        if self.kept.feed.stream is not None:
            cursor.execute(f"delete from {self.raw} where {quoted(self.kept.feed.stream.contract.event_at)} < {until}")

    def fill(self, cursor: "Cursor", name: str, table: pa.Table) -> None:
        """Adds rows to one of the temporary tables."""
        cursor.adbc_ingest(name, table, mode="append", temporary=True)

    def fetch(self, cursor: "Cursor", query: str) -> pa.Table:
        """The rows of a query."""
        cursor.execute(query)
        return cursor.fetch_arrow_table()

    def _made_once(self) -> Iterator[str]:
        """Settings, and what is made once and emptied by each commit, as making tables anew would fill the catalog of the database."""
        feed, derivation = self.kept.feed, self.kept.feed.derivation
        yield "select pg_advisory_xact_lock(hashtext('online'))"
        yield FORGOTTEN
        if self._lacks_notes():
            yield from CHANGED
        columns = ", ".join(f"{quoted(column)} {column_type(feed, column)}" for column in feed.columns)
        batch = f"({columns})"
        if derivation is not None and derivation.key_of_raw is not None:
            keys = ", ".join(map(quoted, derivation.key_of_raw))
            yield f"create temporary table {TOUCHED} on commit delete rows as select {keys} from {self.raw} limit 0"
            yield from statements(derivation, f"select * from {self.raw} as raw where {self._is_touched(derivation.key_of_raw)}")
            batch = f"(like {self.raw})"
        else:
            yield from (f"set {name} to '{value}'" for name, value in SESSION.items())
        entity_keys = dict.fromkeys(key for view in feed.views for key in view.entity.keys)
        of_keys = ", ".join(f"{quoted(key)} {column_type(feed, key)}" for key in entity_keys)
        made = {
            BATCH: batch,
            WANTED: "(view smallint, place integer, key text)",
            WRITTEN: "(view smallint, key text, state bytea, value bytea, since bigint, until bigint)",
            KEYS: f"(place integer, {of_keys})",
            **dict.fromkeys((BEFORE, AFTER, GONE, COME), f"({columns}, {ROW_KEY} text)"),
        }
        yield from (f"create temporary table {name} {shape} on commit delete rows" for name, shape in made.items())
        # Packed numbers hardly get shorter; trying to took more than all else of writing them.
        yield f"alter table {WRITTEN} alter column state set storage external, alter column value set storage external"

    def _lacks_notes(self) -> bool:
        """Whether the store is older than notes of what changed: to look for an index of a table waits for all who write to it."""
        with self.connection.cursor() as cursor:
            found: bool = self.fetch(cursor, "select to_regclass('online.pruned') is null as lacks").column(0)[0].as_py()
        return found

    def _derived(self) -> str:
        """The rows that the raw ones of the touched keys make, as the store has them."""
        name = quoted(self.kept.feed.table.name)
        return f"select *, md5(r::text) from (select {self._cast()} from pg_temp.{name}) as r"

    def _cast(self) -> str:
        return ", ".join(f"{quoted(name)}::{column_type(self.kept.feed, name)} as {quoted(name)}" for name in self.kept.feed.columns)

    def _is_touched(self, keys: Sequence[str]) -> str:
        """Whether a raw row is of a touched key; by an array, so that the index is taken."""
        each = " and ".join(f"raw.{quoted(key)} = any(array(select {quoted(key)} from {TOUCHED}))" for key in keys)
        if len(keys) == 1:
            return each
        names = ", ".join(map(quoted, keys))
        ours = ", ".join(f"raw.{quoted(key)}" for key in keys)
        return f"{each} and ({ours}) in (select {names} from {TOUCHED})"


@contextmanager
def open_session(settings: OnlineSettings, kept: Kept) -> Iterator[Session]:
    """A session that keeps a version of a feed, and its copy where the settings have a server for it."""
    with arrow_online(settings) as connection, open_copies(settings) as copies:
        yield Session(connection, kept, copies)
