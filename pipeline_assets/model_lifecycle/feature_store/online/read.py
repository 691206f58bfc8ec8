"""Reads features from the online store: all views of a model for any number of keys in one query, each value with its status.

Most keys are answered by finished values. Of the others the packed state comes with them: where a window has moved on since, or where a
question is asked a little behind the newest that came.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from psycopg import sql

from pipeline_assets.core.online_errors import BehindState
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.answers import Answers, features_at, moment_of, no_answers
from pipeline_assets.model_lifecycle.feature_store.online.codec import unpacked
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feed_of
from pipeline_assets.model_lifecycle.feature_store.online.finished import restored
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, microseconds
from pipeline_assets.model_lifecycle.feature_store.online.position import Position, position_of
from pipeline_assets.model_lifecycle.feature_store.online.rows import entity_texts
from pipeline_assets.model_lifecycle.feature_store.online.store import Kept
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import DECISION_AT, Bools, Ints, instants
from pipeline_assets.processing.features.request import request_features
from pipeline_assets.processing.features.timeline import NEVER
from pipeline_assets.spec.features import Entity, FeatureView, RequestFeature

if TYPE_CHECKING:
    import psycopg

Status = Literal["fresh", "stale", "default", "unknown"]
# In one statement with the states, so that the position is the one of exactly these states.
ASKED = """
    select {number}::integer, q.slot, q.place, held.value,
        case when q.first >= held.since and q.last < held.until then null else held.state end,
        null::bigint, null::bigint, null::boolean, null::jsonb
    from unnest(%s::smallint[], %s::integer[], %s::text[], %s::bigint[], %s::bigint[]) as q (slot, place, key, first, last)
    join {state} as held on held.view = q.slot and held.key = q.key
    union all
    select {number}, null, null, null, null, watermark, snapshot_id, is_between,
        (select jsonb_object_agg(partition, next_offset) from online.offsets where feed = {id})
    from online.feeds where id = {id}
"""


class _Row(NamedTuple):
    """What the query gives for one key of one view; `state` is None where the finished values hold at all times that are asked for."""

    place: int
    value: bytes
    state: bytes | None


@dataclass(frozen=True, kw_only=True)
class Served:
    """Features of some questions: the columns of each view, then those of the request; of each view the status of each question.

    positions: by the name of each feed that was read, how far it had followed its source. known_to: of each view the newest time that
    something was known at, in microseconds; None where nothing came yet.

    `fresh`: the feed has followed its source to within the promised freshness of the moment; `stale`: it has not; `unknown`: nothing was
    ever known of the entity, and features have their empty values. A single feature that is null, or 0 of no rows, has status `default`.
    """

    features: pa.Table
    statuses: Mapping[str, list[Status]]
    known_to: Mapping[str, int | None]
    positions: Mapping[str, Position]

    def status_of(self, view: FeatureView, feature: str) -> list[Status]:
        """The status of each value of a feature."""
        empty = next(column.empty for column in view_columns(view) if column.name == feature)
        values = self.features[feature].to_pylist()
        of_view = self.statuses[view.name]
        return ["default" if one != "unknown" and value == empty else one for one, value in zip(of_view, values, strict=True)]

    def counts(self) -> dict[str, Counter[str]]:
        """How many questions have each status, by view."""
        return {view: Counter(statuses) for view, statuses in self.statuses.items()}


class Reader:
    """Reads the views of some feeds from a connection in autocommit, as they are live when it is made, and features of the request."""

    def __init__(
        self, connection: "psycopg.Connection", feeds: Sequence[Feed], views: Sequence[FeatureView], request: Sequence[RequestFeature] = ()
    ) -> None:
        self.connection, self.views, self.request = connection, tuple(views), tuple(request)
        kept = {feed: store.live(connection, feed) for feed in dict.fromkeys(feed_of(tuple(feeds), view) for view in views)}
        self._kept: tuple[Kept, ...] = tuple(kept.values())
        self._read = [_view(number, one, view) for view in views for number, one in enumerate(self._kept) if view in one.feed.views]
        self._outputs = tuple(output for one in self._read for output in one.layout.outputs)
        parts = [
            sql.SQL(ASKED).format(number=sql.Literal(number), id=sql.Literal(one.id), state=one.state)
            for number, one in enumerate(self._kept)
        ]
        self._query = sql.SQL(" union all ").join(parts).as_bytes(connection)

    def on(self, connection: "psycopg.Connection") -> "Reader":
        """The same on another connection in autocommit."""
        other = copy(self)
        other.connection = connection
        return other

    def read(self, requests: pa.Table) -> Served:
        """The features of each row: entity keys of the views, `decision_at` (aware) and the columns of the request, in any order.

        Raises TableMismatch for a column that is missing or naive, BehindState for a time that a state no longer knows.
        """
        at = instants(requests, "requests", DECISION_AT)
        asked = {entity: _asked(entity, requests, at) for entity in dict.fromkeys(one.view.entity for one in self._read)}
        found, positions = self._found(asked)
        answers, first, times = no_answers(self._outputs, len(at)), 0, at.tolist()
        statuses: dict[str, list[Status]] = {}
        for one in self._read:
            keys, rows = asked[one.view.entity], found.get((one.number, one.slot), [])
            is_known = _answer(answers, first, one, keys, rows, at)
            statuses[one.view.name] = _statuses(one.view, is_known.tolist(), positions[one.number].watermark, times)
            first += len(one.layout.outputs)
        features = answers.table(self._outputs)
        if self.request:
            of_request = request_features(self.request, requests)
            features = pa.table([*features.columns, *of_request.columns], [*features.column_names, *of_request.column_names])
        known_to = {one.view.name: positions[one.number].watermark for one in self._read}
        seen = {position.feed: position for position in positions}
        return Served(features=features, statuses=statuses, known_to=known_to, positions=seen)

    def _found(self, asked: "Mapping[Entity, _Asked]") -> tuple[dict[tuple[int, int], list[_Row]], list[Position]]:
        """The rows of the query by feed and slot, and the position of each feed."""
        parameters = [array for number in range(len(self._kept)) for array in _parameters(self._read, number, asked)]
        found: dict[tuple[int, int], list[_Row]] = {}
        stored: dict[int, tuple[int | None, int | None, bool, Mapping[str, int] | None]] = {}
        for row in self.connection.execute(self._query, parameters, prepare=True, binary=True).fetchall():
            if row[2] is None:
                stored[row[0]] = row[5], row[6], row[7], row[8]
            else:
                found.setdefault((row[0], row[1]), []).append(_Row(row[2], row[3], row[4]))
        return found, [position_of(one.feed, stored[number]) for number, one in enumerate(self._kept)]


@dataclass(frozen=True, kw_only=True)
class _View:
    """A view that is read: in which part of the query its rows are and as which slot, and what is said of an entity without rows."""

    number: int
    slot: int
    layout: Layout
    nothing: Answers

    @property
    def view(self) -> FeatureView:
        return self.layout.view


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The keys of an entity that some questions ask for, each once, with the first and the last time; of each question its key, or -1."""

    keys: list[str]
    key: Ints
    first: list[int]
    last: list[int]


