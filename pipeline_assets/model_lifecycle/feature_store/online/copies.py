"""A copy of the online states in Valkey or Redis, for readers that ask more than Postgres should answer.

Postgres keeps the states with the positions that they have seen. A change is copied in its transaction, right before it is committed, as
one script that runs only where the copy is at the change before. So a change that was missed, a server that lost its memory and a worker
that no longer holds the feed are all noticed: the copy is made anew, beside the one that is read. A change that was copied and then lost
with its worker comes again, to the next one.

Of each version of a feed a hash `online:<feed>:<hash>` has the last `change`, the `position` (JSON, as Postgres gives it) and the
`generation` of the copy; `<that>:<generation>:<slot>` has the states of one view by entity key: `since` and `until` (microseconds, 8 bytes
each), the length of the finished values (4 bytes), a version (8 bytes, random for each write), the finished values and the packed state;
numbers are little-endian. Scripts name keys that they make themselves, so the server is one primary (with replicas if wanted), no cluster.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from secrets import token_bytes, token_hex
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.connections import online, online_copy
from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.online_errors import CopyForgets, CopyOvertaken, NotOnline
from pipeline_assets.core.settings import OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.position import Position, position_of
from pipeline_assets.model_lifecycle.feature_store.online.source import Found, Row, Source, Wanted
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored

if TYPE_CHECKING:
    import pyarrow as pa
    from valkey import Valkey

HEAD = struct.Struct("<qqi8s")
AT_ONCE = 2_000
# A change of more states has the copy made anew: a script holds the server up, and has to be sent whole.
MOST_COPIED = 100_000
# Of one feed, of which nobody knows any more how many views it had.
MOST_VIEWS = 1_000
# A generation that was not copied to its end goes by itself.
HALF_COPY_SECONDS = 3_600
WRITE = """
local held = redis.call('HMGET', KEYS[1], 'change', 'generation')
if held[1] ~= ARGV[1] then return 0 end
local base = KEYS[1] .. ':' .. held[2] .. ':'
for place = 4, #ARGV, 3 do redis.call('HSET', base .. ARGV[place], ARGV[place + 1], ARGV[place + 2]) end
redis.call('HSET', KEYS[1], 'change', ARGV[2], 'position', ARGV[3])
return 1
"""
# Puts a new generation in the place of the one that is read, where nobody else has copied since.
SWITCH = """
local held = redis.call('HMGET', KEYS[1], 'change', 'generation')
if (held[1] or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'change', ARGV[2], 'position', ARGV[3], 'generation', ARGV[4])
for slot = 0, ARGV[5] - 1 do
    redis.call('PERSIST', KEYS[1] .. ':' .. ARGV[4] .. ':' .. slot)
    if held[2] then redis.call('UNLINK', KEYS[1] .. ':' .. held[2] .. ':' .. slot) end
end
return 1
"""
REMOVE = """
local generation = redis.call('HGET', KEYS[1], 'generation')
for slot = 0, ARGV[1] - 1 do
    if generation then redis.call('UNLINK', KEYS[1] .. ':' .. generation .. ':' .. slot) end
end
return redis.call('UNLINK', KEYS[1])
"""
# The position of each feed; then of each key its version and, unless the reader has that, the finished values where they hold (after a 1),
# else the packed state (after a 0).
ASK = """
local bases, found = {}, {}
for number, key in ipairs(KEYS) do
    local held = redis.call('HMGET', key, 'generation', 'position')
    bases[number] = held[1] and key .. ':' .. held[1] .. ':'
    found[number] = held[1] and held[2]
