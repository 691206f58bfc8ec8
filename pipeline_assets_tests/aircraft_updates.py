"""Updates of aircraft in the operational database at simulated times, and by brute force what was known of each at any time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from random import Random

import psycopg

AIRCRAFT, TIMES_EACH = 500, 3
# Of the aircraft: so many change without their `updated_at`, and so many are deleted; both is known at the commit.
UNTIMED, DELETED = 20, 20
MICROSECOND, DAY = timedelta(microseconds=1), timedelta(days=1)
# Aircraft that fly on the days and were never updated; what they hold keeps the contract.
ELIGIBLE = """
    select tailnum, seats from planes
    where tailnum in (select tailnum from flight_schedule where scheduled_departure_at between %(first)s and %(last)s)
        and updated_at < %(first)s and seats > 0 and year_built > 1950 and engines > 0
    order by tailnum
"""
UPDATE = "update planes set seats = %s, updated_at = %s where tailnum = %s"


@dataclass(frozen=True, kw_only=True)
class Update:
    """From `at` on an aircraft has so many seats."""

    at: datetime
    tailnum: str
    seats: int


@dataclass(frozen=True, kw_only=True)
class Updates:
    """The seats of some aircraft before they were updated, and all updates by time; `changes` counts what Debezium emits of them."""

    before: Mapping[str, int]
    made: Sequence[Update]
    changes: int

    def seats(self, tailnum: str, at: datetime) -> int:
        """How many seats an aircraft was known to have: those of its newest update by then, or else as before."""
        known = [(update.at, update.seats) for update in self.made if update.tailnum == tailnum and update.at <= at]
        return max(known)[1] if known else self.before[tailnum]


def update_aircraft(dsn: str, first: date, last: date, seed: int = 11) -> Updates:
    """Updates aircraft at times of the days `first` to `last`, some in one transaction, and deletes some in the end."""
    random = Random(seed)  # noqa: S311 - rows for a test, not secrets
    with psycopg.connect(dsn) as connection:
        start, end = (datetime.combine(day, time(), UTC) for day in (first, last + DAY))
        eligible = connection.execute(ELIGIBLE, {"first": start, "last": end}).fetchall()
        before: dict[str, int] = dict(random.sample(eligible, AIRCRAFT))
        made = sorted(_plan(random, before, start, end - start), key=lambda update: (update.at, update.tailnum))
        for transaction in _in_parts(random, made):
            connection.cursor().executemany(UPDATE, [(update.seats, update.at, update.tailnum) for update in transaction])
            connection.commit()
        tailnums = list(before)
        connection.execute("update planes set seats = 3 where tailnum = any(%s)", [tailnums[:UNTIMED]])
        connection.execute("delete from planes where tailnum = any(%s)", [tailnums[-DELETED:]])
    return Updates(before=before, made=made, changes=len(made) + UNTIMED + DELETED)


def _plan(random: Random, before: Mapping[str, int], start: datetime, span: timedelta) -> Iterator[Update]:
    """Updates of each aircraft: some at the microsecond of another aircraft's, some right after each other, some back to what it had."""
    shared: list[datetime] = []
    for number, (tailnum, seats) in enumerate(before.items()):
        times = sorted(start + span * random.random() for _ in range(TIMES_EACH))
        if number % 5 == 0:
            times[1] = times[0] + MICROSECOND
        if number % 2:
            times = shared
        values = [random.randrange(4, 700) for _ in times]
        if number % 4 == 0:
            values[-1] = seats
        if number % 4 == 1:
            values[1:] = [seats, values[0]]
        shared = times
        yield from (Update(at=at, tailnum=tailnum, seats=value) for at, value in zip(times, values, strict=True))


def _in_parts(random: Random, made: Sequence[Update]) -> Iterator[Sequence[Update]]:
    """The updates in transactions of one to twenty."""
    begun = 0
    while begun < len(made):
        size = random.randrange(1, 21)
        yield made[begun : begun + size]
        begun += size
