"""The messages of the event topics: every departure and arrival of a span of days, and what goes wrong with them on purpose.

The events are those of `flight_history`, so that history and stream are one world, cut at an instant (`database --stream-from`).
Of each day a share is late, doubled, out of order or carries a field that nobody knows; broken messages come beside them under keys of
their own. All follows from the day, so that it can be counted without looking at a topic.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import numpy as np
import polars as pl

from simulator.nyc_flights import breakage, data

DEPARTURES, ARRIVALS = "flight-departures", "flight-arrivals"
EVENT_TYPES: Mapping[str, str] = {DEPARTURES: "departure", ARRIVALS: "arrival"}
FIELDS: Mapping[str, tuple[str, ...]] = {
    DEPARTURES: ("flight_id", "carrier", "tailnum", "origin", "dest", "event_at", "delay_minutes", "is_cancelled", "recorded_at"),
    ARRIVALS: ("flight_id", "carrier", "tailnum", "origin", "dest", "event_at", "delay_minutes", "recorded_at"),
}
# Hours by which late events are known after they happened; a contract that allows a day lets them pass.
LATE_HOURS = 20
UNKNOWN_FIELD = "gate"
SCHEMA: Mapping[str, pl.DataType] = {
    "topic": pl.String(),
    "key": pl.String(),
    "value": pl.Binary(),
    "recorded_at": pl.Datetime("us", "UTC"),
    "sent_at": pl.Datetime("us", "UTC"),
    "day": pl.Date(),
    "is_repeat": pl.Boolean(),
    "fault": pl.String(),
}
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

BREAK: Mapping[str, Callable[[Mapping[str, object]], bytes | None]] = {
    "cut off": lambda row: _json(row)[:-20],
    "wrong type": lambda row: _json({**row, "delay_minutes": "late"}),
    "beyond 64 bits": lambda row: _json({**row, "delay_minutes": 2**63}),
    "not UTF-8": lambda row: _json(row).replace(b'"IAH"', b'"I\xffH"'),
    "empty": lambda _: b"",
    "no value": lambda _: None,
}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the messages of a topic for some days are: `good` distinct events, and how many of these are late, doubled and so on.

    `doubled` events are sent twice, the same bytes with the same time; `reordered` ones are held back for 10 to 19 minutes, so that they
    come after others that were recorded later; `extended` ones have a field more. `broken` counts the messages that are no event, by fault.
    """

    good: int
    late: int
    doubled: int
    reordered: int
    extended: int
    broken: Mapping[str, int]

    @property
    def messages(self) -> int:
        """All messages of the topic."""
        return self.good + self.doubled + sum(self.broken.values())


def messages(known: pl.DataFrame, first: date, last: date, topics: Sequence[str] = tuple(EVENT_TYPES)) -> pl.DataFrame:
    """The messages about the UTC days first..last (inclusive), in the order in which they are sent.

    `known` are the flights of `data.flights`. Columns: `topic`, `key`, `value` (bytes; null for a message without), `recorded_at` (the
    time of the record), `sent_at`, `day` (of the event), `is_repeat`, and `fault` (null but for broken messages).
    """
    parts = [part for topic in topics for part in (_told(known, topic, first, last), _broken(topic, first, last))]
    return pl.concat(parts).sort("sent_at", "topic", "key", "is_repeat")


def counts(known: pl.DataFrame, topic: str, first: date, last: date) -> Counts:
    """What the messages of a topic for the days first..last (inclusive) are, counted without making them."""
    sizes = _happened(known, topic, first, last).group_by(pl.col("event_at").dt.date()).len()["len"].to_list()
    marks = Counter[str]()
    for size in sizes:
        marks.update({mark: end - begin for mark, (begin, end) in _marks(size).items()})
    broken_days = sum(1 for day in breakage.days(first, last) if _is_broken(day))
    return Counts(
        good=sum(sizes),
        late=marks["late"],
        doubled=marks["doubled"],
        reordered=marks["reordered"],
        extended=marks["extended"],
        broken=dict.fromkeys(BREAK, broken_days) if broken_days else {},
    )


