"""The events and requests of one bucket on one sorted scale, where a window is a range of positions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.processing.features.clock import Clock, clock_for
from pipeline_assets.processing.features.columns import Ints, instants, plain_column
from pipeline_assets.processing.features.keys import NO_KEY, key_codes

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of requests and events mean what; `order_by` breaks ties of both times, the last wins.

    superseded_at: from when an event counts no more, null for one that nothing superseded; None where no event ever is.
    """

    keys: Sequence[str]
    asked_at: str
    event_at: str
    known_at: str
    order_by: Sequence[str]
    superseded_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class VisibleEvents:
    """The events that some request can see: their rows in the table, and key and times of each.

    superseded_at: NEVER where that is after the last time asked; None where it is so for all.
    """

    rows: Ints
    code: Ints
    event_at: Ints
    known_at: Ints
    superseded_at: Ints | None = None

    @cached_property
    def visible_at(self) -> Ints:
        """When the event could first count: it had happened and was known."""
        return self.event_at if self.known_at is self.event_at else np.maximum(self.event_at, self.known_at)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The distinct requests that have a key, as questions in the order of (key, asked_at).

    requests: how many rows the requests have. rows: those with a key; question: the question of each.
    """

    requests: int
    rows: Ints
    question: Ints
    code: Ints
    at: Ints

    @property
    def count(self) -> int:
        """How many questions there are."""
        return len(self.at)

    def per_request(self, values: np.ndarray) -> np.ndarray:
        """Values per question, brought to the rows of the requests; zero for requests without a key."""
        spread = np.zeros(self.requests, values.dtype)
        spread[self.rows] = values[self.question]
        return spread


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Positions 0 … n-1 are events in the order of (key, event_at), which `order` brings them into.

    marks: the clock's mark of each position. visible_order: the positions in the order of (key, visible_at), None where that is the same.
    seen: for each question, how many entries of the visible order are of lower keys or visible to it. codes: how many keys there may be.
    """

    events: VisibleEvents
    questions: Questions
    clock: Clock
    codes: int
    order: Ints
    marks: Ints
    visible_order: Ints | None
    seen: Ints

    @cached_property
    def rows(self) -> Ints:
        """The row in the table of events at each position."""
        return self.events.rows[self.order]

    @cached_property
    def code(self) -> Ints:
        """The key at each position."""
        return self.events.code[self.order]

    @cached_property
    def event_at(self) -> Ints:
        """When it happened, at each position."""
        return self.events.event_at[self.order]

    @property
    def has_superseded(self) -> bool:
        """Whether any event was superseded by the last time asked."""
        return self.events.superseded_at is not None

    @cached_property
    def greatest_lateness(self) -> int:
        """The longest time from an event until it could count, in microseconds; 0 where there are no events."""
        return int((self.events.visible_at - self.events.event_at).max(initial=0))

    @cached_property
    def first_seen(self) -> Ints:
        """At each position, the first question that sees the event; the first of the next key where none of its own does."""
        first = np.empty(len(self.order), np.int64)
        first[self.by_visibility] = self.first_beyond(self.seen)
        return first

    @cached_property
    def first_superseded(self) -> Ints:
        """At each position, the first question that knows the event as superseded; the number of questions where nothing superseded it."""
        first = np.full(len(self.order), self.questions.count)
        if self.events.superseded_at is not None:
            superseded_at = self.events.superseded_at[self.order]
            gone = np.flatnonzero(superseded_at != NEVER)
            asked = self.clock.until(self.questions.code, self.questions.at)
            first[gone] = np.searchsorted(asked, self.clock.mark(self.code[gone], superseded_at[gone]))
        return first

    def first_beyond(self, places: Ints) -> Ints:
        """For each of the positions 0 … n-1, the first question whose place (one per question, never decreasing) lies beyond it."""
        return np.cumsum(np.bincount(places, minlength=len(self.order) + 1)[: len(self.order)])

    @cached_property
    def key_bounds(self) -> Ints:
        """The first position of each code, and the position after the last."""
        return np.searchsorted(self.marks, np.arange(self.codes + 1) * self.clock.span)

    @property
    def key_start(self) -> Ints:
        """For each question, the first position of its key."""
        return self.key_bounds[self.questions.code]

    @property
    def key_end(self) -> Ints:
        """For each question, the position after the last of its key."""
        return self.key_bounds[self.questions.code + 1]

    def positions_from(self, at: Ints) -> Ints:
        """For each question, the first position of its key with event_at not before `at` (microseconds, one per question)."""
        return np.searchsorted(self.marks, self.clock.before(self.questions.code, at))

    @cached_property
    def by_visibility(self) -> Ints:
        """The positions in the order of (key, visible_at)."""
        return np.arange(len(self.order)) if self.visible_order is None else self.visible_order

    def in_visible_order(self, values: np.ndarray) -> np.ndarray:
        """Values per position, rearranged by visibility."""
        return values if self.visible_order is None else values[self.visible_order]


