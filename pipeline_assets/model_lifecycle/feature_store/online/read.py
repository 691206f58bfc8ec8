"""Reads features from the online store: all views of a model for any number of keys in one query, each value with its status.

Most keys are answered by finished values. Of the others the packed state comes with them: where a window has moved on since, or where a
question is asked a little behind the newest that came. What it says is remembered while nobody writes that
state anew and no window moves on. A process that answers many questions keeps finished values too (`kept_values`).
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_assets.core.online_errors import BehindState
from pipeline_assets.model_lifecycle.feature_store.online.codec import unpacked
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feed_of
from pipeline_assets.model_lifecycle.feature_store.online.finished import Forms, finished_at, nothing
from pipeline_assets.model_lifecycle.feature_store.online.kept_values import Known, Notes, Value
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, microseconds
from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.model_lifecycle.feature_store.online.rows import joined_keys, key_texts
from pipeline_assets.model_lifecycle.feature_store.online.source import Asked, Found, Row, Source, Wanted
from pipeline_assets.processing.features.arrays import KIND_OF, Defaults, FeatureArrays, side_by_side
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import DECISION_AT, Ints, instants
from pipeline_assets.processing.features.request import request_arrays
from pipeline_assets.processing.features.timeline import NEVER
from pipeline_assets.spec.features import Entity, FeatureView, RequestFeature

# Of each view: so many values of some hundred bytes.
MOST_REMEMBERED = 20_000
Status = Literal["fresh", "stale", "default", "unknown"]


class _Remembered(NamedTuple):
    """Values that were made from a version of a state, and from when on and until when they hold."""

    version: str
    since: int
    until: int
    value: bytes


@dataclass(frozen=True, kw_only=True)
class Served:
    """Features of some questions: those of each view, then those of the request; of each view the status of each question.

    positions: by the name of each feed that was read, how far it had followed its source. known_to: of each view the newest time that
    something was known at, in microseconds; None where nothing came yet.

    `fresh`: the feed has followed its source to within the promised freshness of the moment; `stale`: it has not; `unknown`: nothing was
    ever known of the entity, and features have their empty values. A single feature that is null or has its default, or 0 of no rows, has
    status `default`.
    """

    arrays: FeatureArrays
    statuses: Mapping[str, list[Status]]
    known_to: Mapping[str, int | None]
    positions: Mapping[str, Position]

    @cached_property
    def features(self) -> pa.Table:
        """The features as columns of a table."""
        return self.arrays.table()

    def status_of(self, view: FeatureView, feature: str) -> list[Status]:
        """The status of each value of a feature."""
        empty = next(column.nothing for column in view_columns(view) if column.name == feature)
        values = self.features[feature].to_pylist()
        of_view = self.statuses[view.name]
        return ["default" if one != "unknown" and value == empty else one for one, value in zip(of_view, values, strict=True)]

    def counts(self) -> dict[str, Counter[str]]:
        """How many questions have each status, by view."""
        return {view: Counter(statuses) for view, statuses in self.statuses.items()}


@dataclass(frozen=True, kw_only=True)
class _Questions:
    """Questions, and what is asked of the store for them."""

    requests: pa.Table
    at: Ints
    asked: Mapping[Entity, Asked]
    remembered: "Mapping[str, list[_Remembered | None]]"
    wanted: Sequence[Sequence[Wanted]]
    known: Sequence[Known | None]
    turns: Sequence[int]

    @property
    def are_known(self) -> bool:
        """Whether nothing has to be asked of the store."""
        return None not in self.known


NOTHING_KNOWN = Value(-NEVER, NEVER, None)
NOTHING_ASKED: tuple[Found, list[Position]] = {}, []
Ask = Callable[[Sequence[Sequence[Wanted]]], Awaitable[tuple[Found, list[Position]]]]


class Reader:
    """Reads views from a store, and features of the request."""

    def __init__(
        self, source: Source, views: Sequence[FeatureView], request: Sequence[RequestFeature] = (), notes: Notes | None = None
    ) -> None:
        self.source, self.views, self.request, self._notes = source, tuple(views), tuple(request), notes
        self._kept = [] if notes is None else notes.of(source.feeds)
        self._read = [_view(source.feeds.index(feed), feed, view) for view, feed in ((view, feed_of(source.feeds, view)) for view in views)]
        self._by_feed = [[one for one in self._read if one.number == number] for number in range(len(source.feeds))]
        columns = [column for view in views for column in view_columns(view)]
        self._defaults, self._names = Defaults(columns), tuple(column.name for column in columns)
        self._kinds = tuple(KIND_OF[column.dtype] for column in columns)
        self._entities = tuple(dict.fromkeys(view.entity for view in views))
        self._forms = Forms([one.layout for one in self._read])

    def of(self, source: Source) -> "Reader":
        """The same from another source of the same states."""
        other = copy(self)
        other.source = source
        return other

    def read(self, requests: pa.Table) -> Served:
        """The features of each row: entity keys of the views, `decision_at` (aware) and the columns of the request, in any order.

        Raises TableMismatch for a column that is missing or naive, BehindState for a time that a state no longer knows.
        """
        asked = self._asked(requests)
        return self._served(asked, *(NOTHING_ASKED if asked.are_known else self.source.ask(asked.wanted)))

    async def awaited(self, requests: pa.Table, ask: Ask) -> Served:
        """As `read`, of a source that is asked in another way."""
        asked = self._asked(requests)
        return self._served(asked, *(NOTHING_ASKED if asked.are_known else await ask(asked.wanted)))

    def _asked(self, requests: pa.Table) -> _Questions:
        at = instants(requests, "requests", DECISION_AT)
        times = at.tolist()
        texts = {key: key_texts(requests, "requests", key) for entity in self._entities for key in entity.keys}
        asked = {entity: _asked(joined_keys([texts[key] for key in entity.keys]), times) for entity in self._entities}
        turns, known = [kept.turn for kept in self._kept], self._known(asked)
        remembered = {one.view.name: _remembered(one, asked[one.view.entity]) for one in self._read if known[one.number] is None}
        wanted = [[] if one else _wanted(views, asked, remembered) for one, views in zip(known, self._by_feed, strict=True)]
        return _Questions(requests=requests, at=at, asked=asked, remembered=remembered, wanted=wanted, known=known, turns=turns)

    def _known(self, asked: Mapping[Entity, Asked]) -> list[Known | None]:
        """Of each feed what is kept of all that is asked of it."""
        if self._notes is None:
            return [None] * len(self.source.feeds)
        self._notes.are_needed()
        return [
            kept.known({one.slot: asked[one.view.entity] for one in views}) for kept, views in zip(self._kept, self._by_feed, strict=True)
        ]

    def _served(self, questions: _Questions, found: Found, read: Sequence[Position]) -> Served:
        at, values, statuses = questions.at, list[list[bytes]](), dict[str, list[Status]]()
        times = at.tolist()
        positions = [read[number] if one is None else one.position for number, one in enumerate(questions.known)]
        for one in self._read:
            asked, known = questions.asked[one.view.entity], questions.known[one.number]
            if known is None:
                rows, remembered = found.get((one.number, one.slot), []), questions.remembered[one.view.name]
                values.append(_values(one, asked, rows, remembered, at))
                self._keep(one, questions, positions[one.number], rows)
            else:
                of_keys = [one.nothing if value is None else value for value in (*known.values[one.slot], None)]
                values.append([of_keys[key] for key in asked.key])
            statuses[one.view.name] = _statuses(one, values[-1], positions[one.number].watermark, times)
        known_to = {one.view.name: positions[one.number].watermark for one in self._read}
        seen = {position.feed: position for position in positions}
        return Served(arrays=self._features(values, at, questions.requests), statuses=statuses, known_to=known_to, positions=seen)

    def _keep(self, view: "_View", questions: _Questions, position: Position, rows: Sequence[Row]) -> None:
        """Keeps what the store gave for the keys of a view, as far as it says for how long that holds."""
        if not self._kept:
            return
        asked, remembered = questions.asked[view.view.entity], questions.remembered[view.view.name]
        found: dict[tuple[int, str], Value] = {(view.slot, key): NOTHING_KNOWN for key in asked.keys}
        for row in rows:
            key, known = asked.keys[row.place], remembered[row.place]
            opened = view.remembered.get(key) if row.state is not None else known if row.value is None else None
            if opened is not None:
                found[view.slot, key] = Value(opened.since, opened.until, opened.value)
            elif row.value is not None and row.holds is not None:
                found[view.slot, key] = Value(*row.holds, row.value)
            else:
                del found[view.slot, key]
        self._kept[view.number].keep(questions.turns[view.number], position, found)

    def _features(self, values: Sequence[Sequence[bytes]], at: Ints, requests: pa.Table) -> FeatureArrays:
        """The features that finished values are, and those of the request."""
        found = self._forms.answers(values, at)
        of_views = FeatureArrays(names=self._names, kinds=self._kinds, bits=found.bits, present=found.present, texts=found.texts)
        of_views = self._defaults.fill(of_views)
        return side_by_side([of_views, request_arrays(self.request, requests)]) if self.request else of_views


@dataclass(frozen=True, kw_only=True)
class _View:
    """A view that is read: in which part of the query its rows are, and as which slot.

    nothing: the value of an entity of which nothing is known. freshness: what the view promises, in microseconds.
    remembered: of some keys the values that their states were opened for. Where no event comes, a window moves on for each key once in a
    hop, so that a key is opened as often however often it is asked for.
    """

    number: int
    slot: int
    layout: Layout
    nothing: bytes
    freshness: int
    remembered: dict[str, _Remembered] = field(default_factory=dict)

    @property
    def view(self) -> FeatureView:
        return self.layout.view


def _wanted(views: Sequence[_View], asked: Mapping[Entity, Asked], remembered: Mapping[str, list[_Remembered | None]]) -> list[Wanted]:
    """What is asked for of the views of one feed."""
    versions = ([None if known is None else known.version for known in remembered[one.view.name]] for one in views)
    return [Wanted(slot=one.slot, asked=asked[one.view.entity], versions=each) for one, each in zip(views, versions, strict=True)]


def _view(number: int, feed: Feed, view: FeatureView) -> _View:
    slot, layout = next((slot, layout) for slot, layout in enumerate(feed.layouts) if layout.view == view)
    return _View(number=number, slot=slot, layout=layout, nothing=nothing(layout), freshness=microseconds(view.freshness))


def _asked(texts: Sequence[str | None], at: Sequence[int]) -> Asked:
    numbers: dict[str, int] = {}
    # No text of Postgres has a NUL, so nothing is known of such a key.
    key = [-1 if text is None or "\0" in text else numbers.setdefault(text, len(numbers)) for text in texts]
    if at and at.count(at[0]) == len(at):
        times = [at[0]] * len(numbers)
        return Asked(keys=list(numbers), key=key, first=times, last=times)
    first, last = [NEVER] * len(numbers), [-NEVER] * len(numbers)
    for number, time in zip(key, at, strict=True):
        if number >= 0:
            first[number], last[number] = min(first[number], time), max(last[number], time)
    return Asked(keys=list(numbers), key=key, first=first, last=last)


def _remembered(view: _View, asked: Asked) -> list[_Remembered | None]:
    """For each key what is remembered of it, where that holds at all times that are asked for."""
    known = map(view.remembered.get, asked.keys)
    return [
        one if one is not None and first >= one.since and last < one.until else None
        for one, first, last in zip(known, asked.first, asked.last, strict=True)
    ]


def _values(view: _View, asked: Asked, rows: Sequence[Row], remembered: Sequence[_Remembered | None], at: Ints) -> list[bytes]:
    """What a view says to each question."""
    # Of each key its value; the last is that of no key.
    of_keys, opened = [view.nothing] * (len(asked.keys) + 1), list[Row]()
    for row in rows:
        known = remembered[row.place]
        if row.state is not None:
            opened.append(row)
        elif row.value is not None:
            of_keys[row.place] = row.value
        elif known is not None:
            of_keys[row.place] = known.value
    values = [of_keys[key] for key in asked.key]
    if opened:
        _open(view, asked, opened, at, values)
    return values


def _open(view: _View, asked: Asked, rows: Sequence[Row], at: Ints, values: list[bytes]) -> None:
    """Puts the values that states make, each once for a time, in the places of their questions, and has them remembered."""
    states_of = np.full(len(asked.keys) + 1, -1)
    states_of[[row.place for row in rows]] = np.arange(len(rows))
    of_questions = states_of[asked.key]
    questions = np.flatnonzero(of_questions >= 0)
    pairs, which = np.unique(np.stack([of_questions[questions], at[questions]]), axis=1, return_inverse=True)
    own, times = [rows[place] for place in pairs[0]], pairs[1]
    states = unpacked(view.layout, [row.state for row in own])
    for place in np.flatnonzero(times < states.base_at):
        raise BehindState(view.view.name, asked.keys[own[place].place], int(times[place]), int(states.base_at[place]))
    done = finished_at(view.layout, states, times)
    for question, made in zip(questions.tolist(), which.reshape(-1).tolist(), strict=True):
        values[question] = done.values[made]
    for row, *known in zip(own, done.since.tolist(), done.until.tolist(), done.values, strict=True):
        view.remembered.pop(asked.keys[row.place], None)
        view.remembered[asked.keys[row.place]] = _Remembered(row.version, *known)
    for key in list(islice(view.remembered, max(0, len(view.remembered) - MOST_REMEMBERED))):
        view.remembered.pop(key, None)


def _statuses(view: _View, values: Sequence[bytes], watermark: int | None, at: Sequence[int]) -> list[Status]:
    fresh_until = -NEVER if watermark is None else watermark + view.freshness
    unknown = view.nothing
    return ["unknown" if value is unknown else "fresh" if time <= fresh_until else "stale" for value, time in zip(values, at, strict=True)]