end
for place = 1, #ARGV, 6 do
    local base = bases[ARGV[place] + 1]
    local held = base and redis.call('HGET', base .. ARGV[place + 1], ARGV[place + 2])
    if held then
        local since, ends, size, version = struct.unpack('<i8i8i4c8', held)
        local is_held = tonumber(ARGV[place + 3]) >= since and tonumber(ARGV[place + 4]) < ends
        local bytes = is_held and '1' .. string.sub(held, 29, 28 + size) or '0' .. string.sub(held, 29 + size)
        held = version == ARGV[place + 5] and {version} or {version, bytes}
    end
    found[#found + 1] = held or false
end
return found
"""

Parameter = str | int | bytes


class Copies:
    """The copies of feeds on one server."""

    def __init__(self, server: "Valkey") -> None:
        self.server = server
        self._write, self._switch, self._remove, self._ask = (server.register_script(each) for each in (WRITE, SWITCH, REMOVE, ASK))

    def change_of(self, feed: Feed) -> str | None:
        """The last change that was copied; None where there is no copy."""
        with _answering():
            found: Any = self.server.hget(_key(feed), "change")
        return None if found is None else found.decode()

    def write(self, feed: Feed, changes: tuple[str, str], position: str, states: "Sequence[tuple[int, pa.Table]]") -> bool:
        """Copies one change: its states by slot (key, state, value, since, until), where the copy is at the first of `changes`.

        False where it is not, or where the states are too many; then nothing was written.
        """
        if sum(table.num_rows for _, table in states) > MOST_COPIED:
            return False
        written = [part for slot, table in states for fields in _fields(table) for part in (slot, *fields)]
        with _answering():
            return bool(self._write(keys=[_key(feed)], args=[*changes, position, *written]))

    def replace(self, feed: Feed, change: str, position: str, states: "Iterable[tuple[int, pa.Table]]") -> None:
        """Makes the copy anew, beside the one that is read; raises CopyOvertaken where somebody else has copied meanwhile."""
        before, generation = self.change_of(feed), token_hex(8)
        with _answering():
            _refuse_eviction(self.server)
            for slot, table in states:
                name, fields = f"{_key(feed)}:{generation}:{slot}", _fields(table)
                while some := dict(islice(fields, AT_ONCE)):
                    self.server.hset(name, mapping=some)
                    self.server.expire(name, HALF_COPY_SECONDS)
            asked: list[Parameter] = [before or "", change, position, generation, len(feed.views)]
            if not self._switch(keys=[_key(feed)], args=asked):
                raise CopyOvertaken(feed.table.name)

    def remove_version(self, name: str, digest: str) -> None:
        """Removes the copy of a version of a feed by name and hash, whether it is declared or not."""
        with _answering():
            self._remove(keys=[_key_of(name, digest)], args=[MOST_VIEWS])

    def ask(self, feeds: Sequence[Feed], parameters: Sequence[Parameter]) -> list[Any]:
        """What the script ASK gives."""
        with _answering():
            found: list[Any] = self._ask(keys=[_key(feed) for feed in feeds], args=parameters)
        return found


class Copied:
    """The states of some feeds in their copies, as a reader asks for them."""

    def __init__(self, copies: Copies, feeds: Sequence[Feed]) -> None:
        self.copies, self.feeds = copies, tuple(feeds)

    def ask(self, wanted: Sequence[Sequence[Wanted]]) -> tuple[Found, list[Position]]:
        """What `Source.ask` says; raises NotOnline for feeds that have no copy."""
        places, parameters = list[tuple[int, int, int]](), list[Parameter]()
        for number, each in enumerate(wanted):
            for one in each:
                keys = zip(one.asked.keys, one.asked.first, one.asked.last, one.versions, strict=True)
                for place, (key, first, last, version) in enumerate(keys):
                    places.append((number, one.slot, place))
                    parameters += (number, one.slot, key, first, last, (version or "").encode("latin-1"))
        answer = self.copies.ask(self.feeds, parameters)
        positions = [_position(feed, stored) for feed, stored in zip(self.feeds, answer, strict=False)]
        found: dict[tuple[int, int], list[Row]] = {}
        for (number, slot, place), held in zip(places, answer[len(self.feeds) :], strict=True):
            if held is not None:
                found.setdefault((number, slot), []).append(_row(place, *held))
        return found, positions


def _row(place: int, version: bytes, held: bytes | None = None) -> Row:
    if held is None:
        return Row(place, None, None, version.decode("latin-1"))
    value, state = (held[1:], None) if held[:1] == b"1" else (b"", held[1:])
    return Row(place, value, state, version.decode("latin-1"))


def _position(feed: Feed, stored: bytes | None) -> Position:
    if stored is None:
        raise NotOnline(feed.table.name, [view.name for view in feed.views], is_building=False)
    return position_of(feed, json.loads(stored))


@contextmanager
def open_copies(settings: OnlineSettings) -> Iterator[Copies | None]:
    """The copies on the server that the settings name; None where they name none."""
    server = online_copy(settings)
    if server is None:
        yield None
        return
    with server:
        yield Copies(server)


@contextmanager
def open_source(settings: OnlineSettings, feeds: Sequence[Feed]) -> Iterator[Source]:
    """Where states are read: their copies, or Postgres where the settings name no server for copies. Raises NotOnline."""
    with ExitStack() as stack:
        copies = stack.enter_context(open_copies(settings))
        if copies is not None:
            yield Copied(copies, feeds)
            return
        connection = stack.enter_context(online(settings))
        connection.autocommit = True
        yield Stored(connection, feeds)


def change_name(feed_id: int, number: int) -> str:
    """How a change of a version of a feed is named in its copy: one that is built anew begins to count again."""
    return f"{feed_id}.{number}"


def _key(feed: Feed) -> str:
    return _key_of(feed.name, feed.hash)


def _key_of(name: str, digest: str) -> str:
    return f"online:{name}:{digest}"


def _fields(states: "pa.Table") -> Iterator[tuple[str, bytes]]:
    """Each entity key of a table of states with what is kept of it."""
    version = token_bytes(8)
    for batch in states.to_batches(max_chunksize=AT_ONCE):
        columns = (batch[name].to_pylist() for name in ("key", "state", "value", "since", "until"))
        for key, state, value, since, until in zip(*columns, strict=True):
            yield key, HEAD.pack(since, until, len(value), version) + value + state


def _refuse_eviction(server: "Valkey") -> None:
    """Raises CopyForgets for a server that drops keys when memory is short: nobody would notice that they are gone."""
    memory: Any = server.info("memory")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise CopyForgets(policy)


@contextmanager
def _answering() -> Iterator[None]:
    """Raises SourceUnavailable where the server does not do what it is asked; a password is in none of its messages."""
    from valkey.exceptions import ValkeyError

    try:
        yield
    except ValkeyError as error:
        raise SourceUnavailable("the copy of the online store", f"did not answer: {error}") from error
