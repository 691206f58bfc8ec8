"""The states in Postgres, as a reader asks for them: all views in one query, however many keys are asked for."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING

from psycopg import sql

from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.position import Position, position_of
from pipeline_assets.model_lifecycle.feature_store.online.source import Found, Row, Wanted

if TYPE_CHECKING:
    import psycopg

# In one statement with the states, so that the position is the one of exactly these states.
ASKED = """
    select {number}::integer, q.slot, q.place, case when held.xmin = q.version then null else held.value end,
        case when held.xmin = q.version or q.first >= held.since and q.last < held.until then null else held.state end, held.xmin::text,
        null::bigint, null::bigint, null::boolean, null::jsonb
    from unnest(%s::smallint[], %s::integer[], %s::text[], %s::bigint[], %s::bigint[], %s::xid[])
        as q (slot, place, key, first, last, version)
    join {state} as held on held.view = q.slot and held.key = q.key
    union all
    select {number}, null, null, null, null, null, watermark, snapshot_id, is_between,
        (select jsonb_object_agg(partition, next_offset) from online.offsets where feed = {id})
    from online.feeds where id = {id}
"""


class Stored:
    """The states of some feeds, as they are live when this is made, asked for on a connection in autocommit. Raises NotOnline."""

    def __init__(self, connection: "psycopg.Connection", feeds: Sequence[Feed]) -> None:
        self.connection, self.feeds = connection, tuple(feeds)
        parts = [
            sql.SQL(ASKED).format(number=sql.Literal(number), id=sql.Literal(kept.id), state=kept.state)
            for number, kept in enumerate(store.live(connection, feed) for feed in self.feeds)
        ]
        self._query = sql.SQL(" union all ").join(parts).as_bytes(connection)

    def on(self, connection: "psycopg.Connection") -> "Stored":
        """The same on another connection in autocommit."""
        other = copy(self)
        other.connection = connection
        return other

    def ask(self, wanted: Sequence[Sequence[Wanted]]) -> tuple[Found, list[Position]]:
        """What `Source.ask` says."""
        parameters = [array for each in wanted for array in _parameters(each)]
        found: dict[tuple[int, int], list[Row]] = {}
        stored: dict[int, tuple[int | None, int | None, bool, Mapping[str, int] | None]] = {}
        for row in self.connection.execute(self._query, parameters, prepare=True, binary=True).fetchall():
            if row[2] is None:
                stored[row[0]] = row[6], row[7], row[8], row[9]
            else:
                found.setdefault((row[0], row[1]), []).append(Row(row[2], row[3], row[4], row[5]))
        return found, [position_of(feed, stored[number]) for number, feed in enumerate(self.feeds)]


def _parameters(wanted: Sequence[Wanted]) -> list[str]:
    """The arrays that are asked for of one feed: slot, place of the key, key, first and last time, version."""
    return [
        _array(one.slot for one in wanted for _ in one.asked.keys),
        _array(place for one in wanted for place in range(len(one.asked.keys))),
        "{" + ",".join([_quoted(key) for one in wanted for key in one.asked.keys]) + "}",
        _array(time for one in wanted for time in one.asked.first),
        _array(time for one in wanted for time in one.asked.last),
        # A version is the number of a transaction; none has 0.
        _array(version or 0 for one in wanted for version in one.versions),
    ]


def _array(numbers: Iterable[int | str]) -> str:
    """An array as Postgres writes it; psycopg takes several times as long for one."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
