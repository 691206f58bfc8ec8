"""Reads features from the online store: all views of a model for any number of keys in one query, each value with its status.

Most keys are answered by finished values. Of the others the packed state comes with them: where a window has moved on since, or where a
question is asked a little behind the newest that came. What it says is remembered while nobody writes that
state anew and no window moves on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from psycopg import sql

from pipeline_assets.core.online_errors import BehindState
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.answers import Answers, no_answers
from pipeline_assets.model_lifecycle.feature_store.online.codec import unpacked
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feed_of
from pipeline_assets.model_lifecycle.feature_store.online.finished import finished_at, restored
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

# Of each view: so many values of some hundred bytes.
MOST_REMEMBERED = 20_000
Status = Literal["fresh", "stale", "default", "unknown"]
# In one statement with the states, so that the position is the one of exactly these states.
ASKED = """
    select {number}::integer, q.slot, q.place, case when held.xmin = q.version then null else held.value end,
        case when held.xmin = q.version or q.first >= held.since and q.last < held.until then null else held.state end, held.xmin::text,
        null::bigint, null::bigint, null::boolean, null::jsonb
    from unnest(%s::smallint[], %s::integer[], %s::text[], %s::bigint[], %s::bigint[], %s::xid[])
        as q (slot, place, key, first, last, version)
    join {state} as held on held.view = q.slot and held.key = q.key
    union all
    select {number}, null, null, null, null, null, watermark, snapshot_id, is_between,
        (select jsonb_object_agg(partition, next_offset) from online.offsets where feed = {id})
    from online.feeds where id = {id}
"""


class _Row(NamedTuple):
    """What the query gives for one key of one view.

    version: the transaction that wrote its state. value: None where that version was named, whose values are remembered. state: None there,
    and where the finished values hold at all times that are asked for.
    """

    place: int
    value: bytes | None
    state: bytes | None
    version: str


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
        remembered = {one.view.name: _known(one, asked[one.view.entity]) for one in self._read}
        found, positions = self._found(asked, remembered)
        answers, first, times = no_answers(self._outputs, len(at)), 0, at.tolist()
        statuses: dict[str, list[Status]] = {}
        for one in self._read:
            keys, rows = asked[one.view.entity], found.get((one.number, one.slot), [])
            is_known = _answer(answers, first, one, keys, _with_values(rows, remembered[one.view.name]), at)
            statuses[one.view.name] = _statuses(one.view, is_known.tolist(), positions[one.number].watermark, times)
            first += len(one.layout.outputs)
        features = answers.table(self._outputs)
        if self.request:
            of_request = request_features(self.request, requests)
            features = pa.table([*features.columns, *of_request.columns], [*features.column_names, *of_request.column_names])
        known_to = {one.view.name: positions[one.number].watermark for one in self._read}
        seen = {position.feed: position for position in positions}
        return Served(features=features, statuses=statuses, known_to=known_to, positions=seen)

    def _found(
        self, asked: "Mapping[Entity, _Asked]", remembered: "Mapping[str, list[_Remembered | None]]"
    ) -> tuple[dict[tuple[int, int], list[_Row]], list[Position]]:
        """The rows of the query by feed and slot, and the position of each feed."""
        parameters = [array for number in range(len(self._kept)) for array in _parameters(self._read, number, asked, remembered)]
        found: dict[tuple[int, int], list[_Row]] = {}
        stored: dict[int, tuple[int | None, int | None, bool, Mapping[str, int] | None]] = {}
        for row in self.connection.execute(self._query, parameters, prepare=True, binary=True).fetchall():
            if row[2] is None:
                stored[row[0]] = row[6], row[7], row[8], row[9]
            else:
                found.setdefault((row[0], row[1]), []).append(_Row(row[2], row[3], row[4], row[5]))
        return found, [position_of(one.feed, stored[number]) for number, one in enumerate(self._kept)]


@dataclass(frozen=True, kw_only=True)
class _View:
    """A view that is read: in which part of the query its rows are and as which slot, and what is said of an entity without rows.

    remembered: of some keys the values that their states were opened for. Where no event comes, a window moves on for each key once in a
    hop, so that a key is opened as often however often it is asked for.
    """

    number: int
    slot: int
    layout: Layout
    nothing: Answers
    remembered: dict[str, _Remembered] = field(default_factory=dict)

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


def _parameters(
    views: Sequence[_View], number: int, asked: Mapping[Entity, _Asked], remembered: Mapping[str, list[_Remembered | None]]
) -> list[str]:
    """The arrays that are asked for of one feed: slot, place of the key, key, first and last time, version."""
    each = [(one.slot, asked[one.view.entity]) for one in views if one.number == number]
    # No transaction has the number 0.
    versions = ["0" if known is None else known.version for view in views if view.number == number for known in remembered[view.view.name]]
    return [
        _array(slot for slot, own in each for _ in own.keys),
        _array(place for _, own in each for place in range(len(own.keys))),
        "{" + ",".join([_quoted(key) for _, own in each for key in own.keys]) + "}",
        _array(time for _, own in each for time in own.first),
        _array(time for _, own in each for time in own.last),
        "{" + ",".join(versions) + "}",
    ]


def _known(view: _View, asked: _Asked) -> list[_Remembered | None]:
    """For each key what is remembered of it, where that holds at all times that are asked for."""
    known = map(view.remembered.get, asked.keys)
    return [
        one if one is not None and first >= one.since and last < one.until else None
        for one, first, last in zip(known, asked.first, asked.last, strict=True)
    ]


def _array(numbers: Iterable[int]) -> str:
    """An array as Postgres writes it; psycopg takes several times as long for one."""
    return "{" + ",".join(map(str, numbers)) + "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _answer(answers: Answers, first: int, view: _View, asked: _Asked, rows: Sequence[_Row], at: Ints) -> Bools:
    """Puts what a view says into the answers, its features from the row `first` on; which questions are of a known entity."""
    answers.put(first, slice(None), view.nothing)
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


def _with_values(rows: Sequence[_Row], remembered: Sequence[_Remembered | None]) -> list[_Row]:
    """The rows with the values that are remembered of them."""
    return [row if row.value is not None or (own := remembered[row.place]) is None else row._replace(value=own.value) for row in rows]


def _open(view: _View, asked: _Asked, rows: Sequence[_Row], at: Ints, value: Ints, values: list[bytes]) -> None:
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
