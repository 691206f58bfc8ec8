"""The states in Postgres, as a reader asks for them: all views in one query, however many keys are asked for.

The query goes to libpq as it is, prepared once for each connection: to make parameters of a question of one row, and rows of its answer,
took psycopg as long as Postgres took for all else.
"""

import json
from collections.abc import Iterable, Sequence
from copy import copy
from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakSet

from psycopg import errors, sql
from psycopg.generators import execute
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.waiting import wait_async

from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.position import Position, position_of
from pipeline_assets.model_lifecycle.feature_store.online.source import Found, Row, Wanted

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGresult

# In one statement with the states, so that the positions are those of exactly these states. A position has its feed's number, from -1 down.
QUERY = """
    with asked as materialized (
        select * from unnest($1::smallint[], $2::smallint[], $3::text[], $4::bigint[], $5::bigint[], $6::xid[]) with ordinality
            as asked (feed, slot, key, first, last, version, place)
    )
"""
ASKED = """
    select q.place::integer, case when held.xmin = q.version then null else held.value end,
        case when held.xmin = q.version or q.first >= held.since and q.last < held.until then null else held.state end, held.xmin,
        held.since, held.until
    from asked as q join {state} as held on held.view = q.slot and held.key = q.key where q.feed = {number}
    union all
    select -1 - {number}, convert_to(({position})::text, 'UTF8'), null, null, null, null from online.feeds where id = {id}
"""
NUMBERS = count()
# psycopg looks at the connection so often by itself, beside being called; by its default all the time.
LOOK_SECONDS = 1.0


class Stored:
    """The states of some feeds, as they are live when this is made, asked for on a connection in autocommit. Raises NotOnline."""

    def __init__(self, connection: "psycopg.Connection", feeds: Sequence[Feed]) -> None:
        self.connection, self.feeds = connection, tuple(feeds)
        parts = [
            sql.SQL(ASKED).format(number=sql.Literal(number), id=sql.Literal(kept.id), state=kept.state, position=sql.SQL(store.POSITION))
            for number, kept in enumerate(store.live(connection, feed) for feed in self.feeds)
        ]
        self._query = QUERY.encode() + sql.SQL(" union all ").join(parts).as_bytes(connection)
        self._name, self._prepared = f"online_{next(NUMBERS)}".encode(), WeakSet["psycopg.Connection"]()
        self._positions: dict[int, tuple[bytes, Position]] = {}

    def on(self, connection: "psycopg.Connection") -> "Stored":
        """The same on another connection in autocommit."""
        other = copy(self)
        other.connection = connection
        return other

    def ask(self, wanted: Sequence[Sequence[Wanted]]) -> tuple[Found, list[Position]]:
        """What `Source.ask` says."""
        each = _numbered(wanted)
        return self._found(each, self._run(_parameters(each, self.connection.info.encoding)))

    async def awaited(self, wanted: Sequence[Sequence[Wanted]]) -> tuple[Found, list[Position]]:
        """As `ask`, on an event loop, which goes on while Postgres works. Where it is cancelled, the connection is of no more use."""
        each, server = _numbered(wanted), self.connection.pgconn
        if self.connection not in self._prepared:
            self._prepare()
        server.send_query_prepared(self._name, _parameters(each, self.connection.info.encoding), result_format=Format.BINARY)
        *_, result = await wait_async(execute(server), server.socket, LOOK_SECONDS)
        if result.status != ExecStatus.TUPLES_OK:
            raise self._error(result)
        return self._found(each, result)

    def _found(self, each: Sequence[tuple[int, Wanted]], result: "PGresult") -> tuple[Found, list[Position]]:
        places = [(key, place) for key, one in (((number, one.slot), one) for number, one in each) for place in range(len(one.asked.keys))]
        found: dict[tuple[int, int], list[Row]] = {}
        positions: dict[int, Position] = {}
        held, whole = result.get_value, int.from_bytes
        for row in range(result.ntuples):
            at, value, state = whole(held(row, 0) or b"", signed=True), held(row, 1), held(row, 2)
            if at < 0:
                positions[-1 - at] = self._position(-1 - at, value or b"")
            else:
                key, place = places[at - 1]
                version = "" if state is None else str(whole(held(row, 3) or b""))
                holds = whole(held(row, 4) or b"", signed=True), whole(held(row, 5) or b"", signed=True)
                found.setdefault(key, []).append(Row(place, value, state, version, holds))
        return found, [positions[number] for number in range(len(self.feeds))]

    def _run(self, parameters: list[bytes]) -> "PGresult":
        if self.connection not in self._prepared:
            self._prepare()
        result = self.connection.pgconn.exec_prepared(self._name, parameters, result_format=Format.BINARY)
        if result.status == ExecStatus.TUPLES_OK:
            return result
        error = self._error(result)
        if not isinstance(error, errors.InvalidSqlStatementName):
            raise error
        # Whatever else uses the connection has taken back all that was prepared on it.
        self._prepared.discard(self.connection)
        return self._run(parameters)

    def _error(self, result: "PGresult") -> Exception:
        if self.connection.pgconn.status != ConnStatus.OK:
            return errors.OperationalError(result.get_error_message())
        return errors.error_from_result(result, self.connection.info.encoding)

    def _prepare(self) -> None:
        result = self.connection.pgconn.prepare(self._name, self._query)
        if result.status != ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result, self.connection.info.encoding)
        self._prepared.add(self.connection)

    def _position(self, number: int, written: bytes) -> Position:
        """The position of a feed, which is the one of before as long as nothing came."""
        known = self._positions.get(number)
        if known is None or known[0] != written:
            known = self._positions[number] = written, position_of(self.feeds[number], json.loads(written))
        return known[1]


def _numbered(wanted: Sequence[Sequence[Wanted]]) -> list[tuple[int, Wanted]]:
    """What is asked of the views, each with the number of its feed."""
    return [(number, one) for number, of_feed in enumerate(wanted) for one in of_feed]


def _parameters(wanted: Sequence[tuple[int, Wanted]], encoding: str) -> list[bytes]:
    """The arrays that are asked for: feed, slot, key, first and last time, version."""
    asked = [one.asked for _, one in wanted]
    return [
        _array(part for number, one in wanted for part in [str(number)] * len(one.asked.keys)),
        _array(part for _, one in wanted for part in [str(one.slot)] * len(one.asked.keys)),
        ("{" + ",".join([_quoted(key) for one in asked for key in one.keys]) + "}").encode(encoding),
        _array(part for one in asked for part in _texts(one.first)),
        _array(part for one in asked for part in _texts(one.last)),
        # A version is the number of a transaction; none has 0.
        _array(version or "0" for _, one in wanted for version in one.versions),
    ]


def _texts(times: Sequence[int]) -> list[str]:
    """Times as texts, which are mostly one."""
    is_one = bool(times) and times.count(times[0]) == len(times)
    return [str(times[0])] * len(times) if is_one else list(map(str, times))


def _array(parts: Iterable[str]) -> bytes:
    """An array as Postgres writes it."""
    return ("{" + ",".join(list(parts)) + "}").encode()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
