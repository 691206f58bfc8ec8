"""What the online store keeps of a feed, in numbers."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from psycopg import sql

from pipeline_assets.core.connections import online
from pipeline_assets.core.instants import instant_at
from pipeline_assets.core.settings import OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online import progress, store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.progress import TODO, standing
from pipeline_assets.model_lifecycle.feature_store.online.store import Kept

if TYPE_CHECKING:
    import psycopg


class Facts(TypedDict):
    """A feed, its views, whether it is read, the size of what is kept, and how its workers are with it (`trouble` None: nothing is wrong).

    lag: records, or commits of the lake, still to take. caught_up_at: all that had come by then is in the states.
    """

    feed: str
    views: list[str]
    status: str
    keys: int
    rows: int
    bytes: int
    largest_state: int
    known_to: str | None
    offsets: dict[int, int]
    workers: int
    lag: int
    events_per_second: float
    rows_left_out: int
    caught_up_at: str | None
    trouble: str | None
    todo: str


def read_facts(settings: OnlineSettings, feeds: Sequence[Feed], now: datetime, *, with_sizes: bool = True) -> list[Facts]:
    """What is kept of feeds as they are declared now, in their order; sizes are counted over whole tables, or are 0 without."""
    with online(settings) as connection:
        return [facts_of(connection, feed, now, with_sizes=with_sizes) for feed in feeds]


def facts_of(connection: "psycopg.Connection", feed: Feed, now: datetime, *, with_sizes: bool = True) -> Facts:
    """What is kept of a feed as it is declared now; zeros and `absent` where nothing is."""
    kept = store.find(connection, feed)
    keys, size, largest, rows = (0, 0, 0, 0) if kept is None or not with_sizes else _sizes(connection, kept)
    watermark = None if kept is None else kept.watermark
    found = None if kept is None else standing(kept, progress.read(connection, kept), now)
    return Facts(
        feed=feed.name,
        views=[view.name for view in feed.views],
        status="absent" if kept is None else "live" if kept.is_live else "building",
        keys=keys,
        rows=rows,
        bytes=size,
        largest_state=largest,
        known_to=None if watermark is None else instant_at(watermark).isoformat(),
        offsets={} if kept is None else store.offsets(connection, kept),
        workers=0 if found is None else found.workers,
        lag=0 if found is None else found.lag,
        events_per_second=0.0 if found is None else round(found.per_second, 1),
        rows_left_out=0 if found is None else found.left_out,
        caught_up_at=None if found is None or found.caught_up_at is None else found.caught_up_at.isoformat(),
        trouble="it is not online: materialize it" if found is None else found.trouble,
        todo=TODO,
    )


def _sizes(connection: "psycopg.Connection", kept: Kept) -> tuple[int, int, int, int]:
    """Keys, bytes of all states, those of the largest, and rows."""
    sizes = sql.SQL("select count(*), coalesce(sum(octet_length(state)), 0), coalesce(max(octet_length(state)), 0) from {}")
    keys, size, largest = connection.execute(sizes.format(kept.state)).fetchone() or (0, 0, 0)
    (rows,) = connection.execute(sql.SQL("select count(*) from {}").format(kept.rows)).fetchone() or (0,)
    return int(keys), int(size), int(largest), int(rows)