def build_timeline(requests: pa.Table, events: pa.Table, columns: Columns, *, name: str, is_ordered: bool) -> Timeline:
    """The timeline of the requests and of those events that any of them can see.

    `is_ordered` sorts positions equal in key and event_at further by known_at, the columns of order_by (nulls first), and the row: what
    "newest" needs. Raises TableMismatch where key or time columns are missing or of another type; `name` stands for the events there.
    """
    asked_at = instants(requests, "requests", columns.asked_at)
    event_at = instants(events, name, columns.event_at)
    known_at = event_at if columns.known_at == columns.event_at else instants(events, name, columns.known_at)
    asked_code, code, codes = key_codes(requests, events, columns.keys, name)
    superseded_at = None if columns.superseded_at is None else instants(events, name, columns.superseded_at, unless=NEVER)
    until = int(asked_at.max(initial=0))
    seen = _visible(code, event_at, known_at, superseded_at, until)
    moments = [seen.event_at, seen.visible_at, asked_at, *([] if seen.superseded_at is None else [seen.superseded_at])]
    clock = clock_for(codes, moments, until=until)
    marks = clock.mark(seen.code, seen.event_at)
    order = _sorted_order(marks)
    sorted_marks = marks[order]
    if is_ordered:
        found = [plain_column(events, name, column) for column in columns.order_by]
        breakers = [
            seen.known_at.__getitem__,
            *(_ranking(column, seen.rows) for column in found),
            seen.rows.__getitem__,
        ]
        order = _break_ties(order, sorted_marks, breakers)
    questions = _questions(asked_code, asked_at, clock)
    visible_order, seen_at = _visibility(seen, questions, clock, order, sorted_marks)
    return Timeline(
        events=seen,
        questions=questions,
        clock=clock,
        codes=codes,
        order=order,
        marks=sorted_marks,
        visible_order=visible_order,
        seen=seen_at,
    )


def _visible(code: Ints, event_at: Ints, known_at: Ints, superseded_at: Ints | None, until: int) -> VisibleEvents:
    """The events whose key is in the requests, visible by the last time asked; one that was superseded before it was visible never was."""
    kept = (code != NO_KEY) & (event_at <= until) & (known_at <= until)
    if superseded_at is not None:
        kept &= superseded_at > np.maximum(event_at, known_at)
    rows = np.flatnonzero(kept)
    if len(rows) < len(code):
        is_same = known_at is event_at
        code, event_at = code[rows], event_at[rows]
        known_at = event_at if is_same else known_at[rows]
        superseded_at = None if superseded_at is None else superseded_at[rows]
    if superseded_at is not None:
        is_gone = superseded_at <= until
        superseded_at = np.where(is_gone, superseded_at, NEVER) if is_gone.any() else None
    return VisibleEvents(rows=rows, code=code, event_at=event_at, known_at=known_at, superseded_at=superseded_at)


def _questions(code: Ints, at: Ints, clock: Clock) -> Questions:
    requests = len(code)
    rows = np.flatnonzero(code != NO_KEY)
    rows = rows[_sorted_order(clock.until(code[rows], at[rows]))]
    code, at = code[rows], at[rows]
    is_new = np.concatenate(([True], (code[1:] != code[:-1]) | (at[1:] != at[:-1])))[: len(rows)]
    return Questions(requests=requests, rows=rows, question=np.cumsum(is_new) - 1, code=code[is_new], at=at[is_new])


def _visibility(events: VisibleEvents, questions: Questions, clock: Clock, order: Ints, marks: Ints) -> tuple[Ints | None, Ints]:
    """The positions by (key, visible_at), None where that is their order already, and how many of them each question sees."""
    visible_order = None
    if events.visible_at is not events.event_at:
        marks = clock.mark(events.code, events.visible_at)[order]
        if not _is_sorted(marks):
            visible_order = np.argsort(marks)
            marks = marks[visible_order]
    return visible_order, np.searchsorted(marks, clock.until(questions.code, questions.at), side="right")


def _is_sorted(marks: Ints) -> bool:
    return bool((marks[1:] >= marks[:-1]).all())


def _sorted_order(marks: Ints) -> Ints:
    return np.arange(len(marks)) if _is_sorted(marks) else np.argsort(marks)


def _ranking(column: pa.Array, rows: Ints) -> Callable[[Ints], Ints]:
    """What gives the rank of the column's values among the given places of `rows`; nulls rank lowest."""

    def rank(places: Ints) -> Ints:
        values = column.take(pa.array(rows[places]))
        ranks = pc.rank(values, sort_keys="ascending", tiebreaker="dense").to_numpy(zero_copy_only=False).astype(np.int64)
        return np.where(values.is_null().to_numpy(zero_copy_only=False), 0, ranks)

    return rank


def _break_ties(order: Ints, marks: Ints, breakers: Sequence[Callable[[Ints], Ints]]) -> Ints:
    """The order, with equal marks (sorted) ordered by the first breaker, what is equal in that by the second, and so on."""
    order = order.copy()
    same = np.concatenate(([False], marks[1:] == marks[:-1]))[: len(order)]
    for breaker in breakers:
        tied = np.flatnonzero(same | np.append(same[1:], [False])[: len(order)])
        if len(tied) == 0:
            break
        group, places = np.cumsum(~same[tied]), order[tied]
        keys = breaker(places)
        sort = np.lexsort((keys, group))
        order[tied], keys = places[sort], keys[sort]
        same[tied[1:]] = (group[1:] == group[:-1]) & (keys[1:] == keys[:-1])
    return order