def _marks(size: int) -> dict[str, tuple[int, int]]:
    """Which events of a day have which fault, as spans of their ranks in a random order; some late ones are doubled too."""
    fiftieth = size // 50
    starts = {"late": 0, "doubled": fiftieth // 2, "reordered": 2 * fiftieth, "extended": 4 * fiftieth}
    return {mark: (start, start + fiftieth) for mark, start in starts.items()}


def _happened(known: pl.DataFrame, topic: str, first: date, last: date) -> pl.DataFrame:
    is_asked = (pl.col("event_type") == EVENT_TYPES[topic]) & pl.col("event_at").dt.date().is_between(first, last)
    return data.flight_history(known).filter(is_asked).sort("event_at", "flight_id")


def _told(known: pl.DataFrame, topic: str, first: date, last: date) -> pl.DataFrame:
    events = _marked(_happened(known, topic, first, last), topic)
    late_by = pl.when("late").then(pl.duration(hours=1 + pl.col("rank") % LATE_HOURS)).otherwise(pl.duration(hours=0))
    known_late = events.with_columns(recorded_at=pl.col("event_at") + late_by)
    minutes = pl.when("reordered").then(10 + pl.col("rank") % 10).otherwise(0)
    once = known_late.select(
        pl.lit(topic).alias("topic"),
        pl.col("flight_id").alias("key"),
        _value(topic).cast(pl.Binary).alias("value"),
        "recorded_at",
        (pl.col("recorded_at") + pl.duration(minutes=minutes)).alias("sent_at"),
        pl.col("event_at").dt.date().alias("day"),
        pl.lit(value=False).alias("is_repeat"),
        pl.lit(None, pl.String).alias("fault"),
        "doubled",
    )
    again = once.filter("doubled").with_columns(pl.col("sent_at") + pl.duration(minutes=3), is_repeat=pl.lit(value=True))
    return pl.concat([once, again]).drop("doubled")


def _marked(events: pl.DataFrame, topic: str) -> pl.DataFrame:
    """Events with their rank in the random order of their day, and a column a mark."""
    days = events.with_columns(day=pl.col("event_at").dt.date()).partition_by("day", maintain_order=True)
    ranked = [part.with_columns(_rank(topic, part["day"][0], part.height), pl.lit(part.height).alias("size")) for part in days]
    if not ranked:
        return events.with_columns(pl.lit(0).alias("rank"), *(pl.lit(value=False).alias(mark) for mark in _marks(0)))
    return pl.concat(part.with_columns(_is_marked(mark, part.height) for mark in _marks(part.height)) for part in ranked)


def _rank(topic: str, day: date, size: int) -> pl.Series:
    seed = [day.toordinal(), list(EVENT_TYPES).index(topic)]
    return pl.Series("rank", np.random.default_rng(seed).permutation(size), dtype=pl.Int64)


def _is_marked(mark: str, size: int) -> pl.Expr:
    begin, end = _marks(size)[mark]
    return pl.col("rank").is_between(begin, end, closed="left").alias(mark)


def _value(topic: str) -> pl.Expr:
    """An event as a JSON object with the fields of its topic; a marked one has a field more, which no contract knows."""
    times = ("event_at", "recorded_at")
    shown = [pl.col(name).dt.strftime(TIME_FORMAT) if name in times else pl.col(name) for name in FIELDS[topic]]
    plain = pl.struct(shown).struct.json_encode()
    return pl.when("extended").then(plain.str.strip_suffix("}") + f',"{UNKNOWN_FIELD}":"B12"}}').otherwise(plain)


def _broken(topic: str, first: date, last: date) -> pl.DataFrame:
    rows = [row for day in breakage.days(first, last) if _is_broken(day) for row in _broken_rows(topic, day)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _is_broken(day: date) -> bool:
    return breakage.FIRST_BROKEN_DAY <= day <= breakage.LAST_BROKEN_DAY


def _broken_rows(topic: str, day: date) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for number, (fault, broken) in enumerate(BREAK.items()):
        at = datetime.combine(day, time(15, 30), tzinfo=data.REFERENCE_AT.tzinfo) + timedelta(minutes=number)
        key = f"UA{9950 + number}-EWR-{at:%Y%m%dT%H}"
        rows.append((topic, key, broken(_row(topic, key, at)), at, at, day, False, fault))
    return rows


def _row(topic: str, key: str, at: datetime) -> dict[str, object]:
    """An event as it would be if nothing were wrong with it."""
    values: dict[str, object] = {
        "flight_id": key,
        "carrier": "UA",
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "event_at": f"{at:{TIME_FORMAT}}",
        "delay_minutes": 5,
        "is_cancelled": False,
        "recorded_at": f"{at:{TIME_FORMAT}}",
    }
    return {name: values[name] for name in FIELDS[topic]}


def _json(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode()
