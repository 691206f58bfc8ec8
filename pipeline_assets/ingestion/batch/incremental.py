"""What was written to a Postgres table since it was last read: which rows, so that none is left out, however late it was committed.

By the number of the writing transaction. A reading sees a snapshot of the database, and every transaction below the snapshot's `xmin` had
ended when it was taken. A version of a row that the reading did not see was therefore written by a transaction of at least that number,
so the next reading takes all rows from it on: none is left out, and the few that were seen before are the same versions and change
nothing. Rows bear the lower 32 bits of the number; the rest follows from the present one, as long as fewer than 2^31 lie between.

By a cursor. The next reading takes all rows whose column is at least the database's time of this one (of whole numbers: the greatest seen)
less the declared lateness, and those without a value.

The whole table is read where nothing was, where the database or the table is another one than last time (a restore, a table made anew),
where the declaration is another one, and after a replay of quarantined rows. Then, and where it is asked for, all keys are known, and what
is gone has ended.
"""

from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipeline_assets.core.digests import digest_of
from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.postgres import TableReader, TableSnapshot, open_table, table_of
from pipeline_assets.ingestion.staging.increment import Touched, key_hashes, stage_increment, staged_before
from pipeline_assets.ingestion.staging.partitions import Manifest
from pipeline_assets.ingestion.staging.stage import Staged
from pipeline_assets.spec.sources import PostgresTable, Source

if TYPE_CHECKING:
    from psycopg import sql

# Beyond so many transactions the number of a row is not known from its lower 32 bits.
MOST_TRANSACTIONS, LOWER_BITS = 2**31, 2**32
# Kinds of relations whose rows bear the number of their transaction: tables, partitioned ones, materialized views.
WITH_TRANSACTION = ("r", "p", "m")
# The database is another one after a restore or a failover, which begin a new timeline; a table is with another leaf or child.
NOW = """
    with recursive family (oid) as (
        select {table}::regclass::oid union select inhrelid from pg_inherits join family on inhparent = family.oid
    )
    select
        concat_ws('/',
            (select system_identifier from pg_control_system()), (select timeline_id from pg_control_checkpoint()), current_database(),
            (select md5(string_agg(oid::text, ',' order by oid)) from family)
        ) as place,
        (select relkind::text from pg_class where oid = {table}::regclass) as kind,
        pg_snapshot_xmin(pg_current_snapshot())::text::bigint as ended,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next,
        {reached} as reached
"""


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """How far a table was read: which table of which database, by which declaration, and up to what.

    Below the transaction `ended` all had ended, and `next` had not begun. `reached` is how far the cursor was, as Postgres writes it; None
    where there is none, or no row.
    """

    place: str
    rules: str
    ended: int
    next: int
    reached: str | None

    def precedes(self, now: "Horizon") -> bool:
        """Whether a reading may begin at this horizon that sees the table as it is now."""
        return (self.place, self.rules) == (now.place, now.rules) and 0 <= now.next - self.ended < MOST_TRANSACTIONS


def stage_written(settings: Settings, source: Source, *, run_id: str, find_deletes: bool = False, from_the_start: bool = False) -> Staged:
    """Stages what was written to a table since it was last read, beside what was staged of it; with `find_deletes` also what is gone.

    Raises as `open_table` and `stage_increment` do, and SourceRefused for a view or foreign table without a cursor; what was staged is
    then as it was, and the next reading begins where this one did.
    """
    contract = source.contract
    with open_table(settings, contract, _table(source)) as table, table.reader() as reader:
        now = _now(table, reader, source)
        with staged_before(settings, contract, run_id=run_id, from_the_start=from_the_start) as before:
            since = None if from_the_start or before.manifest is None else _since(before.manifest, now)
            keys = _all_keys(reader) if find_deletes or since is None else None
            touched = Touched(contract=contract, is_whole=since is None, all_keys=keys)
            parts = reader.where(_written(source, since, now), before.next_position)
            return stage_increment(before, parts, touched, asdict(now))


def _table(source: Source) -> PostgresTable:
    if not isinstance(source.origin, PostgresTable):
        raise SourceRefused(source.contract.name, "only a Postgres table is read by what was written to it")
    return source.origin


def _now(table: TableSnapshot, reader: TableReader, source: Source) -> Horizon:
    """The horizon of a reading of the table as it is in its snapshot."""
    from psycopg import sql

    name = sql.Literal(table_of(table.origin).as_string())
    facts = reader.one(sql.SQL(NOW).format(table=name, reached=_reached(table, source)).as_string())
    if source.cursor is None and facts["kind"] not in WITH_TRANSACTION:
        raise SourceRefused(source.contract.name, f"{table.origin.table} is no table, so its rows bear no xmin; declare a cursor")
    rules = digest_of((source.contract, source.cursor))
    return Horizon(place=facts["place"], rules=rules, ended=facts["ended"], next=facts["next"], reached=facts["reached"])


def _reached(table: TableSnapshot, source: Source) -> "sql.Composable":
    """How far the cursor is: times up to that of the snapshot, as a time in the future says nothing; whole numbers up to the greatest."""
    from psycopg import sql

    if source.cursor is None:
        return sql.SQL("null::text")
    if isinstance(source.cursor.lateness, timedelta):
        return sql.SQL("{}::text").format(sql.Literal(table.opened_at.isoformat()))
    return sql.SQL("(select max({})::text from {})").format(sql.Identifier(source.cursor.column), table_of(table.origin))


def _since(manifest: Manifest, now: Horizon) -> Horizon | None:
    """The horizon that what is staged was read up to; None where the table has to be read from the start."""
    if manifest.made_from.keys() != {one.name for one in fields(Horizon)}:
        return None
    before = Horizon(**manifest.made_from)
    return before if before.precedes(now) else None


def _written(source: Source, since: Horizon | None, now: Horizon) -> "sql.Composable":
    """The condition for the rows that were written since a horizon (None: all)."""
    from psycopg import sql

    if since is None or (source.cursor is not None and since.reached is None):
        return sql.SQL("true")
    if source.cursor is None:
        # How many transactions ago a row was written: the difference of the lower 32 bits, which may have begun anew since.
        ago = sql.SQL("(({next} - xmin::text::bigint) % {bits} + {bits}) % {bits}").format(next=now.next, bits=LOWER_BITS)
        return sql.SQL("{} <= {}").format(ago, now.next - since.ended)
    column, lateness = sql.Identifier(source.cursor.column), source.cursor.lateness
    if isinstance(lateness, timedelta):
        first = sql.SQL("{}::timestamptz").format((datetime.fromisoformat(str(since.reached)) - lateness).isoformat())
    else:
        first = sql.SQL("{}").format(int(str(since.reached)) - lateness)
    return sql.SQL("({0} >= {1} or {0} is null)").format(column, first)


def _all_keys(reader: TableReader) -> np.ndarray:
    """The sorted hashes of all keys of the table."""
    parts = [key_hashes(pl.DataFrame(keys)) for keys in reader.all_keys()]
    return np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))
