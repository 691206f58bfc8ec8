"""Reads features from the online store: all views of a model for any number of keys in one query, each value with its status.

Most keys are answered by finished values. Of the others the packed state comes with them: where a window has moved on since, or where a
question is asked a little behind the newest that came.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from psycopg import sql

from pipeline_assets.core.online_errors import BehindState
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.answers import features_at, moment_of
from pipeline_assets.model_lifecycle.feature_store.online.codec import unpacked
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feed_of
from pipeline_assets.model_lifecycle.feature_store.online.finished import outputs_of, restored
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, microseconds
from pipeline_assets.model_lifecycle.feature_store.online.position import Position, position_of
from pipeline_assets.model_lifecycle.feature_store.online.rows import entity_texts
from pipeline_assets.model_lifecycle.feature_store.online.store import Kept
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import DECISION_AT, Ints, instants
from pipeline_assets.processing.features.request import request_features
from pipeline_assets.spec.features import FeatureView, RequestFeature

if TYPE_CHECKING:
    import psycopg

Status = Literal["fresh", "stale", "default", "unknown"]
# In one statement with the states, so that the position is the one of exactly these states.
ASKED = """
    select {number}, q.slot, q.place, held.value,
        case when q.at >= held.since and q.at < held.until then null else held.state end,
        null::bigint, null::bigint, null::boolean, null::jsonb
    from unnest(%s::smallint[], %s::integer[], %s::text[], %s::bigint[]) as q (slot, place, key, at)
    join {state} as held on held.view = q.slot and held.key = q.key
    union all
    select {number}, null, null, null, null, watermark, snapshot_id, is_between,
        (select jsonb_object_agg(partition, next_offset) from online.offsets where feed = {id})
    from online.feeds where id = {id}
"""


class _Row(NamedTuple):
    """What the query gives for one question of one view; `state` is None where the finished values hold."""

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
        parts = [
            sql.SQL(ASKED).format(number=sql.Literal(number), id=sql.Literal(one.id), state=one.state)
            for number, one in enumerate(self._kept)
        ]
        self._read = [
            _View(number, slot, layout)
            for number, one in enumerate(self._kept)
            for slot, layout in enumerate(one.feed.layouts)
            if layout.view in self.views
        ]
        self._names = [column.name for view in self.views for column in view_columns(view)]
        self._query = sql.SQL(" union all ").join(parts)

    def read(self, requests: pa.Table) -> Served:
        """The features of each row: entity keys of the views, `decision_at` (aware) and the columns of the request, in any order.

        Raises TableMismatch for a column that is missing or naive, BehindState for a time that a state no longer knows.
        """
        at = instants(requests, "requests", DECISION_AT)
        asked = [self._asked(kept, requests, at) for kept in self._kept]
        parameters = [part for one in asked for part in one]
        found: dict[tuple[int, int], dict[int, _Row]] = {}
        positions: dict[int, Position] = {}
        for number, slot, place, value, state, *stored in self.connection.execute(self._query, parameters, prepare=True, binary=True):
            if place is None:
                positions[number] = position_of(self._kept[number].feed, (stored[0], stored[1], stored[2], stored[3]))
            else:
                found.setdefault((number, slot), {})[place] = _Row(value, state)
        columns: dict[str, pa.Array] = {}
        statuses: dict[str, list[Status]] = {}
        known_to: dict[str, int | None] = {}
        for one in self._read:
            rows, watermark = found.get((one.number, one.slot), {}), positions[one.number].watermark
            columns |= one.answer(rows, at, requests)
            statuses[one.view.name] = [
                _status(one.view, watermark, asked) if place in rows else "unknown" for place, asked in enumerate(at.tolist())
            ]
            known_to[one.view.name] = watermark
        features = pa.table({name: columns[name] for name in self._names})
        if self.request:
            of_request = request_features(self.request, requests)
            features = pa.table([*features.columns, *of_request.columns], [*features.column_names, *of_request.column_names])
        seen = {position.feed: position for position in positions.values()}
        return Served(features=features, statuses=statuses, known_to=known_to, positions=seen)

    def _asked(self, kept: Kept, requests: pa.Table, at: Ints) -> tuple[list[int], list[int], list[str], list[int]]:
        slots, places, keys = list[int](), list[int](), list[str]()
        for slot, layout in enumerate(kept.feed.layouts):
            if layout.view not in self.views:
                continue
            texts = entity_texts(layout.view.entity, requests, "requests")
            # No text of Postgres has a NUL, so nothing is known of such a key.
            known = [(place, text) for place, text in enumerate(texts) if text is not None and "\0" not in text]
            slots += [slot] * len(known)
            places += [place for place, _ in known]
            keys += [text for _, text in known]
        return slots, places, keys, at[places].tolist()


class _View:
    """A view that is read: where its rows stand in the answer of the query, and what its features are made of."""

    def __init__(self, number: int, slot: int, layout: Layout) -> None:
        self.number, self.slot, self.layout, self.view = number, slot, layout, layout.view
        self.outputs = outputs_of(layout)
        types = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}
        # The features of one entity of which nothing is known.
        self.nothing = pa.table({column.name: pa.array([column.empty], types[column.dtype]) for column in view_columns(layout.view)})

    def answer(self, found: Mapping[int, _Row], at: Ints, requests: pa.Table) -> dict[str, pa.Array]:
        """The columns of the view; `found` has a row of the query for each question whose entity is known."""
        if len(at) == 0:
            return {name: self.nothing[name].chunk(0).slice(0, 0) for name in self.nothing.column_names}
        done = [place for place, row in found.items() if row.state is None]
        if len(done) == len(at):
            return restored(self.outputs, [found[place].value for place in range(len(at))], at)
        return self._mixed(found, done, at, requests)

    def _mixed(self, found: Mapping[int, _Row], done: list[int], at: Ints, requests: pa.Table) -> dict[str, pa.Array]:
        parts, order = list[pa.Table](), list[int]()
        if done:
            values = [found[place].value for place in done]
            parts.append(pa.table(restored(self.outputs, values, at[done])))
            order += done
        open_ = [place for place, row in found.items() if row.state is not None]
        if open_:
            blobs = [found[place].state for place in open_]
            parts.append(_from_states(self.layout, blobs, at[open_], requests.take(pa.array(open_))))
            order += open_
        missing = [place for place in range(len(at)) if place not in found]
        parts += [self.nothing] * len(missing)
        whole = pa.concat_tables(parts).take(pa.array(np.argsort([*order, *missing])))
        return {name: _flat(whole[name]) for name in whole.column_names}


def _from_states(layout: Layout, blobs: Sequence[bytes | None], at: Ints, requests: pa.Table) -> pa.Table:
    states = unpacked(layout, blobs)
    early = np.flatnonzero(at < states.base_at)
    if len(early):
        key = entity_texts(layout.view.entity, requests, "requests")[early[0]]
        raise BehindState(layout.view.name, str(key), int(at[early[0]]), int(states.base_at[early[0]]))
    return pa.table(features_at(moment_of(layout, states, at)))


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _status(view: FeatureView, watermark: int | None, at: int) -> Status:
    is_fresh = watermark is not None and at - watermark <= microseconds(view.freshness)
    return "fresh" if is_fresh else "stale"
