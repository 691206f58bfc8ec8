"""What the online store said, kept in a process while it holds: most questions need no query then.

A finished value changes only when a row comes or a window moves on. For the latter it says until when it holds. For the former the store
notes each key whose state changes (`online.changed`); a thread reads these notes some times a second as long as questions come, and values
of these keys are forgotten. All that is kept of a feed is as of one position of it, which is given with the values: what a query finds is
kept where it was made at a position since which no note has its key.
"""

import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from threading import Event, Lock, Thread
from time import monotonic
from typing import NamedTuple

import psycopg

from pipeline_assets.core.dsn import limited, with_time_zone
from pipeline_assets.core.settings import ONLINE_DSN, OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.position import Position, position_of
from pipeline_assets.model_lifecycle.feature_store.online.source import Asked

LOG = logging.getLogger(__name__)

# How often notes are read while questions come; for how long after the last one; and how old they may be for a value to count as current.
LOOK_SECONDS, IDLE_SECONDS, CURRENT_SECONDS = 0.05, 2.0, 0.5
PATIENCE_SECONDS, RETRY_SECONDS = 2, 1.0
# A query that ends so many looks after it began is kept nowhere.
TURNS = 20
# Of each feed: so many values of some hundred bytes, of keys that are no longer than that.
MOST_KEPT, LONGEST_KEY = 50_000, 200
# The feeds that are asked for as they are live and noted, and the keys that changed since a snapshot of the database, in one statement:
# what is noted belongs to exactly these positions. Notes were removed since then where a snapshot that was later than it was emptied.
NOTES = f"""
    with asked as materialized (
        select asked.place, feeds.id, coalesce(pruned.emptied, 0) as emptied, {store.POSITION}::text as position,
            %(since)s::pg_snapshot is not null and coalesce(pg_snapshot_xmax(pruned.until) < pg_snapshot_xmax(%(since)s), true) as is_whole
        from unnest(%(names)s::text[], %(hashes)s::text[]) with ordinality as asked (name, hash, place)
            join online.feeds on feeds.name = asked.name and feeds.hash = asked.hash left join online.pruned on pruned.feed = feeds.id
        -- A standby does not say which transactions have not ended.
        where feeds.status = '{store.LIVE}' and not pg_is_in_recovery() and exists (
            select from pg_trigger where tgrelid = to_regclass('{store.SCHEMA}.state_' || feeds.id) and tgname = '{store.NOTED}update'
        )
    )
    select place, id, emptied, position, is_whole, null::smallint, null::text[] from asked
    union all
    select asked.place, asked.id, null, null, null, changed.view, changed.keys from asked join online.changed on changed.feed = asked.id
        where changed.at >= pg_snapshot_xmin(%(since)s) and not pg_visible_in_snapshot(changed.at, %(since)s)
    union all
    select 0, 0, 0, pg_current_snapshot()::text, null, null, null
"""  # noqa: S608 - of constants


class Value(NamedTuple):
    """The finished value of a key, None where nothing is known of it; and from when on and until when it holds (µs)."""

    since: int
    until: int
    value: bytes | None


Key = tuple[int, str]


class Noted(NamedTuple):
    """What was read of a feed: its version, its position, whether no note since the last time is gone, and what changed.

    version: its number, and how often all its notes were removed.
    """

    version: tuple[int, int]
    position: Position
    is_whole: bool
    changed: Sequence[Key]


class _Turn(NamedTuple):
    """What one reading of the notes brought: its number, the position of the feed then, and the keys that had changed."""

    number: int
    position: Position
    changed: frozenset[Key]


class Known(NamedTuple):
    """The values of the keys that were asked for, by slot, and the position of the feed with exactly these."""

    values: Mapping[int, list[bytes | None]]
    position: Position


