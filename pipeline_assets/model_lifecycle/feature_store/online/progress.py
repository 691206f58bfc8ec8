"""How far workers are with each feed: written by them to a table of the online store every few seconds, so that any process can read it.

A worker writes of each feed that it keeps, also while it has nothing to do: what stands still is seen by the time that does not move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from psycopg.rows import class_row

from pipeline_assets.model_lifecycle.feature_store.online.store import Kept

if TYPE_CHECKING:
    import psycopg

# Longer than a killed worker's partitions take to come to another.
STALL = timedelta(minutes=2)
# For so long it is known of a worker that was killed.
REMEMBERED = timedelta(hours=1)
TODO = "See `pipeline logs online-worker`; where `pipeline status` shows it dead, `pipeline up` starts it again."
WRITE = """
    insert into online.progress values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    on conflict (feed, worker) do update set seen_at = excluded.seen_at, progressed_at = excluded.progressed_at,
        caught_up_at = excluded.caught_up_at, lag = excluded.lag, taken = excluded.taken, left_out = excluded.left_out,
        per_second = excluded.per_second, bytes = excluded.bytes, problem = excluded.problem
"""
READ = """
    select worker, seen_at, progressed_at, caught_up_at, lag, taken, left_out, per_second, bytes, problem
    from online.progress where feed = %s order by worker
"""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a worker wrote of a feed; times are aware, counts are those since it started.

    seen_at: when it wrote. progressed_at: when it last took something, or found that there was nothing to take. caught_up_at: all that had
    come by then is in the states; None where that was never so. lag: records, or commits of the lake, still to take. left_out: records
    that broke their contract. bytes: the tables of the feed, with indexes.
    """

    worker: str
    seen_at: datetime
    progressed_at: datetime
    caught_up_at: datetime | None
    lag: int
    taken: int
    left_out: int
    per_second: float
    bytes: int
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a feed stands by what its workers wrote: numbers to show, and what is wrong (None: nothing)."""

    workers: int
    lag: int
    per_second: float
    left_out: int
    progressed_at: datetime | None
    caught_up_at: datetime | None
    trouble: str | None


def appear(connection: "psycopg.Connection", worker: str, now: datetime) -> None:
    """Notes that a worker lives; what workers wrote that are gone for long is removed."""
    query = "insert into online.workers values (%s, %s) on conflict (worker) do update set seen_at = excluded.seen_at"
    connection.execute(query, (worker, now))
    connection.execute("delete from online.workers where seen_at < %s", (now - REMEMBERED,))


def write(connection: "psycopg.Connection", kept: Kept, done: Progress) -> None:
    """Puts what a worker has of a feed in the place of what it wrote before."""
    values = (done.worker, done.seen_at, done.progressed_at, done.caught_up_at, done.lag, done.taken, done.left_out)
    connection.execute(WRITE, (kept.id, *values, done.per_second, done.bytes, done.problem))


def leave(connection: "psycopg.Connection", worker: str) -> None:
    """Removes what a worker wrote, as it ends."""
    connection.execute("delete from online.workers where worker = %s", (worker,))


def read(connection: "psycopg.Connection", kept: Kept) -> list[Progress]:
    """What workers wrote of a feed, by worker."""
    if connection.execute("select to_regclass('online.progress') is null").fetchone() == (True,):
        return []
    with connection.cursor(row_factory=class_row(Progress)) as cursor:
        return cursor.execute(READ, (kept.id,)).fetchall()


def standing(kept: Kept, found: Sequence[Progress], now: datetime) -> Standing:
    """How a feed stands at a time, by what its workers wrote. One that was just made has some time to be taken up."""
    fresh = [one for one in found if now - one.seen_at < STALL]
    is_due = now - kept.made_at >= STALL
    caught_up = [one.caught_up_at for one in fresh]
    return Standing(
        workers=len(fresh),
        lag=sum(one.lag for one in fresh),
        per_second=sum(one.per_second for one in fresh),
        left_out=sum(one.left_out for one in fresh),
        progressed_at=max((one.progressed_at for one in found), default=None),
        caught_up_at=None if None in caught_up else min((one for one in caught_up if one is not None), default=None),
        trouble=_none_left(kept, found, now)
        if is_due and not fresh
        else next(filter(None, (_trouble(kept, one, now) for one in fresh)), None),
    )


def _none_left(kept: Kept, found: Sequence[Progress], now: datetime) -> str:
    last = max((one.seen_at for one in found), default=None)
    return f"no worker keeps {kept.feed.name}" + ("" if last is None else f": the last one was seen {_minutes(now - last)} ago")


def _trouble(kept: Kept, one: Progress, now: datetime) -> str | None:
    if one.problem is not None:
        return f"worker {one.worker} cannot keep {kept.feed.name}: {one.problem}"
    if now - one.progressed_at >= STALL:
        return f"worker {one.worker} stands still: lag of {one.lag} without progress for {_minutes(now - one.progressed_at)}"
    promised, since = min(view.freshness for view in kept.feed.views), one.caught_up_at or kept.made_at
    if one.lag and now - since >= promised:
        return f"older than promised: lag of {one.lag}, caught up {_minutes(now - since)} ago, promised are {_minutes(promised)}"
    return None


def _minutes(span: timedelta) -> str:
    return f"{span / timedelta(minutes=1):,.0f} min"
