"""Reads features from the online store: all views of a model for any number of keys in one query, each value with its status.

Most keys are answered by finished values. Of the others the packed state comes with them: where a window has moved on since, or where a
question is asked a little behind the newest that came. What it says is remembered while nobody writes that
state anew and no window moves on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_assets.core.online_errors import BehindState
from pipeline_assets.model_lifecycle.feature_store.online.answers import Answers, no_answers
from pipeline_assets.model_lifecycle.feature_store.online.codec import unpacked
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feed_of
from pipeline_assets.model_lifecycle.feature_store.online.finished import finished_at, restored
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, microseconds
from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.model_lifecycle.feature_store.online.rows import joined_keys, key_texts
from pipeline_assets.model_lifecycle.feature_store.online.source import Asked, Row, Source, Wanted
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import DECISION_AT, Bools, Ints, instants
from pipeline_assets.processing.features.defaults import with_defaults
from pipeline_assets.processing.features.request import request_features
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
    """Features of some questions: the columns of each view, then those of the request; of each view the status of each question.

    positions: by the name of each feed that was read, how far it had followed its source. known_to: of each view the newest time that
    something was known at, in microseconds; None where nothing came yet.

    `fresh`: the feed has followed its source to within the promised freshness of the moment; `stale`: it has not; `unknown`: nothing was
    ever known of the entity, and features have their empty values. A single feature that is null or has its default, or 0 of no rows, has
    status `default`.
    """

    features: pa.Table
    statuses: Mapping[str, list[Status]]
    known_to: Mapping[str, int | None]
    positions: Mapping[str, Position]

    def status_of(self, view: FeatureView, feature: str) -> list[Status]:
        """The status of each value of a feature."""
        empty = next(column.nothing for column in view_columns(view) if column.name == feature)
        values = self.features[feature].to_pylist()
        of_view = self.statuses[view.name]
        return ["default" if one != "unknown" and value == empty else one for one, value in zip(of_view, values, strict=True)]

    def counts(self) -> dict[str, Counter[str]]:
        """How many questions have each status, by view."""
        return {view: Counter(statuses) for view, statuses in self.statuses.items()}


class Reader:
    """Reads views from a store, and features of the request."""

    def __init__(self, source: Source, views: Sequence[FeatureView], request: Sequence[RequestFeature] = ()) -> None:
        self.source, self.views, self.request = source, tuple(views), tuple(request)
        self._read = [_view(source.feeds.index(feed), feed, view) for view, feed in ((view, feed_of(source.feeds, view)) for view in views)]
        self._defaults = [column for view in views for column in view_columns(view) if column.default is not None]
        self._entities = tuple(dict.fromkeys(view.entity for view in views))
        self._nothing = _nothing([one.layout for one in self._read])
        self._outputs = tuple(output for one in self._read for output in one.layout.outputs)

    def of(self, source: Source) -> "Reader":
        """The same from another source of the same states."""
        other = copy(self)
        other.source = source
        return other

    def read(self, requests: pa.Table) -> Served:
        """The features of each row: entity keys of the views, `decision_at` (aware) and the columns of the request, in any order.

        Raises TableMismatch for a column that is missing or naive, BehindState for a time that a state no longer knows.
        """
        at = instants(requests, "requests", DECISION_AT)
        texts = {key: key_texts(requests, "requests", key) for entity in self._entities for key in entity.keys}
        asked = {entity: _asked(joined_keys([texts[key] for key in entity.keys]), at) for entity in self._entities}
        remembered = {one.view.name: _known(one, asked[one.view.entity]) for one in self._read}
        found, positions = self.source.ask([self._wanted(number, asked, remembered) for number in range(len(self.source.feeds))])
        answers, first, times = self._nothing.take(np.zeros(len(at), np.int64)), 0, at.tolist()
        statuses: dict[str, list[Status]] = {}
        for one in self._read:
            keys, rows = asked[one.view.entity], found.get((one.number, one.slot), [])
            is_known = _answer(answers, first, one, keys, _with_values(rows, remembered[one.view.name]), at)
            statuses[one.view.name] = _statuses(one.view, is_known.tolist(), positions[one.number].watermark, times)
            first += len(one.layout.outputs)
        features = with_defaults(self._defaults, answers.table(self._outputs))
        if self.request:
            of_request = request_features(self.request, requests)
            features = pa.table([*features.columns, *of_request.columns], [*features.column_names, *of_request.column_names])
        known_to = {one.view.name: positions[one.number].watermark for one in self._read}
        seen = {position.feed: position for position in positions}
        return Served(features=features, statuses=statuses, known_to=known_to, positions=seen)

    def _wanted(self, number: int, asked: Mapping[Entity, Asked], remembered: Mapping[str, list[_Remembered | None]]) -> list[Wanted]:
        """What is asked for of one feed."""
        views = [one for one in self._read if one.number == number]
        versions = ([None if known is None else known.version for known in remembered[one.view.name]] for one in views)
        return [Wanted(slot=one.slot, asked=asked[one.view.entity], versions=each) for one, each in zip(views, versions, strict=True)]


@dataclass(frozen=True, kw_only=True)
class _View:
    """A view that is read: in which part of the query its rows are, and as which slot.

    remembered: of some keys the values that their states were opened for. Where no event comes, a window moves on for each key once in a
    hop, so that a key is opened as often however often it is asked for.
    """

    number: int
    slot: int
    layout: Layout
    remembered: dict[str, _Remembered] = field(default_factory=dict)

    @property
    def view(self) -> FeatureView:
        return self.layout.view


def _view(number: int, feed: Feed, view: FeatureView) -> _View:
    slot, layout = next((slot, layout) for slot, layout in enumerate(feed.layouts) if layout.view == view)
    return _View(number=number, slot=slot, layout=layout)


def _nothing(layouts: Sequence[Layout]) -> Answers:
    """What is said of an entity of which nothing is known."""
    answers = no_answers([output for layout in layouts for output in layout.outputs], 1)
    columns = [column for layout in layouts for column in view_columns(layout.view)]
    for row, column in enumerate(columns):
        if column.empty is not None:
            answers.bits[row], answers.present[row] = column.empty, True
    return answers


def _asked(texts: Sequence[str | None], at: Ints) -> Asked:
    numbers: dict[str, int] = {}
    # No text of Postgres has a NUL, so nothing is known of such a key.
    key = np.array([-1 if text is None or "\0" in text else numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
    if len(at) and at.min() == at.max():
        times = [int(at[0])] * len(numbers)
        return Asked(keys=list(numbers), key=key, first=times, last=times)
    first, last = np.full(len(numbers), NEVER), np.full(len(numbers), -NEVER)
    is_asked = key >= 0
    np.minimum.at(first, key[is_asked], at[is_asked])
    np.maximum.at(last, key[is_asked], at[is_asked])
    return Asked(keys=list(numbers), key=key, first=first.tolist(), last=last.tolist())


def _known(view: _View, asked: Asked) -> list[_Remembered | None]:
    """For each key what is remembered of it, where that holds at all times that are asked for."""
    known = map(view.remembered.get, asked.keys)
    return [
        one if one is not None and first >= one.since and last < one.until else None
        for one, first, last in zip(known, asked.first, asked.last, strict=True)
    ]


def _answer(answers: Answers, first: int, view: _View, asked: Asked, rows: Sequence[Row], at: Ints) -> Bools:
    """Puts what a view says into the answers, its features from the row `first` on; which questions are of a known entity."""
    # Of each key the place of its value; the last is that of no key.
    places, values = np.full(len(asked.keys) + 1, -1), list[bytes]()
    opened = [row for row in rows if row.state is not None]
    for row in rows:
        if row.state is None and row.value is not None:
            places[row.place] = len(values)
            values.append(row.value)
    value = places[asked.key]
    if opened:
        _open(view, asked, opened, at, value, values)
    is_known: Bools = value >= 0
    if values:
        questions = np.flatnonzero(is_known)
        answers.put(first, questions, restored(view.layout, values, value[questions], at[questions]))
    return is_known


def _with_values(rows: Sequence[Row], remembered: Sequence[_Remembered | None]) -> list[Row]:
    """The rows with the values that are remembered of them."""
    return [row if row.value is not None or (own := remembered[row.place]) is None else row._replace(value=own.value) for row in rows]


def _open(view: _View, asked: Asked, rows: Sequence[Row], at: Ints, value: Ints, values: list[bytes]) -> None:
    """Adds the values that states make, each once for a time, has them remembered, and names their places in `value`."""
    states_of = np.full(len(asked.keys) + 1, -1)
    states_of[[row.place for row in rows]] = np.arange(len(rows))
    questions = np.flatnonzero(states_of[asked.key] >= 0)
    pairs, which = np.unique(np.stack([states_of[asked.key[questions]], at[questions]]), axis=1, return_inverse=True)
    own, times = [rows[place] for place in pairs[0]], pairs[1]
    states = unpacked(view.layout, [row.state for row in own])
    for place in np.flatnonzero(times < states.base_at):
        raise BehindState(view.view.name, asked.keys[own[place].place], int(times[place]), int(states.base_at[place]))
    done = finished_at(view.layout, states, times)
    value[questions] = len(values) + which.reshape(-1)
    values += done.values
    for row, *made in zip(own, done.since.tolist(), done.until.tolist(), done.values, strict=True):
        view.remembered.pop(asked.keys[row.place], None)
        view.remembered[asked.keys[row.place]] = _Remembered(row.version, *made)
    for key in list(islice(view.remembered, max(0, len(view.remembered) - MOST_REMEMBERED))):
        view.remembered.pop(key, None)


def _statuses(view: FeatureView, is_known: list[bool], watermark: int | None, at: list[int]) -> list[Status]:
    fresh_until = -NEVER if watermark is None else watermark + microseconds(view.freshness)
    return ["unknown" if not known else "fresh" if time <= fresh_until else "stale" for known, time in zip(is_known, at, strict=True)]