class KeptValues:
    """The values of a feed's views, by slot and key, as of one position of it. Safe to be used by any number of threads."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most, self._lock, self._values, self.turn = most, Lock(), dict[Key, Value](), 0
        self._version, self._read_at = (0, 0), float("-inf")
        # The newest of the readings since which nothing had to be forgotten as a whole.
        self._turns = deque[_Turn](maxlen=TURNS)

    def __len__(self) -> int:
        return len(self._values)

    def known(self, asked: Mapping[int, Asked]) -> Known | None:
        """What is kept of all that is asked for by slot, at all times that it is asked for.

        None where anything is missing, or where it is not known whether it still holds.
        """
        with self._lock:
            if not self._turns or monotonic() - self._read_at > CURRENT_SECONDS:
                return None
            found = dict[int, list[bytes | None]]()
            for slot, one in asked.items():
                values = self._of(slot, one)
                if values is None:
                    return None
                found[slot] = values
            return Known(found, self._turns[-1].position)

    def keep(self, turn: int, position: Position, found: Mapping[Key, Value]) -> None:
        """Keeps what a query found at a position, `turn` as it was before the query.

        What the query saw is at least as new as the notes of that turn. So it holds still, where no later turn has the key; and it is no
        newer than the last turn, where the feed was at the query's position in that one or in one before it.
        """
        with self._lock:
            since = [one for one in self._turns if one.number >= turn]
            if not since or since[0].number != turn or all(one.position != position for one in since):
                return
            later = [one.changed for one in since[1:] if one.changed]
            for key, value in found.items():
                if len(key[1]) <= LONGEST_KEY and not any(key in changed for changed in later):
                    self._values.pop(key, None)
                    self._values[key] = value
            for key in list(islice(self._values, max(0, len(self._values) - self._most))):
                del self._values[key]

    def follow(self, noted: Noted | None, read_at: float) -> None:
        """Goes on to what was read of the feed at a time (monotonic), before which it was asked for; None where it is not there."""
        with self._lock:
            self.turn += 1
            if noted is None or noted.version != self._version or not noted.is_whole:
                self._values.clear()
                self._turns.clear()
            if noted is None:
                return
            self._version, self._read_at = noted.version, read_at
            # What had changed before the first of the turns is in no question that is under way.
            self._turns.append(_Turn(self.turn, noted.position, frozenset(noted.changed if self._turns else ())))
            for key in noted.changed:
                self._values.pop(key, None)

    def _of(self, slot: int, asked: Asked) -> list[bytes | None] | None:
        found = list[bytes | None]()
        for key, first, last in zip(asked.keys, asked.first, asked.last, strict=True):
            value = self._values.get((slot, key))
            if value is None or first < value.since or last >= value.until:
                return None
            found.append(value.value)
        return found


class Notes:
    """Reads what the store notes for some feeds, in a thread that begins with the first question and rests while none come."""

    def __init__(self, settings: OnlineSettings, feeds: Sequence[Feed]) -> None:
        self._dsn = limited(with_time_zone(ONLINE_DSN, settings.online_dsn), PATIENCE_SECONDS)
        self._kept = {feed: KeptValues() for feed in feeds}
        self._asked, self._asked_at, self._is_closed, self._lock = Event(), 0.0, False, Lock()
        self._thread: Thread | None = None
        self._since: str | None = None

    def of(self, feeds: Iterable[Feed]) -> list[KeptValues]:
        """What is kept of some of the feeds, in their order."""
        return [self._kept[feed] for feed in feeds]

    def are_needed(self) -> None:
        """Has notes be read for a while, as a question has come."""
        self._asked_at = monotonic()
        if not self._asked.is_set():
            self._begin()
            self._asked.set()

    def close(self) -> None:
        """Ends the thread after its turn."""
        self._is_closed = True
        self._asked.set()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._thread = Thread(target=self._follow, name="online-notes", daemon=True)
                self._thread.start()

    def _follow(self) -> None:
        stopped = Event()
        while not self._is_closed:
            try:
                with psycopg.connect(self._dsn, autocommit=True) as connection:
                    # Another server may answer now, or one that was restored: of that no earlier snapshot says anything.
                    self._since = None
                    while self._rest(stopped):
                        self._read(connection)
            except psycopg.Error as error:
                LOG.info("the notes of the online store were not read: %s", error)
            except Exception:
                # Nothing may end the thread: values would no longer be kept, and nobody would know why.
                LOG.exception("reading the notes of the online store failed, and goes on")
            else:
                return
            self._forget()
            stopped.wait(RETRY_SECONDS)

    def _rest(self, stopped: Event) -> bool:
        """Waits until the next turn; whether there is one."""
        if monotonic() - self._asked_at > IDLE_SECONDS:
            self._asked.clear()
            # A question that came between the look at the time and this has set it too early.
            if monotonic() - self._asked_at > IDLE_SECONDS:
                self._asked.wait()
        else:
            stopped.wait(LOOK_SECONDS)
        return not self._is_closed

    def _read(self, connection: "psycopg.Connection") -> None:
        feeds, read_at = list(self._kept), monotonic()
        asked = {"names": [feed.name for feed in feeds], "hashes": [feed.hash for feed in feeds], "since": self._since}
        found, changed = dict[int, tuple[tuple[int, int], str, bool]](), dict[int, list[Key]]()
        for place, number, emptied, text, is_whole, slot, keys in connection.execute(NOTES, asked).fetchall():
            if place == 0:
                self._since = text
            elif keys is None:
                found[place] = (number, emptied), text, is_whole
            else:
                changed.setdefault(place, []).extend((slot, key) for key in keys)
        for place, (feed, kept) in enumerate(self._kept.items(), start=1):
            kept.follow(_noted(feed, found.get(place), changed.get(place, [])), read_at)

    def _forget(self) -> None:
        for kept in self._kept.values():
            kept.follow(None, monotonic())


def _noted(feed: Feed, found: tuple[tuple[int, int], str, bool] | None, changed: Sequence[Key]) -> Noted | None:
    if found is None:
        return None
    version, position, is_whole = found
    return Noted(version, position_of(feed, json.loads(position)), is_whole, changed)