def _view(number: int, kept: Kept, view: FeatureView) -> _View:
    slot, layout = next((slot, layout) for slot, layout in enumerate(kept.feed.layouts) if layout.view == view)
    nothing = no_answers(layout.outputs, 1)
    for row, column in enumerate(view_columns(view)):
        if column.empty is not None:
            nothing.bits[row], nothing.present[row] = column.empty, True
    return _View(number=number, slot=slot, layout=layout, nothing=nothing)


def _asked(entity: Entity, requests: pa.Table, at: Ints) -> _Asked:
    numbers: dict[str, int] = {}
    texts = entity_texts(entity, requests, "requests")
    # No text of Postgres has a NUL, so nothing is known of such a key.
    key = np.array([-1 if text is None or "\0" in text else numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
    first, last = np.full(len(numbers), NEVER), np.full(len(numbers), -NEVER)
    is_asked = key >= 0
    np.minimum.at(first, key[is_asked], at[is_asked])
    np.maximum.at(last, key[is_asked], at[is_asked])
    return _Asked(keys=list(numbers), key=key, first=first.tolist(), last=last.tolist())


def _parameters(views: Sequence[_View], number: int, asked: Mapping[Entity, _Asked]) -> list[str]:
    """The arrays that are asked for of one feed: slot, place of the key, key, first and last time."""
    each = [(one.slot, asked[one.view.entity]) for one in views if one.number == number]
    return [
        _array(slot for slot, own in each for _ in own.keys),
        _array(place for _, own in each for place in range(len(own.keys))),
        "{" + ",".join([_quoted(key) for _, own in each for key in own.keys]) + "}",
        _array(time for _, own in each for time in own.first),
        _array(time for _, own in each for time in own.last),
    ]


def _array(numbers: Iterable[int]) -> str:
    """An array as Postgres writes it; psycopg takes several times as long for one."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _answer(answers: Answers, first: int, view: _View, asked: _Asked, rows: Sequence[_Row], at: Ints) -> Bools:
    """Puts what a view says into the answers, its features from the row `first` on; which questions are of a known entity."""
    done, open_ = [row for row in rows if row.state is None], [row for row in rows if row.state is not None]
    is_known = np.zeros(len(at), np.bool_)
    answers.put(first, slice(None), view.nothing)
    for part in (done, open_):
        if not part:
            continue
        # Of each key its place among the rows; the last is that of no key.
        places = np.full(len(asked.keys) + 1, -1)
        places[[row.place for row in part]] = np.arange(len(part))
        own = places[asked.key]
        questions = np.flatnonzero(own >= 0)
        wanted = own[questions], at[questions]
        if part is done:
            answers.put(first, questions, restored(view.layout, [row.value for row in part], *wanted))
        else:
            answers.put(first, questions, _from_states(view.layout, asked, part, *wanted))
        is_known[questions] = True
    return is_known


def _from_states(layout: Layout, asked: _Asked, rows: Sequence[_Row], row: Ints, at: Ints) -> Answers:
    """What states say; one that is asked for several times as often at the same time is opened once."""
    pairs, which = np.unique(np.stack([row, at]), axis=1, return_inverse=True)
    states = unpacked(layout, [rows[one].state for one in pairs[0]])
    early = np.flatnonzero(pairs[1] < states.base_at)
    if len(early):
        place = early[0]
        raise BehindState(layout.view.name, asked.keys[rows[pairs[0, place]].place], int(pairs[1, place]), int(states.base_at[place]))
    return features_at(moment_of(layout, states, pairs[1])).take(which)


def _statuses(view: FeatureView, is_known: list[bool], watermark: int | None, at: list[int]) -> list[Status]:
    fresh_until = -NEVER if watermark is None else watermark + microseconds(view.freshness)
    return ["unknown" if not known else "fresh" if time <= fresh_until else "stale" for known, time in zip(is_known, at, strict=True)]
