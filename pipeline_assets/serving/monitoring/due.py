"""Which days of a model are to be scored, watched, or judged again by labels that have matured since.

Pure: what is known of its days goes in, the days that are due come out.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from pipeline_assets.core.due import Due
from pipeline_assets.serving.monitoring.feedback import matured_at

DAY = timedelta(days=1)
SCORES, WATCH, LABELS = "scores", "watch", "labels"
NEVER = -1
# Of each day the number of its newest materialization, which grows with every new one.
Made = Mapping[date, int]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the days of a model.

    scored_from: the first day that is scored: the first that began with a version live. filled: the days that have vectors, as a day
    may have no decisions. judged: what the labels of a day were judged as of. clock: until when the data go (UTC).
    """

    vectors: Made
    predictions: Made
    drift: Made
    performance: Made
    scored_from: date
    filled: frozenset[date]
    judged: Mapping[date, datetime]
    clock: datetime
    horizon: timedelta


def clock_of_data(filled: date, made: Collection[date], midnight: datetime | None) -> datetime:
    """Until when (UTC) the data of a model go, by which labels mature; its newest day with vectors is `filled`, and `made` have been made.

    Labels are loaded with the days. Where days still come (midnight: the last one on the wall) it is the end of the newest that was made,
    also if it had no decisions; in a replay (None) that of the newest day that has vectors.
    """
    if midnight is None:
        return _begin(filled + DAY)
    return min(midnight, _begin(max([filled, *made]) + DAY))


def first_scored(live_from: datetime) -> date:
    """The first day (UTC) that began with a version live, which was so from this moment on."""
    begun = live_from.astimezone(UTC).date()
    return begun if live_from == _begin(begun) else begun + DAY


def _begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def due_days(known: Known) -> Due:
    """The days that are due: to be scored, then those only to be watched, then those to be judged again; a day is in one of them.

    A day is scored when its vectors are newer than its scores, and watched when its scores are newer than what was measured of them. Labels
    are judged again when those of all decisions have matured, and once more a day later, as those that are known late come until then.
    """
    old = {day: made for day, made in known.vectors.items() if day >= known.scored_from and made > known.predictions.get(day, NEVER)}
    scores = {day: made for day, made in old.items() if day in known.filled or day in known.predictions}
    measured = {day: min(known.drift.get(day, NEVER), known.performance.get(day, NEVER)) for day in known.predictions}
    watch = {day: made for day, made in known.predictions.items() if day not in scores and made > measured[day]}
    matured = {day: _matured(day, as_of, known) for day, as_of in known.judged.items() if day not in scores and day not in watch}
    return {SCORES: scores, WATCH: watch, LABELS: {day: at.toordinal() for day, at in matured.items() if at is not None}}


def _matured(day: date, as_of: datetime, known: Known) -> datetime | None:
    """The last moment of maturity that has come since a day was judged; None where none has."""
    first = matured_at(day, known.horizon)
    return max((at for at in (first, first + DAY) if as_of < at <= known.clock), default=None)
