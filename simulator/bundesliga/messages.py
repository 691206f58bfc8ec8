"""The messages of the two topics: announced matches, and their results weeks later; some twice, some broken, counted beforehand."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from simulator.bundesliga import data

FIXTURES, RESULTS = "league-fixtures", "league-results"
# Every so many messages one is sent twice, and one is followed by a copy that breaks the contract.
TWICE_EVERY, BROKEN_EVERY = 40, 60


@dataclass(frozen=True, kw_only=True)
class Message:
    """One record of a topic: its time is when it could be known."""

    topic: str
    key: str
    value: str
    known_at: datetime
    is_broken: bool = False


def messages(first: date, last: date) -> list[Message]:
    """What was announced, and what ended, on the days `first` to `last` (UTC, inclusive), in the order of knowledge."""
    sent = [*_of(FIXTURES, "announced_at", first, last), *_of(RESULTS, "finished_at", first, last)]
    return sorted(sent, key=lambda one: (one.known_at, one.topic, one.key))


def _of(topic: str, event_at: str, first: date, last: date) -> list[Message]:
    start, end = datetime.combine(first, time(), UTC), datetime.combine(last + timedelta(days=1), time(), UTC)
    found: list[Message] = []
    for number, row in enumerate(data.matches().filter(pl.col(event_at).is_between(start, end, closed="left")).iter_rows(named=True), 1):
        message = _message(topic, row)
        found += [message] * (2 if number % TWICE_EVERY == 0 else 1)
        if number % BROKEN_EVERY == 0:
            broken = {**json.loads(message.value), "home_id": None}
            found.append(Message(topic=topic, key=message.key, value=json.dumps(broken), known_at=message.known_at, is_broken=True))
    return found


def _message(topic: str, row: dict[str, object]) -> Message:
    names = ("season", "match_number", "home_id", "away_id")
    own = ("round", "kick_off_at", "announced_at") if topic == FIXTURES else ("home_goals", "away_goals", "finished_at")
    known_at = row["announcement_known_at" if topic == FIXTURES else "result_known_at"]
    if not isinstance(known_at, datetime):
        raise TypeError(known_at)
    value = {name: _plain(row[name]) for name in (*names, *own)} | {"recorded_at": known_at.isoformat()}
    return Message(topic=topic, key=f"{row['season']}-{row['match_number']}", value=json.dumps(value), known_at=known_at)


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
