"""The messages of the two topics: announced matches, and their results weeks later; some twice, some late, some broken.

What goes wrong follows from the number of a match in its season, so that it can be counted beforehand, and a match sent again, by itself
or with others, is the same message.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from simulator.bundesliga import data

FIXTURES, RESULTS = "league-fixtures", "league-results"
# Every so many matches of a season one is sent twice, and one is followed by a message that is no event; which are late, `data` has.
TWICE_EVERY, BROKEN_EVERY = 40, 60
# What is wrong with broken messages, one after the other: a season has each.
BREAK: Mapping[str, Callable[[Mapping[str, object]], bytes | None]] = {
    "key missing": lambda row: _json({**row, "home_id": None}),
    "cut off": lambda row: _json(row)[:-20],
    "wrong type": lambda row: _json({**row, "away_id": "Bayern"}),
    "empty": lambda _: b"",
    "no value": lambda _: None,
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One record of a topic: its time is when it could be known. `value` is null for a record without; `fault` is null for an event."""

    topic: str
    key: str
    value: bytes | None
    known_at: datetime
    fault: str | None = None

    @property
    def is_broken(self) -> bool:
        """Whether it is no event."""
        return self.fault is not None


def messages(first: date, last: date) -> list[Message]:
    """What was announced, and what ended, on the days `first` to `last` (UTC, inclusive), in the order of knowledge."""
    sent = [*_of(FIXTURES, "announced_at", first, last), *_of(RESULTS, "finished_at", first, last)]
    return sorted(sent, key=lambda one: (one.known_at, one.topic, one.key))


def _of(topic: str, event_at: str, first: date, last: date) -> list[Message]:
    start, end = datetime.combine(first, time(), UTC), datetime.combine(last + timedelta(days=1), time(), UTC)
    known = data.matches().filter(pl.col(event_at).is_between(start, end, closed="left"))
    return [message for row in known.iter_rows(named=True) for message in _about(topic, row)]


def _about(topic: str, row: Mapping[str, object]) -> list[Message]:
    """The messages of a topic about one match: its event, once or twice, and beside it perhaps a broken one under a key of its own."""
    number, known_at = row["match_number"], row["announcement_known_at" if topic == FIXTURES else "result_known_at"]
    if not isinstance(number, int) or not isinstance(known_at, datetime):
        raise TypeError(number, known_at)
    key, fields = f"{row['season']}-{number}", _fields(topic, row) | {"recorded_at": known_at.isoformat()}
    event = Message(topic=topic, key=key, value=_json(fields), known_at=known_at)
    events = [event] * (2 if number % TWICE_EVERY == 0 else 1)
    if number % BROKEN_EVERY:
        return events
    fault = list(BREAK)[number // BROKEN_EVERY % len(BREAK)]
    return [*events, Message(topic=topic, key=f"{key}-broken", value=BREAK[fault](fields), known_at=known_at, fault=fault)]


def _fields(topic: str, row: Mapping[str, object]) -> dict[str, object]:
    own = ("round", "kick_off_at", "announced_at") if topic == FIXTURES else ("home_goals", "away_goals", "finished_at")
    return {name: _plain(row[name]) for name in ("season", "match_number", "home_id", "away_id", *own)}


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _json(row: Mapping[str, object]) -> bytes:
    return json.dumps(row).encode()
