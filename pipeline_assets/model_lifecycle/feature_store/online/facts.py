"""What the online store keeps of a feed, in numbers."""

from typing import TYPE_CHECKING, TypedDict

from psycopg import sql

from pipeline_assets.core.instants import instant_at
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed

if TYPE_CHECKING:
    import psycopg


class Facts(TypedDict):
    """A feed, its views, whether it is read, and the size of what is kept."""

    feed: str
    views: list[str]
    status: str
    keys: int
    rows: int
    bytes: int
    largest_state: int
    known_to: str | None
    offsets: dict[int, int]


def facts_of(connection: "psycopg.Connection", feed: Feed) -> Facts:
    """What is kept of a feed as it is declared now; zeros and `absent` where nothing is."""
    kept = store.find(connection, feed)
    views = [view.name for view in feed.views]
    if kept is None:
        return Facts(feed=feed.name, views=views, status="absent", keys=0, rows=0, bytes=0, largest_state=0, known_to=None, offsets={})
    sizes = sql.SQL("select count(*), coalesce(sum(octet_length(state)), 0), coalesce(max(octet_length(state)), 0) from {}")
    keys, size, largest = connection.execute(sizes.format(kept.state)).fetchone() or (0, 0, 0)
    (rows,) = connection.execute(sql.SQL("select count(*) from {}").format(kept.rows)).fetchone() or (0,)
    known_to = None if kept.watermark is None else instant_at(kept.watermark).isoformat()
    return Facts(
        feed=feed.name,
        views=views,
        status="live" if kept.is_live else "building",
        keys=int(keys),
        rows=int(rows),
        bytes=int(size),
        largest_state=int(largest),
        known_to=known_to,
        offsets=store.offsets(connection, kept),
    )
